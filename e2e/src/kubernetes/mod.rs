//! The stock kubelet on Cellblock: first alone, with static pods, then in a cluster of one node with a control plane on
//! loopback. All files and kernel names have one directory and one prefix; changes to the machine are undone.

pub mod bench;
mod certificates;
mod cluster;
mod kubectl;
mod kubelet;
pub(crate) mod machine;
pub mod mixed;
mod plane;
mod programs;
mod stand_alone;
mod steps;

use anyhow::{Context, Result};

use self::certificates::Certificates;
use self::machine::Machine;
use self::programs::Programs;
use crate::checks::Checks;
use crate::images::Published;
use crate::inventory::Inventory;
use crate::process::Background;
use crate::server::Site;
use crate::tools::Tools;

/// The name of the node.
const NODE: &str = "cellblock-e2e";
const NAMESPACE: &str = "scenario";
/// The usual port of the API server, on the node's address.
const API_PORT: u16 = 6443;
/// The usual port of kubelet, on the node's address.
const KUBELET_PORT: u16 = 10250;

/// The selection of steps.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Plan {
    /// Leaves out slow steps, as `make test` does.
    #[arg(long)]
    pub quick: bool,
    /// Runs only the steps whose name contains this.
    #[arg(long, value_name = "SUBSTRING")]
    pub only: Option<String>,
}

/// The additional images of the scenario, besides [`crate::images::all`]; builds Kubernetes' programs if they are missing.
pub fn images(tools: &Tools) -> Result<Vec<Published>> {
    Ok(vec![crate::images::agnhost(tools, &Programs::build(tools)?.path("agnhost"))?])
}

/// Runs the scenario on a new server at this site, whose registry has the images.
pub fn run(site: &Site, tools: &Tools, plan: &Plan, checks: &mut Checks) -> Result<()> {
    let programs = Programs::build(tools)?;
    println!("kubelet {}", programs::version()?);
    let mut before = Inventory::take(site)?;
    let mut machine = Machine::prepare(site)?;
    let certificates = Certificates::create(&site.dir().join("certificates"), &[machine.address()])?;
    let ground = Ground { site, machine: &machine, programs: &programs, certificates: &certificates };
    let mut server = Server { site, running: None };
    if checks.check("the server starts for kubelet", || server.start()).is_some() {
        before.add_directories(site);
        if plan.only.as_ref().is_none_or(|only| stand_alone::NAME.contains(&**only)) {
            stand_alone::run(&ground, checks);
        }
        cluster::run(&ground, &mut server, plan, checks);
        // Pods of a failed step would hide the results of the last checks.
        site.run(["rmp", "--all", "--force"])?;
        checks.check("the server stops after kubelet", || server.stop());
    }
    checks.check("the machine is as it was before kubelet", || machine.restore());
    checks.check("kubelet leaves nothing behind", || Inventory::unchanged_since(&before, site));
    Ok(())
}

/// The parts of each scenario.
struct Ground<'a> {
    site: &'a Site,
    machine: &'a Machine,
    programs: &'a Programs,
    certificates: &'a Certificates,
}

/// Cellblock, which the scenario kills and restarts.
struct Server<'a> {
    site: &'a Site,
    running: Option<Background>,
}

impl Server<'_> {
    fn start(&mut self) -> Result<()> {
        self.running = Some(self.site.serve()?);
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        self.running.take().context("the server does not run")?.kill()
    }

    fn stop(&mut self) -> Result<()> {
        self.running.take().context("the server does not run")?.stop()
    }
}
