//! Credentials go to the registry that they are for and to its token server only, wherever redirects lead.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "shared with other tests")]
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use image::{Credentials, Error};
use support::{Registry, Reply, Seen, Store, content, credentials};

const BASIC: &str = "Basic c29tZWJvZHk6cGFzcy14";

/// The credentials in each of their forms.
fn forms() -> [Credentials; 3] {
    let identity = Credentials { identity_token: "identity-x".to_owned(), ..Credentials::default() };
    let token = Credentials { registry_token: "registry-x".to_owned(), ..Credentials::default() };
    [credentials(), identity, token]
}

fn is_secret(seen: &Seen) -> bool {
    seen.header("authorization").is_some() || seen.header("x-team").is_some() || seen.body.contains("identity-x")
}

/// Writes the hosts.toml of a registry.
fn configure(store: &Store, registry: &str, hosts: &str) {
    let directory = store.directory.path().join("certs.d").join(registry);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("hosts.toml"), hosts).unwrap();
}

/// A public registry whose blobs are on another host.
async fn redirecting(elsewhere: String) -> Registry {
    let content = content();
    Registry::start(move |seen| match seen.target.contains("/blobs/") {
        true => Reply::new(307, "").with("location", format!("http://{elsewhere}{}", seen.target)),
        false => content.answer(seen),
    })
    .await
}

#[tokio::test]
async fn a_host_that_a_registry_redirects_to_gets_no_credentials_whatever_it_asks_for() {
    for (scheme, form) in ["Basic", "Bearer"].into_iter().flat_map(|scheme| forms().map(|form| (scheme, form))) {
        let own = Arc::new(OnceLock::<String>::new());
        let address = Arc::clone(&own);
        let stranger = Registry::start(move |seen| match seen.target.starts_with("/token") {
            true => Reply::new(200, r#"{"token":"token-x"}"#),
            false => Reply::new(401, "")
                .with("www-authenticate", format!("{scheme} realm=\"http://{}/token\"", own.get().unwrap())),
        })
        .await;
        address.set(stranger.address.clone()).unwrap();
        let registry = redirecting(stranger.address.clone()).await;
        let store = Store::new();
        configure(&store, &registry.address, "[header]\nx-team = \"x\"\n");
        let error = store.images.pull(&format!("{}/t:1", registry.address), Some(form)).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error:?}");
        assert!(error.to_string().contains("redirects to 127.0.0.1, which asks for credentials"), "{error}");
        assert!(!stranger.seen().is_empty() && !stranger.seen().iter().any(is_secret), "{:?}", stranger.seen());
        assert_eq!(stranger.count("/token"), 0, "its token server is not asked");
        assert!(registry.seen().iter().all(|seen| seen.header("x-team").is_some()), "{:?}", registry.seen());
    }
}

#[tokio::test]
async fn a_host_that_redirects_back_moves_no_credentials_either() {
    let own = Arc::new(OnceLock::<String>::new());
    let address = Arc::clone(&own);
    let stranger = Registry::start(move |seen| {
        Reply::new(307, "").with("location", format!("http://{}/moved{}", own.get().unwrap(), seen.target))
    })
    .await;
    let (elsewhere, content) = (stranger.address.clone(), content());
    let registry =
        Registry::start(move |seen| match (seen.target.starts_with("/moved"), seen.header("authorization")) {
            (false, Some(BASIC)) if seen.target.contains("/blobs/") => {
                Reply::new(307, "").with("location", format!("http://{elsewhere}{}", seen.target))
            }
            (false, Some(BASIC)) => content.answer(seen),
            _ => Reply::new(401, "").with("www-authenticate", "Basic realm=x"),
        })
        .await;
    address.set(registry.address.clone()).unwrap();
    let store = Store::new();
    configure(&store, &registry.address, "[header]\nx-team = \"x\"\n");
    let error = store.images.pull(&format!("{}/t:1", registry.address), Some(credentials())).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    let moved: Vec<_> = registry.seen().into_iter().filter(|seen| seen.target.starts_with("/moved")).collect();
    assert!(!moved.is_empty() && !moved.iter().any(is_secret), "{moved:?}");
    assert!(!stranger.seen().iter().any(is_secret), "{:?}", stranger.seen());
}

