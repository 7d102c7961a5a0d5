//! Hostile and broken registries and images: the pull fails and leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "shared with other tests")]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::Error;
use support::{Content, Contents, Registry, Reply, Store, content, credentials, layer, serve};

#[tokio::test]
async fn endless_answers_are_cut_off() {
    let manifest =
        Registry::start(|_| Reply { status: 200, headers: Vec::new(), body: Contents::Endless(vec![b' '; 1 << 16]) })
            .await;
    let store = Store::new();
    let error = store.images.pull(&format!("{}/t:1", manifest.address), None).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    let content = content();
    let blobs = Registry::start(move |seen| {
        let reply = content.answer(seen);
        if seen.target.contains("/blobs/") {
            Reply { body: Contents::Endless(vec![0; 1 << 16]), ..reply }
        } else {
            reply
        }
    })
    .await;
    let error = store.images.pull(&format!("{}/t:1", blobs.address), None).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    store.wait_until_empty().await;
}

#[tokio::test]
async fn a_registry_that_says_nothing_stalls_or_trickles_is_given_up_and_only_whole_blobs_stay() {
    let kinds: [fn(Vec<u8>) -> Contents; 3] =
        [|_| Contents::Silent, |bytes| Contents::Stalled(bytes[..1].to_vec()), Contents::Trickling];
    // Either limit may end a document, unless it trickles.
    let documents = [" 1 s", " 1 s", "it took longer than 1 s"];
    let blobs = ["it said nothing for 1 s", "it said nothing for 1 s", "bytes came in 1 s"];
    let cases = [("/manifests/", documents), ("/blobs/", blobs)];
    let cases =
        cases.into_iter().flat_map(|(part, reasons)| reasons.into_iter().zip(kinds).map(move |case| (part, case)));
    let given_up = cases.map(|(part, (reason, contents))| async move {
        let content = content();
        let registry = Registry::start(move |seen| {
            let reply = content.answer(seen);
            match reply.body {
                Contents::Whole(bytes) if seen.target.contains(part) => Reply { body: contents(bytes), ..reply },
                body => Reply { body, ..reply },
            }
        })
        .await;
        let store = Store::impatient();
        let error = store.images.pull(&format!("{}/t:1", registry.address), None).await.unwrap_err();
        let said = host::chain(&error);
        assert!(matches!(error, Error::Unavailable { .. }) && said.contains(reason), "{part}: {said}");
        assert!(registry.count(part) >= 4, "it is asked again before it is given up");
        store.wait_until_set_aside().await;
        store.wait_until_reclaimed().await;
    });
    futures::future::join_all(given_up).await;
}

#[tokio::test]
async fn a_registry_that_is_silent_once_is_asked_again() {
    let content = content();
    let asked = AtomicUsize::new(0);
    let registry = Registry::start(move |seen| match asked.fetch_add(1, Ordering::Relaxed) {
        0 | 2 => Reply { status: 200, headers: Vec::new(), body: Contents::Silent },
        _ => content.answer(seen),
    })
    .await;
    let store = Store::impatient();
    store.images.pull(&format!("{}/t:1", registry.address), None).await.unwrap();
}

#[tokio::test]
async fn a_layer_that_grows_without_bound_is_refused_and_nothing_stays() {
    // A file and the archive's end, then zeros, which the layer's digest would cover.
    let mut bomb = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    std::io::Write::write_all(&mut bomb, &layer(&[("a", "a")])).unwrap();
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 2 << 30), &mut bomb).unwrap();
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 1 << 20, "{}", bomb.len());
    let mut content = Content::default();
    let manifest = content.image("linux/amd64", &[(bomb, "")]);
    content.tag("1", &manifest);
    let registry = serve(content).await;
    let store = Store::new();
    let error = store.images.pull(&format!("{}/t:1", registry.address), None).await.unwrap_err();
    let said = host::chain(&error);
    assert!(matches!(error, Error::Invalid { .. }) && said.contains("grows to more than 1073741824 bytes"), "{said}");
    store.wait_until_empty().await;
}

#[tokio::test]
async fn indexes_that_lead_too_deep_are_refused() {
    let mut content = Content::default();
    let mut inner = content.image("linux/amd64", &[(layer(&[("a", "a")]), "")]);
    for depth in 1..=6 {
        inner = content.index(&[("linux/amd64", inner)]);
        content.tag(&depth.to_string(), &inner);
    }
    let registry = serve(content).await;
    let store = Store::new();
    store.images.pull(&format!("{}/t:2", registry.address), None).await.unwrap();
    let error = store.images.pull(&format!("{}/t:6", registry.address), None).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains("in a circle or too deep"), "{error}");
    assert!(registry.count("/manifests/") < 12, "it is not followed for ever");
}

#[tokio::test]
async fn a_registry_that_never_lets_in_is_not_asked_for_ever() {
    // It issues tokens and accepts none.
    let own = Arc::new(std::sync::OnceLock::<String>::new());
    let address = Arc::clone(&own);
    let registry = Registry::start(move |seen| match seen.target.starts_with("/token") {
        true => Reply::new(200, r#"{"token":"token-x"}"#),
        false => Reply::new(401, "")
            .with("www-authenticate", format!("Bearer realm=\"http://{}/token\"", own.get().unwrap())),
    })
    .await;
    address.set(registry.address.clone()).unwrap();
    let store = Store::new();
    let error = store.images.pull(&format!("{}/t:1", registry.address), Some(credentials())).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert!(registry.seen().len() < 6, "{:?}", registry.seen());
}
