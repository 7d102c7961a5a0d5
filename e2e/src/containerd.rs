//! containerd as a peer, built from its Go module together with its shim and the CNI plug-ins that its pods need, with a configuration,
//! directories and an address range of its own: a containerd of this machine is not touched. runc is the one that Cellblock uses.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::images::PAUSE;
use crate::process::{Background, Program};
use crate::tools::{Pinned, Tools, path};

const CONTAINERD: Pinned = Pinned {
    path: "github.com/containerd/containerd/v2",
    version: "v2.4.2",
    sum: "h1:p6Qg+xbEz8lvwdhHDx0U469xENvp4LgGBx+E7djXkGw=",
};
/// The plug-ins that containerd's own scripts install, of which a bridge needs these.
const PLUGINS: Pinned = Pinned {
    path: "github.com/containernetworking/plugins",
    version: "v1.10.0",
    sum: "h1:4lwzpgsn5NdIneXrag/EEfKzhNSriJc1zTxZxfdfPLQ=",
};
/// Without the snapshotters that nobody configures: two of them need C libraries.
const TAGS: &str = "urfave_cli_no_docs,no_btrfs,no_devmapper,no_zfs,no_blockfile,no_erofs";
/// The pods' bridge, and their network: no run of Cellblock's has it (`Site::network`).
const BRIDGE: &str = "ctd-bench0";
const SUBNET: &str = "10.198.0.0/16";
/// What CNI's bridge makes for `ipMasq`, as nft(8) lists it; it is never removed by it.
const MASQUERADING: &str = "table inet cni_plugins_masquerade";
/// The time-out of its start.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    process: Background,
    address: String,
}

impl Containerd {
    /// Builds it unless the cache has it, and starts one with all files below this directory; its registries are those of this
    /// `certs.d`.
    pub fn start(tools: &Tools, dir: &Path, certs: &Path) -> Result<Self> {
        let programs = build(tools)?;
        let (config, socket, networks) = (dir.join("config.toml"), dir.join("containerd.sock"), dir.join("net.d"));
        std::fs::create_dir_all(&networks)?;
        std::fs::write(networks.join("10-bench.conflist"), network(dir).to_string())?;
        std::fs::write(
            &config,
            // Without the right to lower oom_score_adj it needs `restrict_oom_score_adj` to start pods.
            format!(
                "version = 3\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {:?}\n\
                 [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = {PAUSE:?}\n\
                 [plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = {certs:?}\n\
                 [plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\n\
                 [plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = [{programs:?}]\nconf_dir = {networks:?}\n",
                dir.join("root"),
                dir.join("state"),
                dir.join("ttrpc.sock"),
            ),
        )?;
        let mut process = Program::new(programs.join("containerd"), ["--config".as_ref(), config.as_os_str()])
            .background(&dir.join("containerd.log"))?;
        process.until(TIMEOUT, || socket.exists())?;
        Ok(Self { process, address: format!("unix://{}", socket.display()) })
    }

    /// `unix://` and the path of its socket.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it, and removes its pods' bridge and the table of CNI's masquerading if it made them.
    pub fn stop(self) -> Result<()> {
        self.process.stop()?;
        if Program::new("nft", ["list", "tables"]).run()?.lines().any(|line| line == MASQUERADING) {
            Program::new("nft", std::iter::once("delete").chain(MASQUERADING.split(' '))).run()?;
        }
        match Path::new("/sys/class/net").join(BRIDGE).exists() {
            true => Program::new("ip", ["link", "delete", BRIDGE]).run().map(drop),
            false => Ok(()),
        }
    }
}

/// The directory of containerd, its shim and the plug-ins. Takes about ten minutes on two idle cores.
fn build(tools: &Tools) -> Result<PathBuf> {
    tools.cached(&format!("containerd-{}-cni-{}", CONTAINERD.version, PLUGINS.version), |partial| {
        // Go puts several programs into a directory that exists.
        std::fs::create_dir_all(partial)?;
        let to = path(partial)?;
        let flags = format!("-s -w -X {}/version.Version={}", CONTAINERD.path, &CONTAINERD.version[1..]);
        let build = ["build", "-trimpath", "-tags", TAGS, "-ldflags", &flags, "-o", to];
        let programs = ["./cmd/containerd", "./cmd/containerd-shim-runc-v2"];
        tools.go(&tools.module(CONTAINERD)?, &[&build[..], &programs].concat())?;
        let plugins =
            ["./plugins/main/bridge", "./plugins/main/loopback", "./plugins/meta/portmap", "./plugins/ipam/host-local"];
        let build = ["build", "-trimpath", "-ldflags", "-s -w", "-o", to];
        tools.go(&tools.module(PLUGINS)?, &[&build[..], &plugins].concat()).map(drop)
    })
}

/// The network that containerd's `script/setup/install-cni` configures, with IPv4 alone.
fn network(dir: &Path) -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "cellblock-bench",
        "plugins": [
            {
                "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true, "promiscMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": dir.join("addresses"),
                    "ranges": [[{"subnet": SUBNET}]], "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}
