//! Registries with certificates as the field has them (docs/field-cases.md).
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[expect(dead_code, reason = "shared with other tests")]
mod support;
#[path = "support/tls.rs"]
mod tls;

use std::fs;

use image::Error;
use support::{Content, Store, content, serve};
use tls::{Secure, fixture};

/// Writes a file of the configuration of a registry.
fn configure(store: &Store, registry: &str, name: &str, contents: impl AsRef<[u8]>) {
    let directory = store.directory.path().join("certs.d").join(registry);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(name), contents).unwrap();
}

/// Copies a fixture into the configuration of a registry.
fn give(store: &Store, registry: &str, name: &str, from: &str) {
    configure(store, registry, name, fs::read(fixture(from)).unwrap());
}

async fn pull(store: &Store, registry: &Secure) -> Result<image::Image, Error> {
    store.images.pull(&format!("{}/t:1", registry.address), None).await
}

/// The file of a registry by TLS on loopback, where plain HTTP is the default.
fn hosts(registry: &Secure, rest: &str) -> String {
    format!("server = \"https://{}\"\n{rest}\n", registry.address)
}

#[tokio::test]
async fn a_self_signed_certificate_that_is_its_own_authority_is_trusted_once_it_is_given() {
    let registry = Secure::start(content(), "own", None).await;
    let by_file = Store::new();
    give(&by_file, &registry.address, "ca.pem", "own.crt");
    configure(&by_file, &registry.address, "hosts.toml", hosts(&registry, "ca = \"ca.pem\""));
    pull(&by_file, &registry).await.unwrap();
    let in_a_host = Store::new();
    give(&in_a_host, &registry.address, "registry.crt", "own.crt");
    let host = format!(
        "[host.\"https://{}\"]\ncapabilities = [\"pull\", \"resolve\", \"push\"]\nca = \"registry.crt\"",
        registry.address
    );
    configure(&in_a_host, &registry.address, "hosts.toml", hosts(&registry, &host));
    pull(&in_a_host, &registry).await.unwrap();
    let as_docker_has_it = Store::new();
    give(&as_docker_has_it, &registry.address, "ca.crt", "own.crt");
    pull(&as_docker_has_it, &registry).await.unwrap();
    let unverified = Store::new();
    configure(&unverified, &registry.address, "hosts.toml", hosts(&registry, "skip_verify = true"));
    pull(&unverified, &registry).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_refused_at_once_with_the_cure() {
    let cases = [
        ("own", "", "`ca` in the registry's hosts.toml"),
        ("own", "ca = \"elsewhere.crt\"", "`ca` in the registry's hosts.toml"),
        ("elsewhere", "ca = \"elsewhere.crt\"", "for another name"),
    ];
    for (certificate, settings, cure) in cases {
        let registry = Secure::start(content(), certificate, None).await;
        let store = Store::new();
        give(&store, &registry.address, "elsewhere.crt", "elsewhere.crt");
        configure(&store, &registry.address, "hosts.toml", hosts(&registry, settings));
        let error = pull(&store, &registry).await.unwrap_err();
        let said = host::chain(&error);
        assert!(matches!(error, Error::Unavailable { .. }) && said.contains(cure), "{said} lacks {cure}");
        assert_eq!(registry.connections(), 1, "it is not tried again: {said}");
    }
}

#[tokio::test]
async fn a_server_of_plain_http_is_told_from_a_broken_one() {
    let registry = serve(content()).await;
    let store = Store::new();
    configure(&store, &registry.address, "hosts.toml", format!("server = \"https://{}\"\n", registry.address));
    let error = store.images.pull(&format!("{}/t:1", registry.address), None).await.unwrap_err();
    let said = host::chain(&error);
    assert!(said.contains("does not speak TLS") && said.contains("http://"), "{said}");
}

#[tokio::test]
async fn of_several_client_certificates_the_server_gets_one_that_it_accepts() {
    for wanted in ["one", "two"] {
        let registry = Secure::start(content(), "own", Some(&format!("ca-{wanted}.crt"))).await;
        let store = Store::new();
        give(&store, &registry.address, "ca.crt", "own.crt");
        let error = pull(&store, &registry).await.unwrap_err();
        let said = host::chain(&error);
        assert!(said.contains("`client` in the registry's hosts.toml"), "{said}");
        // As Docker has them, without a hosts.toml.
        for name in ["one", "two"] {
            give(&store, &registry.address, &format!("{name}.cert"), &format!("client-{name}.cert"));
            give(&store, &registry.address, &format!("{name}.key"), &format!("client-{name}.key"));
        }
        pull(&store, &registry).await.unwrap();
        let listed = Store::new();
        for name in ["one", "two"] {
            let both = [fixture(&format!("client-{name}.cert")), fixture(&format!("client-{name}.key"))];
            let both = both.map(|path| fs::read(path).unwrap()).concat();
            configure(&listed, &registry.address, &format!("{name}.pem"), both);
        }
        give(&listed, &registry.address, "ca.pem", "own.crt");
        let settings = hosts(&registry, "ca = \"ca.pem\"\nclient = [[\"one.pem\"], [\"two.pem\"]]");
        configure(&listed, &registry.address, "hosts.toml", settings);
        pull(&listed, &registry).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_that_is_no_certificate_or_no_key_is_named() {
    let cases = [
        ("ca = \"bad.pem\"", "bad.pem"),
        ("ca = \"missing.pem\"", "missing.pem"),
        ("client = [[\"one.cert\", \"bad.pem\"]]", "bad.pem"),
        ("client = [[\"one.cert\", \"two.key\"]]", "one.cert"),
        ("client = \"one.cert\"", "one.cert"),
    ];
    let registry = Secure::start(Content::default(), "own", None).await;
    for (settings, named) in cases {
        let store = Store::new();
        configure(&store, &registry.address, "bad.pem", "nothing of the kind");
        give(&store, &registry.address, "one.cert", "client-one.cert");
        give(&store, &registry.address, "two.key", "client-two.key");
        configure(&store, &registry.address, "hosts.toml", hosts(&registry, settings));
        let error = pull(&store, &registry).await.unwrap_err();
        assert!(host::chain(&error).contains(named), "{error} lacks {named}");
    }
    assert_eq!(registry.connections(), 0);
}
