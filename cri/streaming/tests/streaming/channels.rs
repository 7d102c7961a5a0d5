//! WebSocket clients of another library (tungstenite), for messages that the real client library does not send.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::fixture::{Fixture, PATIENCE, parts};
use crate::raw_client::RawClient;

type Client = WebSocketStream<TcpStream>;

async fn connect(url: &str, protocol: &'static str) -> Client {
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(protocol));
    let socket = TcpStream::connect(parts(url).0).await.unwrap();
    tokio_tungstenite::client_async(request, socket).await.unwrap().0
}

/// All messages until the end; the first byte is the channel.
async fn rest(client: &mut Client) -> Vec<Message> {
    let mut all = Vec::new();
    while let Some(message) = timeout(PATIENCE, client.next()).await.unwrap() {
        match message.unwrap() {
            Message::Close(frame) => {
                assert_eq!(u16::from(frame.unwrap().code), 1000);
                break;
            }
            message => all.push(message),
        }
    }
    all
}

fn channel(all: &[Message], channel: u8) -> Vec<u8> {
    let messages = all.iter().map(|message| message.clone().into_data());
    messages.filter(|data| data[0] == channel).flat_map(|data| data[1..].to_vec()).collect()
}

#[tokio::test]
async fn a_long_message_is_copied_and_the_channel_is_ended() {
    let fixture = Fixture::new().await;
    let mut client = connect(&fixture.exec(&["copy"], true), "v5.channel.k8s.io").await;
    let (mut sink, mut source) = (&mut client).split();
    let mut sent = vec![0u8; 5 << 20];
    sent.iter_mut().zip(0u32..).for_each(|(byte, at)| *byte = u8::try_from(at % 253).unwrap());
    let message = Message::binary([&[0][..], &sent].concat());
    let send = async {
        sink.send(message).await.unwrap();
        sink.send(Message::binary(vec![0xff, 0])).await.unwrap();
    };
    let receive = async {
        let mut all = Vec::new();
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Close(_) => break,
                message => all.push(message),
            }
        }
        all
    };
    let ((), all) = timeout(PATIENCE, async { futures::join!(send, receive) }).await.unwrap();
    assert!(channel(&all, 1) == sent, "{} bytes came back", channel(&all, 1).len());
    assert_eq!(channel(&all, 3), br#"{"status":"Success"}"#);
    assert_eq!(all[0].clone().into_data().as_ref(), [1], "an empty message comes first");
}

#[tokio::test]
async fn base64_carries_channels_as_digits() {
    let fixture = Fixture::new().await;
    let mut client = connect(&fixture.exec(&["print", "hello"], true), "v4.base64.channel.k8s.io").await;
    let all = rest(&mut client).await;
    assert!(all.iter().all(Message::is_text), "{all:?}");
    assert_eq!(channel(&all, b'1'), STANDARD.encode("hello\n").as_bytes());
    assert_eq!(STANDARD.decode(channel(&all, b'3')).unwrap(), br#"{"status":"Success"}"#);
    let mut client = connect(&fixture.exec(&["copy"], true), "base64.channel.k8s.io").await;
    client.send(Message::text("0aGVsbG8=")).await.unwrap();
    client.next().await.unwrap().unwrap();
    let echo = client.next().await.unwrap().unwrap();
    assert_eq!(echo.into_text().unwrap().as_str(), "1aGVsbG8=");
}

#[tokio::test]
async fn a_command_that_the_server_ends_with_itself_ends_in_an_error() {
    let fixture = Fixture::new().await;
    let mut client = connect(&fixture.exec(&["block"], true), "v5.channel.k8s.io").await;
    // The empty message that begins every connection.
    client.next().await.unwrap().unwrap();
    let ((), all) = futures::join!(fixture.server.stop(), rest(&mut client));
    let status: serde_json::Value = serde_json::from_slice(&channel(&all, 3)).unwrap();
    assert_eq!(status["status"], "Failure", "{status}");
    assert!(status["message"].as_str().unwrap().contains("the server stopped"), "{status}");
}

#[tokio::test]
async fn pings_are_answered_between_messages() {
    let fixture = Fixture::new().await;
    let mut client = connect(&fixture.exec(&["copy"], true), "v4.channel.k8s.io").await;
    client.next().await.unwrap().unwrap();
    client.send(Message::Ping(b"are you there".to_vec().into())).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong(b"are you there".to_vec().into()));
}

#[tokio::test]
async fn ports_have_two_channels_each() {
    let fixture = Fixture::new().await;
    fixture.echo(80);
    let mut client = connect(&fixture.forward(&[80, 81]), "v4.channel.k8s.io").await;
    client.send(Message::binary(b"\x00hello".to_vec())).await.unwrap();
    let mut seen = vec![Vec::new(); 4];
    while seen[0].len() < 7 || seen[3].len() < 10 {
        let data = timeout(PATIENCE, client.next()).await.unwrap().unwrap().unwrap().into_data();
        seen[usize::from(data[0])].extend_from_slice(&data[1..]);
    }
    assert_eq!(seen[0], b"\x50\x00hello", "the port first, in little endian");
    assert_eq!(seen[1], b"\x50\x00");
    assert_eq!(seen[2], b"\x51\x00");
    assert!(String::from_utf8_lossy(&seen[3][2..]).starts_with("error forwarding port 81"));
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection() {
    let fixture = Fixture::new().await;
    for (name, protocol, bytes) in [
        ("no mask", "v4.channel.k8s.io", &[0x82, 1, 0][..]),
        ("a reserved bit", "v4.channel.k8s.io", &[0xc2, 0x80, 0, 0, 0, 0]),
        ("an unknown type", "v4.channel.k8s.io", &[0x87, 0x80, 0, 0, 0, 0]),
        ("a continuation of nothing", "v4.channel.k8s.io", &[0x80, 0x80, 0, 0, 0, 0]),
        ("a message within a message", "v4.channel.k8s.io", &[0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0]),
        ("a ping in pieces", "v4.channel.k8s.io", &[0x09, 0x80, 0, 0, 0, 0]),
        ("2^63 bytes", "v4.channel.k8s.io", &[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("no base64", "v4.base64.channel.k8s.io", &[0x81, 0x85, 0, 0, 0, 0, b'0', b'!', b'!', b'!', b'!']),
        ("an end of two channels", "v5.channel.k8s.io", &[0x82, 0x83, 0, 0, 0, 0, 0xff, 0, 1]),
    ] {
        let headers = format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n"
        );
        let (mut raw, answer) = RawClient::upgrade(&fixture.exec(&["block"], true), &headers).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        raw.socket.write_all(bytes).await.unwrap();
        let mut all = Vec::new();
        timeout(PATIENCE, raw.socket.read_to_end(&mut all)).await.unwrap().unwrap();
        // The empty message that begins every connection is one byte longer in base64's text, and then comes the close.
        assert!(all.ends_with(&[0x88, 2, 0x03, 0xea]), "{name}: {all:?}");
    }
}
