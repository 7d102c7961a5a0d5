//! containerd as a peer: Debian's, with a configuration and directories of its own, so that one that runs on this machine is
//! not touched.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::images::PAUSE;
use crate::process::{Background, Program};

/// How long it may take to serve.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A containerd that runs.
#[derive(Debug)]
pub struct Containerd {
    process: Background,
    address: String,
}

impl Containerd {
    /// Starts one with all of its files below this directory; images come from where this `certs.d` leads.
    pub fn start(dir: &Path, certs: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let (config, socket) = (dir.join("config.toml"), dir.join("containerd.sock"));
        // Without the right to lower oom_score_adj its pods do not start unless it knows.
        std::fs::write(
            &config,
            format!(
                "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {socket:?}\n\
                 [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {PAUSE:?}\nrestrict_oom_score_adj = true\n\
                 [plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = {certs:?}\n",
                dir.join("root"),
                dir.join("state"),
            ),
        )?;
        let mut process = Program::new("containerd", ["--config".as_ref(), config.as_os_str()])
            .background(&dir.join("containerd.log"))
            .context("containerd is Debian's package of that name: sh ci/deps.sh bench")?;
        process.until(TIMEOUT, || socket.exists())?;
        Ok(Self { process, address: format!("unix://{}", socket.display()) })
    }

    /// `unix://` and the path of its socket.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Ends it.
    pub fn stop(self) -> Result<()> {
        self.process.stop()
    }
}
