//! The proxies of the environment: for every address but those on loopback, whoever leads there. The environment is the whole
//! process's: another one pulls.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "shared with other tests")]
mod support;
#[expect(dead_code, reason = "shared with other tests")]
#[path = "support/tls.rs"]
mod tls;

use std::process::Output;
use std::sync::{Arc, Mutex};

use support::{Registry, Reply, Store, content, serve};
use tls::{Secure, fixture};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Nobody has this name: without a proxy it is not found.
const NAME: &str = "-registry.example";
/// The address of a proxy that is down.
const NOBODY: &str = "http://127.0.0.1:1";

/// Writes a file beside the hosts.toml of `registry.example`, or that itself.
fn configure(store: &Store, name: &str, contents: impl AsRef<[u8]>) {
    let directory = store.directory.path().join("certs.d/registry.example");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(name), contents).unwrap();
}

/// Pulls in another process, with this environment and no other.
async fn pull(store: &Store, image: &str, environment: &[(&str, &str)]) -> (bool, String) {
    let mut command = support::workers().command("pull");
    command.arg(store.directory.path()).arg(image).env_clear();
    command.envs(environment.iter().copied());
    let pulled = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let Output { status, stderr, .. } = pulled.unwrap();
    (status.success(), String::from_utf8(stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_is_asked_for_what_a_registry_on_loopback_leads_to() {
    let proxied = content();
    let proxy = Registry::start(move |seen| match seen.target.contains("/token") {
        true => Reply::new(200, r#"{"token":"token-x"}"#),
        false => proxied.answer(seen),
    })
    .await;
    let content = content();
    let registry = Registry::start(move |seen| match seen.header("authorization") {
        Some(_) if seen.target.contains("/blobs/") => {
            Reply::new(307, "").with("location", format!("http://{NAME}{}", seen.target))
        }
        Some(_) => content.answer(seen),
        None => Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"http://{NAME}/token\"")),
    })
    .await;
    let address = format!("http://{}", proxy.address);
    let (pulled, said) = pull(&Store::new(), &format!("{}/t:1", registry.address), &[("HTTP_PROXY", &address)]).await;
    assert!(pulled, "{said}");
    assert!(proxy.seen().iter().all(|seen| seen.target.starts_with(&format!("http://{NAME}/"))), "{:?}", proxy.seen());
    assert_eq!((proxy.count("/token"), proxy.count("/blobs/")), (1, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_proxy_is_asked_for_what_is_on_loopback_whoever_leads_there() {
    let (blobs, content) = (serve(content()).await, content());
    let elsewhere = blobs.address.clone();
    let proxy = Registry::start(move |seen| match seen.target.contains("/blobs/") {
        true => Reply::new(307, "").with("location", format!("http://{elsewhere}/v2/t/blobs/{}", last(&seen.target))),
        false => content.answer(seen),
    })
    .await;
    let store = Store::new();
    configure(&store, "hosts.toml", format!("server = \"http://{NAME}\""));
    let address = format!("http://{}", proxy.address);
    let (pulled, said) = pull(&store, "registry.example/t:1", &[("HTTP_PROXY", &address)]).await;
    assert!(pulled, "{said}");
    assert_eq!((blobs.count("/blobs/"), blobs.count("http://")), (4, 0));
}

/// The last component of an address.
fn last(target: &str) -> &str {
    target.split('?').next().unwrap().rsplit('/').next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_at_fault_is_named_without_its_password() {
    let refusing = Registry::start(|_| Reply::new(407, "")).await;
    let asking = format!("http://user:pass-x@{}", refusing.address);
    for (scheme, variable, proxy, reason) in [
        ("http", "HTTP_PROXY", NOBODY, "refused"),
        ("https", "HTTPS_PROXY", NOBODY, "refused"),
        ("http", "HTTP_PROXY", &asking, "407 Proxy Authentication Required"),
        ("https", "HTTPS_PROXY", &asking, "proxy authorization required"),
    ] {
        let store = Store::new();
        configure(&store, "hosts.toml", format!("server = \"{scheme}://{NAME}\"\nskip_verify = true"));
        let (pulled, said) = pull(&store, "registry.example/t:1", &[(variable, proxy)]).await;
        let host = proxy.rsplit(['/', '@']).next().unwrap();
        let text = format!("cannot reach registry {NAME} through the proxy {host}: ");
        assert!(!pulled && said.contains(&text) && said.contains(reason), "{said}");
        assert!(!said.contains("pass-x"), "{said}");
    }
}

/// A proxy that connects whoever asks to this address; what it was asked for.
async fn tunnel(to: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (to, log) = (to.clone(), Arc::clone(&log));
            tokio::spawn(async move {
                let mut client = BufReader::new(stream);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    assert!(client.read_line(&mut head).await.unwrap() > 0, "the client hung up");
                }
                log.lock().unwrap().push(head.lines().next().unwrap().to_owned());
                let mut server = TcpStream::connect(to).await.unwrap();
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_of_https_is_asked_through_a_tunnel() {
    let registry = Secure::start(content(), "elsewhere", None).await;
    let (proxy, asked) = tunnel(registry.address.clone()).await;
    let store = Store::new();
    configure(&store, "hosts.toml", "server = \"https://elsewhere.example\"\nca = \"ca.crt\"");
    configure(&store, "ca.crt", std::fs::read(fixture("elsewhere.crt")).unwrap());
    let environment = [("HTTPS_PROXY", proxy.as_str()), ("HTTP_PROXY", NOBODY)];
    let (pulled, said) = pull(&store, "registry.example/t:1", &environment).await;
    assert!(pulled, "{said}");
    let asked = asked.lock().unwrap();
    assert!(asked.iter().all(|line| line == "CONNECT elsewhere.example:443 HTTP/1.1"), "{asked:?}");
}
