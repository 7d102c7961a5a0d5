//! Builds the test images for FreeBSD, under critest's names, on one layer of the base system of their machine
//! (`e2e/freebsd/base.sh` collects it). Without those that only critest's specs for Linux use.

use std::path::Path;

use anyhow::{Context, Result};
use testimage::{Config, Image, Layer, Node, Tree};

use crate::images::{Parts, Published};

/// All images of critest's FreeBSD build, the scenario and the specs, from the unpacked base.
pub fn all(dir: &Path) -> Result<Vec<Published>> {
    let base = Tree::of_directory(dir)?.layer()?;
    let shell = Config { cmd: vec!["sh"], os: "freebsd", ..Config::default() };
    let image = |config: Config| Image::new(std::slice::from_ref(&base), &config);
    let run = |cmd: &[&'static str]| image(Config { cmd: cmd.to_vec(), ..shell.clone() });
    Parts {
        nginx: run(&["httpd", "80"]),
        hostnet_nginx: run(&["httpd", "12003"]),
        httpd: run(&["httpd", "80"]),
        no_new_privs: no_new_privs(&base, dir)?,
        pause: run(&["top"]),
        predefined_group: image(Config { user: "1000", ..shell.clone() }),
        shell,
        base,
    }
    .publish()
}

/// A set-user-id copy of id(1), which prints its effective user.
fn no_new_privs(base: &Layer, dir: &Path) -> Result<Image> {
    let program = std::fs::read(dir.join("usr/bin/id")).context("base.sh collects id(1)")?;
    let layer = Tree::default().with("nnp", Node::File(0o4755, program.into())).layer()?;
    let config = Config { entrypoint: vec!["/nnp", "-u"], os: "freebsd", ..Config::default() };
    Ok(Image::new(&[base.clone(), layer], &config))
}
