//! Builds the test images for FreeBSD, under critest's names, on one layer of the base system of their machine
//! (`e2e/freebsd/base.sh` collects it). Without those that only critest's specs for Linux use.

use std::path::Path;

use anyhow::{Context, Result};
use testimage::{ARCHITECTURE, Config, Image, Layer, Node, Tree};

use crate::images::Published;

/// All images of critest's FreeBSD build, the scenario and the specs, from the unpacked base.
pub fn all(dir: &Path) -> Result<Vec<Published>> {
    let base = Tree::of_directory(dir)?.layer()?;
    let shell = Config { cmd: vec!["sh"], os: "freebsd", ..Config::default() };
    let image = |config: &Config| Image::new(std::slice::from_ref(&base), config);
    let publish =
        |repository: String, tags: &[&'static str], image: Image| Published { repository, tags: tags.to_vec(), image };
    let e2e = |name: &str| format!("e2e-test-images/{name}");
    let staging = |name: &str| format!("k8s-staging-cri-tools/{name}");
    let httpd = |port: &'static str| Config { cmd: vec!["httpd", port], ..shell.clone() };
    let mut images = vec![
        publish(e2e("busybox"), &["1.29-2"], image(&shell)),
        publish(e2e("nginx"), &["1.14-2"], image(&httpd("80"))),
        publish(e2e("httpd"), &["2.4.39-4"], image(&httpd("80"))),
        publish(staging(&format!("hostnet-nginx-{ARCHITECTURE}")), &["latest"], image(&httpd("12003"))),
        publish("pause".to_owned(), &["3.9"], image(&Config { cmd: vec!["top"], ..shell.clone() })),
        publish(staging("test-image-digest"), &["latest"], by_digest()?),
    ];
    images.push(publish(e2e("nonewprivs"), &["1.3"], no_new_privs(&base, dir)?));
    for (name, tags) in [
        ("test-image-1", &["latest"][..]),
        ("test-image-2", &["latest"]),
        ("test-image-3", &["latest"]),
        ("test-image-latest", &["latest"]),
        ("test-image-tags", &["1", "2", "3"]),
    ] {
        images.push(publish(staging(name), tags, marked(&base, name, &shell)?));
    }
    for tag in ["test", "all"] {
        images.push(publish(staging("test-image-tag"), &[tag], marked(&base, tag, &shell)?));
    }
    for (name, user) in [
        ("test-image-user-uid", "1002"),
        ("test-image-user-username", "www-data"),
        ("test-image-user-uid-group", "1003:1004"),
        ("test-image-user-username-group", "www-data:1004"),
        ("test-image-predefined-group", "1000"),
    ] {
        images.push(publish(staging(name), &["latest"], image(&Config { user, ..shell.clone() })));
    }
    Ok(images)
}

/// See [`crate::images::by_digest`]; for FreeBSD.
pub fn by_digest() -> Result<Image> {
    let layer = Tree::default().file("test-image-digest", "").layer()?;
    Ok(Image::new(&[layer], &Config { os: "freebsd", ..Config::default() }))
}

/// An image with a unique digest.
fn marked(base: &Layer, name: &str, config: &Config) -> Result<Image> {
    let marker = Tree::default().file("etc/test-image", &format!("{name}\n")).layer()?;
    Ok(Image::new(&[base.clone(), marker], config))
}

/// A set-user-id copy of id(1), which prints its effective user.
fn no_new_privs(base: &Layer, dir: &Path) -> Result<Image> {
    let program = std::fs::read(dir.join("usr/bin/id")).context("base.sh collects id(1)")?;
    let layer = Tree::default().with("nnp", Node::File(0o4755, program.into())).layer()?;
    let config = Config { entrypoint: vec!["/nnp", "-u"], os: "freebsd", ..Config::default() };
    Ok(Image::new(&[base.clone(), layer], &config))
}
