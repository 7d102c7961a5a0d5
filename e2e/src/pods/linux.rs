//! What runc and Linux take for a pod's parts without a server.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::timed;
use crate::images;
use crate::process::Program;
use crate::pulls::meter::times;
use crate::tools::Tools;

/// What is timed.
pub(super) const CALLS: [&str; 3] = ["runc run, alone", "runc exec, alone", "unshare(1), alone"];

/// A bundle that runc runs without a server, with BusyBox as its root.
pub(super) struct Bare {
    dir: PathBuf,
}

impl Bare {
    /// The bundle in a directory; None without tools.
    pub(super) fn make(tools: Option<&Tools>, dir: &Path) -> Result<Option<Self>> {
        let Some(tools) = tools else { return Ok(None) };
        let root = dir.join("rootfs");
        let program = tools.package("busybox")?.join("bin/busybox");
        let copy = |from: &Path, to: &str| -> Result<()> {
            let to = root.join(to);
            std::fs::create_dir_all(to.parent().context("no directory")?)?;
            std::fs::copy(from, to)?;
            Ok(())
        };
        copy(&program, "bin/busybox")?;
        for library in images::libraries(&program)? {
            copy(Path::new(&library), library.trim_start_matches('/'))?;
        }
        Program::new("runc", ["spec"]).dir(dir).run()?;
        let file = dir.join("config.json");
        let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/busybox", "sleep", "1000000"]);
        std::fs::write(file, config.to_string())?;
        Ok(Some(Self { dir: dir.to_owned() }))
    }

    fn runc(&self, args: &[&str]) -> Result<String> {
        let state = self.dir.join("state");
        let root = ["--root".as_ref(), state.as_os_str()];
        Program::new("runc", root.into_iter().chain(args.iter().map(OsStr::new))).dir(&self.dir).run()
    }

    /// What a server cannot do without: a container, a command in it, and a pod's namespaces.
    pub(super) fn round(&self) -> Result<[f64; CALLS.len()]> {
        let name = "cellblock-bench";
        let (_, run) = timed(|| self.runc(&["run", "--detach", name]))?;
        let exec = timed(|| self.runc(&["exec", name, "/bin/busybox", "true"]));
        self.runc(&["delete", "--force", name])?;
        let namespaces = ["--net", "--uts", "--ipc", "true"];
        let (_, unshare) = timed(|| Program::new("unshare", namespaces).run())?;
        Ok([run, exec?.1, unshare])
    }
}

/// The user and system time of a process, in seconds (proc_pid_stat(5)).
pub(super) fn cpu_time(pid: u32) -> Result<f64> {
    let [user, system, ..] = times(pid)?;
    Ok(user + system)
}
