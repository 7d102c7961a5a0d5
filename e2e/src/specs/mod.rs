//! A conformance suite of our own: what CRI says of users, rights, namespaces, networks, mounts and limits, looked at from inside
//! the containers. critest has specs like these and compiles them for Linux only; these are written once and run on both
//! systems, over the server's socket alone. What one system answers otherwise is in `system.rs`.

mod mounts;
mod namespaces;
mod network;
mod pod;
mod process;
mod refusals;
mod rights;
mod segment;
mod stage;
mod system;
mod users;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use proto::v1::{ImageSpec, ImageStatusRequest, RemoveImageRequest};

use crate::checks::Checks;
use crate::client::Client;
use crate::images::{BUSYBOX, NO_NEW_PRIVS, PREDEFINED_GROUP};
use stage::Stage;
use system::System;

/// The images of the containers.
const IMAGES: [&str; 3] = [BUSYBOX, NO_NEW_PRIVS, PREDEFINED_GROUP];

/// One thing that must hold.
struct Spec {
    /// In words; no other's.
    name: &'static str,
    /// Looks at it.
    run: fn(&Stage<'_>) -> Result<()>,
}

/// Where the specs are run.
pub struct Ground<'a> {
    /// A client of the server.
    pub client: &'a Client,
    /// The server's socket.
    pub socket: &'a Path,
    /// Where volumes and logs are made.
    pub dir: &'a Path,
    /// crictl, for the spec that forwards a port.
    pub crictl: &'a Path,
}

/// Which specs, and what is written of them.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Plan {
    /// Runs only the specs whose names contain this.
    #[arg(long, value_name = "SUBSTRING")]
    pub only: Option<String>,
    /// Writes a JUnit report.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

/// Every spec, in the order in which they are run.
fn all() -> impl Iterator<Item = &'static Spec> {
    let subjects = [
        users::SPECS,
        rights::SPECS,
        namespaces::SPECS,
        network::SPECS,
        mounts::SPECS,
        process::SPECS,
        refusals::SPECS,
    ];
    subjects.into_iter().flatten()
}

/// Runs the specs, one check each. Every spec removes what it made, also when it fails; images that were not there before are
/// removed at the end.
///
/// # Errors
/// This system is not known, no spec is called so, or the report cannot be written; a spec that fails is a check that fails.
pub fn run(ground: &Ground<'_>, plan: &Plan, checks: &mut Checks) -> Result<()> {
    let system = System::here()?;
    let wanted = |spec: &&Spec| plan.only.as_ref().is_none_or(|only| spec.name.contains(only.as_str()));
    let specs: Vec<&Spec> = all().filter(wanted).collect();
    ensure!(!specs.is_empty(), "no spec has {:?} in its name", plan.only.as_deref().unwrap_or_default());
    let mut own = Checks::default();
    if let Some(pulled) = own.check("specs: the images are pulled", || pull(ground)) {
        for (number, spec) in specs.into_iter().enumerate() {
            let name = format!("spec-{}-{number}", std::process::id());
            own.check(&format!("spec: {}", spec.name), || make(spec, Stage::new(ground, system, name)?));
        }
        own.check("specs: the images are removed", || remove(ground, &pulled));
    }
    if let Some(path) = &plan.junit {
        own.write_report("specs", path)?;
    }
    checks.add(own);
    Ok(())
}

fn make(spec: &Spec, stage: Stage<'_>) -> Result<()> {
    let result = (spec.run)(&stage);
    match (result, stage.remove()) {
        (Ok(()), removed) => removed,
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(left)) => Err(error.context(format!("and not all was removed: {left:#}"))),
    }
}

fn image(name: &str) -> ImageSpec {
    ImageSpec { image: name.to_owned(), ..ImageSpec::default() }
}

/// Pulls the images that are not there, and returns their names.
fn pull(ground: &Ground<'_>) -> Result<Vec<&'static str>> {
    let mut pulled = Vec::new();
    for name in IMAGES {
        let request = ImageStatusRequest { image: Some(image(name)), verbose: false };
        let there = ground.client.call(ground.client.image().image_status(request)).context("ImageStatus")?;
        if there.into_inner().image.is_none() {
            ground.client.pull(name).with_context(|| format!("PullImage of {name}"))?;
            pulled.push(name);
        }
    }
    Ok(pulled)
}

fn remove(ground: &Ground<'_>, pulled: &[&str]) -> Result<()> {
    for name in pulled {
        let request = RemoveImageRequest { image: Some(image(name)) };
        let removed = ground.client.call(ground.client.image().remove_image(request));
        removed.with_context(|| format!("RemoveImage of {name}"))?;
    }
    Ok(())
}

#[test]
fn every_spec_has_a_name_of_its_own() {
    let mut names: Vec<_> = all().map(|spec| spec.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}
