//! A host that asks to be left alone for a while is: a pull waits for a short while, and fails at once for a long one.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "shared with other tests")]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use image::Error;
use support::{Registry, Reply, Store, content, serve};

/// A date in the future, as a header has it: in whole seconds.
fn date(seconds: u64) -> String {
    httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(seconds))
}

async fn asking(pause: &str) -> Registry {
    let pause = pause.to_owned();
    Registry::start(move |_| Reply::new(429, "").with("retry-after", pause.clone())).await
}

#[tokio::test]
async fn a_registry_that_asks_for_a_long_pause_is_not_asked_again() {
    for (pause, said) in [("60", "it asks to wait 60 s"), (date(3_600).as_str(), "it asks to wait 3")] {
        let registry = asking(pause).await;
        let error = Store::new().images.pull(&format!("{}/t:1", registry.address), None).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        assert!(host::chain(&error).contains(said), "{}", host::chain(&error));
        assert_eq!(registry.seen().len(), 1);
    }
}

#[tokio::test]
async fn another_host_is_asked_at_once() {
    let (mirror, registry, store) = (asking("3600").await, serve(content()).await, Store::new());
    let directory = store.directory.path().join("certs.d/registry.example");
    std::fs::create_dir_all(&directory).unwrap();
    let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", registry.address, mirror.address);
    std::fs::write(directory.join("hosts.toml"), text).unwrap();
    store.images.pull("registry.example/t:1", None).await.unwrap();
    assert_eq!(mirror.count("/manifests/1"), 1);
}

#[tokio::test]
async fn a_date_is_waited_for() {
    let (content, until) = (content(), OnceLock::new());
    let patient = Arc::new(AtomicBool::new(true));
    let was_patient = Arc::clone(&patient);
    let registry = Registry::start(move |seen| {
        if until.get().is_none() {
            let date = date(2);
            until.set(httpdate::parse_http_date(&date).unwrap()).unwrap();
            return Reply::new(503, "").with("retry-after", date);
        }
        patient.fetch_and(SystemTime::now() >= *until.get().unwrap(), Ordering::Relaxed);
        content.answer(seen)
    })
    .await;
    Store::new().images.pull(&format!("{}/t:1", registry.address), None).await.unwrap();
    assert!(was_patient.load(Ordering::Relaxed), "it was asked before its time");
}
