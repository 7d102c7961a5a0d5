//! Mirrors that are refused, black-holed or mute: another host follows after one dial time-out, and they are left alone for a
//! while. The registry of the image is always the last host.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "shared with other tests")]
mod support;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use image::Error;
use support::{Contents, Registry, Reply, Store, content, serve};

/// How long the mirrors of these tests are waited for.
const DIAL: Duration = Duration::from_millis(600);

/// Writes the hosts.toml of `registry.example`: mirrors in their order, then the registry itself.
fn configure(store: &Store, mirrors: &[&str], own: &str) {
    let directory = store.directory.path().join("certs.d/registry.example");
    std::fs::create_dir_all(&directory).unwrap();
    let mut text = format!("server = \"http://{own}\"\n");
    for mirror in mirrors {
        text.push_str(&format!("[host.\"http://{mirror}\"]\ndial_timeout = \"{}ms\"\n", DIAL.as_millis()));
    }
    std::fs::write(directory.join("hosts.toml"), text).unwrap();
}

async fn pull(store: &Store, tag: &str) -> Result<Duration, Error> {
    let started = Instant::now();
    store.images.pull(&format!("registry.example/a/b:{tag}"), None).await?;
    Ok(started.elapsed())
}

/// A port whose queue of connections is full: further ones are not answered.
fn black_hole() -> (TcpListener, Vec<std::net::TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
    let connect = |_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50)).ok();
    let waiting = (0..8).filter_map(connect).collect();
    (listener, waiting)
}

async fn mute() -> Registry {
    Registry::start(|_| Reply { status: 200, headers: Vec::new(), body: Contents::Silent }).await
}

#[tokio::test]
async fn a_mirror_that_does_not_answer_costs_one_dial_time_out_in_all() {
    let registry = serve(content()).await;
    let mute = mute().await;
    let (hole, _waiting) = black_hole();
    let hole = hole.local_addr().unwrap().to_string();
    for (mirror, expected) in [("127.0.0.1:1", Duration::ZERO), (&mute.address, DIAL), (&hole, DIAL)] {
        let store = Store::new();
        configure(&store, &[mirror], &registry.address);
        let (first, requests) = (pull(&store, "1").await.unwrap(), registry.seen().len());
        // A second time-out would be another whole one; a busy machine is slow, too.
        assert!(first >= expected && first < expected + DIAL * 2, "{mirror}: {first:?}");
        store.images.remove("registry.example/a/b:1").unwrap();
        let second = pull(&store, "2").await.unwrap();
        assert!(second < DIAL, "{mirror}: it is not asked again: {second:?}");
        assert!(registry.seen().len() > requests);
    }
    assert_eq!(mute.seen().len(), 1, "one manifest is asked for, and no layer");
}

#[tokio::test]
async fn a_mirror_whose_bytes_are_wrong_is_passed_over() {
    let (content, good) = (content(), serve(content()).await);
    let damaged = Registry::start(move |seen| {
        let mut reply = content.answer(seen);
        if let (Contents::Whole(bytes), true) = (&mut reply.body, seen.target.contains("/blobs/")) {
            *bytes.last_mut().unwrap() ^= 1;
        }
        reply
    })
    .await;
    let store = Store::new();
    configure(&store, &[&damaged.address], &good.address);
    pull(&store, "1").await.unwrap();
    // The configuration and three layers.
    assert_eq!(
        (damaged.count("/blobs/"), good.count("/blobs/")),
        (8, 4),
        "each is asked for all of a blob again, in turn"
    );
    let alone = Store::new();
    let error = alone.images.pull(&format!("{}/a/b:1", damaged.address), None).await.unwrap_err();
    assert!(error.to_string().contains(&format!("from {}", damaged.address)), "{error}");
}

#[tokio::test]
async fn a_mirror_that_leads_to_a_host_that_is_down_is_asked_for_one_blob() {
    let (content, good) = (content(), serve(content()).await);
    let leading = Registry::start(move |seen| match seen.target.contains("/blobs/") {
        true => Reply::new(307, "").with("location", format!("http://127.0.0.1:1{}", seen.target)),
        false => content.answer(seen),
    })
    .await;
    let store = Store::new();
    configure(&store, &[&leading.address], &good.address);
    pull(&store, "1").await.unwrap();
    assert_eq!((leading.count("/blobs/"), good.count("/blobs/")), (1, 4));
}

#[tokio::test]
async fn a_mirror_that_is_down_serves_again_when_nobody_else_does() {
    let mirror = serve(content()).await;
    let silent = Registry::start(|_| Reply::new(404, "")).await;
    let store = Store::new();
    configure(&store, &["127.0.0.1:1", &mirror.address], "127.0.0.1:1");
    pull(&store, "1").await.unwrap();
    // Every host counts as down but one that has nothing: the others are asked all the same.
    configure(&store, &["127.0.0.1:1"], &silent.address);
    let error = pull(&store, "2").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "the registry's own word counts: {error:?}");
}

#[tokio::test]
async fn a_mirror_that_has_answered_may_think_for_longer() {
    let content = content();
    let registry = serve(content.clone()).await;
    let mirror = Registry::start(move |seen| {
        if seen.target.contains("/blobs/") {
            std::thread::sleep(DIAL + DIAL / 2);
        }
        content.answer(seen)
    })
    .await;
    let store = Store::new();
    configure(&store, &[&mirror.address], &registry.address);
    pull(&store, "1").await.unwrap();
    assert_eq!((mirror.count("/blobs/"), registry.seen().len()), (4, 0));
}

#[tokio::test]
async fn the_only_host_is_asked_again_when_it_is_refused() {
    let store = Store::new();
    configure(&store, &[], "127.0.0.1:1");
    let started = Instant::now();
    let error = pull(&store, "1").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(started.elapsed() > Duration::from_secs(2), "three pauses");
}

/// The environment is the whole process's: another one pulls.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_the_environment_is_asked_but_not_for_what_no_proxy_names() {
    let proxy = serve(content()).await;
    for (no_proxy, asked) in [("", true), ("other.example,registry.example", false)] {
        let store = Store::new();
        // Nobody has this name: without the proxy it is not found.
        configure(&store, &[], "-registry.example");
        let mut command = support::workers().command("pull");
        command.arg(store.directory.path()).arg("registry.example/t:1").env_clear();
        let no_proxy = no_proxy.replace("registry.example", "-registry.example");
        command.env("HTTP_PROXY", format!("http://{}", proxy.address)).env("NO_PROXY", no_proxy);
        let status = tokio::task::spawn_blocking(move || command.status()).await.unwrap().unwrap();
        assert_eq!(status.success(), asked);
    }
    let asked = proxy.seen()[0].target.clone();
    assert!(asked.starts_with("http://-registry.example/v2/t/manifests/1?"), "{asked}");
}
