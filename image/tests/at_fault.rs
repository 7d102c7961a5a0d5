//! Whatever fails beside a registry that answers is named itself: the host that it redirects to, its token server, the address of a
//! layer. And the registry does not count as down for it.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "shared with other tests")]
mod support;

use std::time::Duration;

use image::Error;
use support::{Contents, Registry, Reply, Store, content, serve};

/// The address of a host that is down.
const NOBODY: &str = "127.0.0.1:1";

/// A registry whose blobs are on another host.
async fn redirecting(elsewhere: &str) -> Registry {
    let (content, elsewhere) = (content(), elsewhere.to_owned());
    Registry::start(move |seen| match seen.target.contains("/blobs/") {
        true => Reply::new(307, "").with("location", format!("http://{elsewhere}{}", seen.target)),
        false => content.answer(seen),
    })
    .await
}

/// A registry with a token server on another host.
async fn guarded(tokens: &str) -> Registry {
    let (content, challenge) = (content(), format!("Bearer realm=\"http://{tokens}/token\""));
    Registry::start(move |seen| match seen.header("authorization") {
        Some("Bearer token-x") => content.answer(seen),
        _ => Reply::new(401, "").with("www-authenticate", challenge.clone()),
    })
    .await
}

async fn answering(status: u16) -> Registry {
    Registry::start(move |_| Reply::new(status, "").with("retry-after", "0")).await
}

async fn failure(store: &Store, registry: &Registry) -> (Error, String) {
    let error = store.images.pull(&format!("{}/t:1", registry.address), None).await.unwrap_err();
    let said = host::chain(&error);
    (error, said)
}

async fn answering_or_nobody(status: Option<u16>) -> String {
    match status {
        Some(status) => answering(status).await.address,
        None => NOBODY.to_owned(),
    }
}

/// Whether an error is of its kind.
type Expected = fn(&Error) -> bool;

/// A pull from the registry R fails with this text of the other HOST.
async fn expect(registry: &Registry, other: &str, expected: Expected, text: &str) {
    let (error, said) = failure(&Store::new(), registry).await;
    assert!(expected(&error), "{error:?}");
    let text = text.replace("HOST", other).replace("registry R", &format!("registry {}", registry.address));
    let text = text.replace("R/t:1", &format!("{}/t:1", registry.address));
    assert!(said.contains(&text), "{said}\nlacks\n{text}");
}

#[tokio::test]
async fn a_host_that_a_registry_redirects_to_is_named_when_it_fails() {
    let table: [(Option<u16>, Expected, &str); 5] = [
        (
            None,
            |error| matches!(error, Error::Unavailable { .. }),
            "cannot reach HOST, to which registry R redirects: ",
        ),
        (
            Some(503),
            |error| matches!(error, Error::Unavailable { .. }),
            "HOST, to which registry R redirects, does not serve R/t:1 now: 503",
        ),
        (Some(418), |error| matches!(error, Error::Failed { .. }), "HOST, to which registry R redirects"),
        (
            Some(404),
            |error| matches!(error, Error::NotFound { .. }),
            " at HOST, to which registry R redirects, not found",
        ),
        (
            Some(403),
            |error| matches!(error, Error::Denied { .. }),
            ": HOST, to which registry R redirects, answers 403",
        ),
    ];
    for (status, expected, text) in table {
        let other = answering_or_nobody(status).await;
        expect(&redirecting(&other).await, &other, expected, text).await;
    }
}

#[tokio::test]
async fn a_token_server_is_named_when_it_fails_and_its_404_is_not_of_the_image() {
    let table: [(Option<u16>, Expected, &str); 4] = [
        (None, |error| matches!(error, Error::Unavailable { .. }), "cannot get a token from HOST for registry R: "),
        (
            Some(503),
            |error| matches!(error, Error::Unavailable { .. }),
            "cannot get a token from HOST for registry R: 503",
        ),
        (Some(404), |error| matches!(error, Error::Failed { .. }), "cannot get a token from HOST for registry R: 404"),
        (Some(401), |error| matches!(error, Error::Denied { .. }), "HOST, the token server of registry R, answers 401"),
    ];
    for (status, expected, text) in table {
        let other = answering_or_nobody(status).await;
        expect(&guarded(&other).await, &other, expected, text).await;
    }
}

#[tokio::test]
async fn a_silent_host_is_named_and_not_the_registry_that_leads_to_it() {
    let silent = || Registry::start(|_| Reply { status: 200, headers: Vec::new(), body: Contents::Silent });
    let stalled =
        || Registry::start(|_| Reply { status: 200, headers: Vec::new(), body: Contents::Stalled(b"{".to_vec()) });
    let asked = async |other: Registry| {
        let (store, beside) = (Store::impatient(), Store::impatient());
        let (guarded, redirecting) = (guarded(&other.address).await, redirecting(&other.address).await);
        let ((_, token), (_, blob)) = tokio::join!(failure(&store, &guarded), failure(&beside, &redirecting));
        assert!(token.starts_with(&format!("cannot get a token from {} for registry ", other.address)), "{token}");
        assert!(blob.contains(&format!("{}, to which registry ", other.address)), "{blob}");
    };
    tokio::join!(asked(silent().await), asked(stalled().await));
}

#[tokio::test]
async fn the_text_of_a_refusal_is_not_waited_for_without_end() {
    let trickle = |_: &_| Reply { status: 403, headers: Vec::new(), body: Contents::Trickling(b" ".repeat(4_000)) };
    let registry = Registry::start(trickle).await;
    let store = Store::impatient();
    // All of it takes 500 s.
    let (error, _) = tokio::time::timeout(Duration::from_secs(100), failure(&store, &registry)).await.unwrap();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
}

/// A mirror and then the registry: one that counts as down is asked last.
fn configure(store: &Store, mirror: &Registry, own: &Registry) {
    let directory = store.directory.path().join("certs.d/registry.example");
    std::fs::create_dir_all(&directory).unwrap();
    let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", own.address, mirror.address);
    std::fs::write(directory.join("hosts.toml"), text).unwrap();
}

#[tokio::test]
async fn a_registry_that_answers_is_not_down_for_another_hosts_failure() {
    for mirror in [redirecting(NOBODY).await, guarded(NOBODY).await] {
        let (store, own) = (Store::new(), serve(content()).await);
        configure(&store, &mirror, &own);
        store.images.pull("registry.example/t:1", None).await.unwrap();
        let asked = mirror.count("/manifests/2");
        store.images.pull("registry.example/t:2", None).await.unwrap();
        assert_eq!((asked, mirror.count("/manifests/2")), (0, 1), "it is the first to be asked again");
    }
}
