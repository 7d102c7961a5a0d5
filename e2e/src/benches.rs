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
    /// With the test images in the registry, or empty.
    fn new(with_images: bool) -> Result<Self> {
        let tools = Tools::open()?;
        let dir = crate::run_directory()?;
        let images = if with_images { images::all(&tools)? } else { Vec::new() };
        let registry = crate::registry(&dir.path().join("registry"), &images)?;
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
    let ground = Ground::new(true)?;
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
    let ground = Ground::new(true)?;
    let compared = pods::compare(plan, &ground.tools, &ground.site, ground.registry.certs());
    ground.end(compared)
}

/// Compares the pulls of a new server with those of a new containerd.
pub(crate) fn pulls(plan: &pulls::Plan) -> Result<()> {
    let ground = Ground::new(false)?;
    let peer = ground.containerd()?;
    let server = ground.site.serve()?;
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let subject = |address: &str, pid: u32| {
        Ok::<_, anyhow::Error>(pulls::Subject { client: Client::new(tokio.handle(), socket(address)?), pid })
    };
    let (ours, theirs) = (subject(&ground.site.address(), server.pid())?, subject(peer.address(), peer.pid())?);
    let registry = &ground.registry;
    let stage = pulls::Ground { registry, certs: registry.certs(), dir: ground.dir.path() };
    let compared = pulls::compare(&ours, &theirs, &stage, plan);
    if compared.is_err() {
        println!("the server's log ends:\n{}", tail(&ground.site.dir().join("cellblock.log")));
    }
    server.stop()?;
    peer.stop()?;
    ground.end(compared)
}

/// Compares a new server with a new containerd under kubelet.
pub(crate) fn kubelet(plan: &kubernetes::bench::Plan) -> Result<()> {
    let ground = Ground::new(true)?;
    let Ground { tools, registry, site, .. } = &ground;
    let compared = kubernetes::bench::run(site, &ground.path("other"), registry.certs(), tools, plan);
    ground.end(compared)
}
