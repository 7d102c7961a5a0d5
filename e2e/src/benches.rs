//! The benchmarks: each starts a server and its peer, compares them, and stops both also after a failure.

use std::path::PathBuf;

use anyhow::{Context, Result};
use e2e::client::{Client, socket};
use e2e::containerd::Containerd;
use e2e::process::tail;
use e2e::registry::Registry;
use e2e::server::Site;
use e2e::tools::Tools;
use e2e::{images, kubernetes, pods, pulls};

/// What every benchmark has: the tools, a directory that is removed at the end, a registry in it, and a site for the server.
struct Ground {
    tools: Tools,
    dir: tempfile::TempDir,
    registry: Registry,
    site: Site,
}

impl Ground {
    fn new() -> Result<Self> {
        let tools = Tools::open()?;
        let dir = crate::run_directory()?;
        let registry = crate::registry(&dir.path().join("registry"), &images::all(&tools)?)?;
        let site = Site::new(&dir.path().join("site"), registry.certs(), tools.crictl()?)?;
        Ok(Self { tools, dir, registry, site })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn containerd(&self) -> Result<Containerd> {
        Containerd::start(&self.tools, &self.path("containerd"), self.registry.certs())
    }

    /// Ends with what the comparison said.
    fn end(self, compared: Result<()>) -> Result<()> {
        self.registry.stop()?;
        compared
    }
}

/// Compares the streams of a new server with those of another one, or of a new containerd.
pub(crate) fn streaming(beside: Option<&str>) -> Result<()> {
    let ground = Ground::new()?;
    let peer = if beside.is_some() { None } else { Some(ground.containerd()?) };
    let address = beside.or(peer.as_ref().map(Containerd::address)).context("there is another server")?;
    let other = Site::new(&ground.path("other"), ground.registry.certs(), ground.tools.crictl()?)?.at(address);
    let server = ground.site.serve()?;
    let compared = e2e::streaming::compare(&ground.site, &other);
    ground.site.run(["rmp", "--all", "--force"])?;
    server.stop()?;
    if let Some(peer) = peer {
        other.run(["rmp", "--all", "--force"])?;
        peer.stop()?;
    }
    ground.end(compared)
}

/// Compares the calls of a new server with those of a new containerd, one after the other.
pub(crate) fn pods(plan: &pods::Plan) -> Result<()> {
    let ground = Ground::new()?;
    let compared = pods::compare(plan, &ground.tools, &ground.site, ground.registry.certs());
    ground.end(compared)
}

/// Compares the pulls of a new server with those of a new containerd.
pub(crate) fn pulls(plan: &pulls::Plan) -> Result<()> {
    let tools = Tools::open()?;
    let dir = crate::run_directory()?;
    let certs = dir.path().join("certs.d");
    let site = Site::new(&dir.path().join("site"), &certs, tools.crictl()?)?;
    let peer = Containerd::start(&tools, &dir.path().join("containerd"), &certs)?;
    let server = site.serve()?;
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let subject = |address: &str, pid: u32| {
        Ok::<_, anyhow::Error>(pulls::Subject { client: Client::new(tokio.handle(), socket(address)?), pid })
    };
    let (ours, theirs) = (subject(&site.address(), server.pid())?, subject(peer.address(), peer.pid())?);
    let ground = pulls::Ground { certs: &certs, dir: dir.path(), tokio: &tokio };
    let compared = pulls::compare(&ours, &theirs, &ground, plan);
    if compared.is_err() {
        println!("the server's log ends:\n{}", tail(&site.dir().join("cellblock.log")));
    }
    server.stop()?;
    peer.stop()?;
    compared
}

/// Compares a new server with a new containerd under kubelet.
pub(crate) fn kubelet(plan: &kubernetes::bench::Plan) -> Result<()> {
    let ground = Ground::new()?;
    let Ground { tools, registry, site, .. } = &ground;
    let compared = kubernetes::bench::run(site, &ground.path("other"), registry.certs(), tools, plan);
    ground.end(compared)
}
