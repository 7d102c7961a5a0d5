//! Our conformance suite: CRI's rules for users, rights, namespaces, networks, mounts and limits, checked from inside the
//! containers. critest has such specs for Linux only; these run on both systems, over the server's socket alone. `system.rs` has
//! the differences.

mod images;
mod mounts;
mod names;
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
use crate::images::{BUSYBOX, NO_NEW_PRIVS, PREDEFINED_GROUP, VOLUMES};
use stage::Stage;
use system::System;

/// The images of the containers.
const IMAGES: [&str; 4] = [BUSYBOX, NO_NEW_PRIVS, PREDEFINED_GROUP, VOLUMES];

struct Spec {
    /// The unique name.
    name: &'static str,
    /// Checks it.
    run: fn(&Stage<'_>) -> Result<()>,
}

/// The server under test.
pub struct Ground<'a> {
    /// A client of the server.
    pub client: &'a Client,
    /// The server's socket.
    pub socket: &'a Path,
    /// The directory of volumes and logs.
    pub dir: &'a Path,
    /// crictl, for the spec that forwards a port.
    pub crictl: &'a Path,
}

/// The selection of specs, and the report.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Plan {
    /// Runs only the specs whose names contain this.
    #[arg(long, value_name = "SUBSTRING")]
    pub only: Option<String>,
    /// Writes a JUnit report.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

/// All specs, in order.
fn all() -> impl Iterator<Item = &'static Spec> {
    let subjects = [
        users::SPECS,
        rights::SPECS,
        namespaces::SPECS,
        network::SPECS,
        names::SPECS,
        mounts::SPECS,
        images::SPECS,
        process::SPECS,
        refusals::SPECS,
    ];
    subjects.into_iter().flatten()
}

/// Runs the specs, one check each. Every spec removes its objects, also after a failure; the end removes newly pulled images.
///
/// # Errors
/// Unknown system, no matching spec, or the report cannot be written. A failed spec is a failed check, not an error.
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

/// Pulls missing images and returns their names.
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
