//! Protocol negotiation: from a request's headers to a protocol and the response's headers. Pure. The rules are those of
//! kubelet's streaming server (k8s.io/cri-streaming and k8s.io/streaming), which the clients were written against.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sha1::Digest as _;

use super::status::Format;
use super::websocket::Codec;

/// Lists a SPDY client's protocols in the request, and names the server's choice in the response.
const PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// Lists the server's protocols in the response when none of the client's is among them.
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// The GUID that is appended to a WebSocket client's key (RFC 6455, section 1.3).
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The protocol of an upgraded connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Exec and attach over SPDY.
    Spdy {
        /// How the error stream is written.
        format: Format,
        /// Whether a terminal's size has a stream.
        resize: bool,
    },
    /// Exec and attach over WebSocket.
    WebSocket {
        /// How the error channel is written.
        format: Format,
        /// How messages carry channels.
        codec: Codec,
    },
    /// Port-forward over SPDY.
    ForwardSpdy,
    /// Port-forward over SPDY over WebSocket.
    ForwardTunnel,
    /// Port-forward over the channels of a WebSocket, two for each port.
    ForwardWebSocket(Codec),
}

/// The response to a request that cannot be served.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// The text of the response.
    pub(super) text: String,
    /// Headers of the answer.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// The kind of a URL, which decides on the protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Exec or attach.
    Command,
    /// Port-forward.
    Forward,
}

const fn spdy(format: Format, resize: bool) -> Protocol {
    Protocol::Spdy { format, resize }
}

const fn websocket(format: Format, codec: Codec) -> Protocol {
    Protocol::WebSocket { format, codec }
}

const SPDY_COMMAND: &[(&str, Protocol)] = &[
    ("v4.channel.k8s.io", spdy(Format::Json, true)),
    ("v3.channel.k8s.io", spdy(Format::Text, true)),
    ("v2.channel.k8s.io", spdy(Format::Text, false)),
    ("channel.k8s.io", spdy(Format::Text, false)),
];

const SPDY_FORWARD: &[(&str, Protocol)] = &[("portforward.k8s.io", Protocol::ForwardSpdy)];

const WEBSOCKET_COMMAND: &[(&str, Protocol)] = &[
    ("v5.channel.k8s.io", websocket(Format::Json, Codec::BinaryWithClose)),
    ("v4.channel.k8s.io", websocket(Format::Json, Codec::Binary)),
    ("v4.base64.channel.k8s.io", websocket(Format::Json, Codec::Base64)),
    ("v3.channel.k8s.io", websocket(Format::Text, Codec::Binary)),
    ("v2.channel.k8s.io", websocket(Format::Text, Codec::Binary)),
    ("channel.k8s.io", websocket(Format::Text, Codec::Binary)),
    ("base64.channel.k8s.io", websocket(Format::Text, Codec::Base64)),
    ("", websocket(Format::Text, Codec::Binary)),
];

const WEBSOCKET_FORWARD: &[(&str, Protocol)] = &[
    ("SPDY/3.1+portforward.k8s.io", Protocol::ForwardTunnel),
    ("v4.channel.k8s.io", Protocol::ForwardWebSocket(Codec::Binary)),
    ("v4.base64.channel.k8s.io", Protocol::ForwardWebSocket(Codec::Base64)),
    ("", Protocol::ForwardWebSocket(Codec::Binary)),
];

/// Chooses the protocol, and makes the headers of the response that switches to it.
///
/// # Errors
/// The request has no upgrade, an unknown one, or no known protocol.
pub(super) fn negotiate(request: &HeaderMap, purpose: Purpose) -> Result<(Protocol, HeaderMap), Refusal> {
    let has = |name: HeaderName, wanted: &str| list(request, name).any(|value| value.eq_ignore_ascii_case(wanted));
    if !has(CONNECTION, "upgrade") {
        return Err(refusal(StatusCode::BAD_REQUEST, "unable to upgrade: the request asks for no upgrade"));
    }
    if has(UPGRADE, "websocket") {
        let known = if purpose == Purpose::Command { WEBSOCKET_COMMAND } else { WEBSOCKET_FORWARD };
        return negotiate_websocket(request, known);
    }
    if has(UPGRADE, "spdy/3.1") {
        let known = if purpose == Purpose::Command { SPDY_COMMAND } else { SPDY_FORWARD };
        return negotiate_spdy(request, known);
    }
    Err(refusal(StatusCode::BAD_REQUEST, "unable to upgrade: neither SPDY/3.1 nor websocket is asked for"))
}

