//! Debian's containerd as a peer, with a separate configuration and directories: a containerd of this machine is not touched.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::images::PAUSE;
use crate::process::{Background, Program};

/// The time-out of its start.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    process: Background,
    address: String,
}

impl Containerd {
    /// Starts one with all files below this directory; its registries are those of this `certs.d`.
    pub fn start(dir: &Path, certs: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let (config, socket) = (dir.join("config.toml"), dir.join("containerd.sock"));
        // Without the right to lower oom_score_adj it needs this setting to start pods.
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