#[tokio::test]
async fn a_token_server_on_another_host_is_shown_the_credentials_when_the_registry_names_it() {
    let tokens = Registry::start(|seen| match seen.header("authorization") {
        Some(BASIC) => Reply::new(200, r#"{"Access_Token":"token-x"}"#),
        _ => Reply::new(401, ""),
    })
    .await;
    let (realm, content) = (format!("Bearer realm=\"http://{}/token\"", tokens.address), content());
    let registry = Registry::start(move |seen| match seen.header("authorization") {
        Some("Bearer token-x") => content.answer(seen),
        _ => Reply::new(401, "").with("www-authenticate", realm.clone()),
    })
    .await;
    let store = Store::new();
    configure(&store, &registry.address, "[header]\nx-team = \"x\"\n");
    store.images.pull(&format!("{}/t:1", registry.address), Some(credentials())).await.unwrap();
    assert_eq!(tokens.seen().len(), 1);
    assert!(tokens.seen()[0].header("x-team").is_none(), "the registry's headers are the registry's");
}

#[tokio::test]
async fn a_token_that_expires_in_the_middle_of_a_pull_is_replaced() {
    let (issued, used) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let issuing = Arc::clone(&issued);
    let tokens = Registry::start(move |_| {
        let number = issuing.fetch_add(1, Ordering::SeqCst) + 1;
        Reply::new(200, format!("{{\"token\":\"token-{number}\"}}"))
    })
    .await;
    let (realm, content, valid) =
        (format!("Bearer realm=\"http://{}/token\"", tokens.address), content(), issued.clone());
    let registry = Registry::start(move |seen| {
        let newest = format!("Bearer token-{}", valid.load(Ordering::SeqCst));
        // The first token is good for the index, the manifest and one blob.
        let is_worn_out = newest.ends_with("-1") && used.fetch_add(1, Ordering::SeqCst) > 3;
        match seen.header("authorization") {
            Some(shown) if shown == newest && !is_worn_out => content.answer(seen),
            _ => Reply::new(401, "").with("www-authenticate", realm.clone()),
        }
    })
    .await;
    Store::new().images.pull(&format!("{}/t:1", registry.address), None).await.unwrap();
    assert_eq!(tokens.seen().len(), 2, "one more serves all blobs");
}

/// A registry that asks for a password.
async fn asking() -> Registry {
    let content = content();
    Registry::start(move |seen| match seen.header("authorization") {
        Some(BASIC) => content.answer(seen),
        _ => Reply::new(401, "").with("www-authenticate", "Basic realm=x"),
    })
    .await
}

#[tokio::test]
async fn a_mirror_gets_the_credentials_that_name_it_and_no_others() {
    let (mirror, registry) = (asking().await, asking().await);
    for (address, is_mirrors) in
        [("", false), ("registry.example", false), (&registry.address, false), (&mirror.address, true)]
    {
        let store = Store::new();
        let hosts = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", registry.address, mirror.address);
        configure(&store, "registry.example", &hosts);
        let (mirrors, registrys) = (mirror.seen().len(), registry.seen().len());
        let named = Credentials { server_address: address.to_owned(), ..credentials() };
        store.images.pull("registry.example/a/b:1", Some(named)).await.unwrap();
        let shown = |registry: &Registry, before: usize| registry.seen()[before..].iter().any(is_secret);
        assert_eq!(shown(&mirror, mirrors), is_mirrors, "{address}");
        assert_eq!(shown(&registry, registrys), !is_mirrors, "{address}");
    }
}

#[tokio::test]
async fn a_pull_without_credentials_has_those_of_dockers_file() {
    let registry = asking().await;
    let store = Store::new();
    configure(&store, "registry.example", &format!("server = \"http://{}\"", registry.address));
    let file = store.directory.path().join("certs.d/config.json");
    for (auths, works) in [
        (r#"{"registry.example/a": {"auth": "c29tZWJvZHk6cGFzcy14"}}"#, true),
        (r#"{"registry.example/other": {"auth": "c29tZWJvZHk6cGFzcy14"}}"#, false),
    ] {
        std::fs::write(&file, format!("{{\"auths\": {auths}}}")).unwrap();
        let pulled = store.images.pull("registry.example/a/b:1", None).await;
        assert_eq!(pulled.is_ok(), works, "{pulled:?}");
    }
    let own = store.images.pull("registry.example/a/b:1", Some(credentials())).await;
    own.unwrap();
    std::fs::write(&file, "{").unwrap();
    let error = store.images.pull("registry.example/a/b:1", None).await.unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
}