fn negotiate_spdy(request: &HeaderMap, known: &[(&'static str, Protocol)]) -> Result<(Protocol, HeaderMap), Refusal> {
    let wanted: Vec<&str> = list(request, PROTOCOL).collect();
    if wanted.is_empty() {
        let text = "unable to upgrade: the header X-Stream-Protocol-Version names no protocol";
        return Err(refusal(StatusCode::BAD_REQUEST, text));
    }
    let Some((name, protocol)) = choose(&wanted, known) else {
        let mut refusal = unknown(&wanted, known);
        for (name, _) in known {
            refusal.headers.push((ACCEPTED, HeaderValue::from_static(name)));
        }
        return Err(refusal);
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(PROTOCOL, HeaderValue::from_static(name));
    Ok((protocol, headers))
}

fn negotiate_websocket(
    request: &HeaderMap,
    known: &[(&'static str, Protocol)],
) -> Result<(Protocol, HeaderMap), Refusal> {
    if request.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut refusal =
            refusal(StatusCode::UPGRADE_REQUIRED, "unable to upgrade: only WebSocket version 13 is known");
        refusal.headers.push((SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")));
        return Err(refusal);
    }
    let key = request.get(SEC_WEBSOCKET_KEY).filter(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == 16));
    let Some(key) = key else {
        return Err(refusal(StatusCode::BAD_REQUEST, "unable to upgrade: Sec-WebSocket-Key is not 16 bytes in base64"));
    };
    let mut wanted: Vec<&str> = list(request, SEC_WEBSOCKET_PROTOCOL).collect();
    if wanted.is_empty() {
        wanted.push("");
    }
    let (name, protocol) = choose(&wanted, known).ok_or_else(|| unknown(&wanted, known))?;
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept(key.as_bytes()));
    if !name.is_empty() {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok((protocol, headers))
}

/// Computes Sec-WebSocket-Accept (RFC 6455, section 4.2.2).
fn accept(key: &[u8]) -> HeaderValue {
    let digest = sha1::Sha1::new().chain_update(key).chain_update(WEBSOCKET_GUID).finalize();
    HeaderValue::try_from(STANDARD.encode(digest)).expect("base64 is fit for a header")
}

/// The first of the client's protocols that is known.
fn choose(wanted: &[&str], known: &[(&'static str, Protocol)]) -> Option<(&'static str, Protocol)> {
    wanted.iter().find_map(|wanted| known.iter().find(|(name, _)| name == wanted).copied())
}

/// The elements of a list header, which may be repeated.
fn list(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

fn unknown(wanted: &[&str], known: &[(&'static str, Protocol)]) -> Refusal {
    let known: Vec<&str> = known.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
    let text = format!(
        "unable to upgrade: unable to negotiate protocol: client supports {wanted:?}, server accepts {known:?}"
    );
    refusal(StatusCode::FORBIDDEN, &text)
}

/// A refusal without headers.
pub(super) fn refusal(status: StatusCode, text: &str) -> Refusal {
    Refusal { status, text: text.to_owned(), headers: Vec::new() }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

    use super::{Codec, Format, Protocol, Purpose, negotiate};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn websocket(protocols: &'static str) -> HeaderMap {
        let mut request = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]);
        if !protocols.is_empty() {
            request.insert("sec-websocket-protocol", HeaderValue::from_static(protocols));
        }
        request
    }

    #[test]
    fn spdy_takes_the_first_of_the_clients_protocols() {
        let mut request = headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]);
        for protocol in ["v9.channel.k8s.io", "v3.channel.k8s.io,v4.channel.k8s.io"] {
            request.append("x-stream-protocol-version", HeaderValue::from_static(protocol));
        }
        let (protocol, answer) = negotiate(&request, Purpose::Command).unwrap();
        assert_eq!(protocol, Protocol::Spdy { format: Format::Text, resize: true });
        assert_eq!(answer["x-stream-protocol-version"], "v3.channel.k8s.io");
        let refusal = negotiate(&request, Purpose::Forward).unwrap_err();
        assert_eq!(refusal.status, StatusCode::FORBIDDEN);
        assert_eq!(refusal.headers, [(super::ACCEPTED, HeaderValue::from_static("portforward.k8s.io"))]);
    }

    #[test]
    fn a_websocket_client_gets_the_answer_of_the_rfc() {
        let (protocol, answer) = negotiate(&websocket("v5.channel.k8s.io"), Purpose::Command).unwrap();
        assert_eq!(protocol, Protocol::WebSocket { format: Format::Json, codec: Codec::BinaryWithClose });
        assert_eq!(answer["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer["sec-websocket-protocol"], "v5.channel.k8s.io");
        let (protocol, answer) = negotiate(&websocket(""), Purpose::Command).unwrap();
        assert_eq!(protocol, Protocol::WebSocket { format: Format::Text, codec: Codec::Binary });
        assert!(!answer.contains_key("sec-websocket-protocol"));
        let (protocol, _) = negotiate(&websocket("SPDY/3.1+portforward.k8s.io"), Purpose::Forward).unwrap();
        assert_eq!(protocol, Protocol::ForwardTunnel);
    }

    #[test]
    fn what_cannot_be_upgraded_is_refused() {
        let forbidden = negotiate(&websocket("v6.channel.k8s.io"), Purpose::Command).unwrap_err();
        assert_eq!(forbidden.status, StatusCode::FORBIDDEN);
        let mut request = websocket("");
        request.insert("sec-websocket-version", HeaderValue::from_static("8"));
        assert_eq!(negotiate(&request, Purpose::Command).unwrap_err().status, StatusCode::UPGRADE_REQUIRED);
        let mut request = websocket("");
        request.insert("sec-websocket-key", HeaderValue::from_static("short"));
        assert_eq!(negotiate(&request, Purpose::Command).unwrap_err().status, StatusCode::BAD_REQUEST);
        for request in [
            headers(&[]),
            headers(&[("connection", "upgrade")]),
            headers(&[("connection", "upgrade"), ("upgrade", "h2c")]),
            headers(&[("connection", "upgrade"), ("upgrade", "SPDY/3.1")]),
        ] {
            assert_eq!(negotiate(&request, Purpose::Command).unwrap_err().status, StatusCode::BAD_REQUEST);
        }
    }
}
