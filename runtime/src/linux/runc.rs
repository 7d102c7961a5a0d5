//! runc, which runs the containers: its commands, and the errors in its log.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use host::run::{RunError, Tool};
use serde_json::Value;

use crate::Error;

/// The limit for runc: it waits only for the kernel.
const TIMEOUT: Duration = Duration::from_secs(100);
/// A shell's exit codes for a program that does not exist, and for one that cannot be run.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// runc with its directory of states.
#[derive(Debug, Clone)]
pub(super) struct Runc {
    root: PathBuf,
}

impl Runc {
    pub(super) fn new(state: &Path) -> Self {
        Self { root: state.join("runc") }
    }

    /// Whether runc has a state for a container.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.root.join(name).exists()
    }

    /// The names of all containers that runc has a state for.
    pub(super) fn names(&self) -> Result<Vec<String>, Error> {
        let name = |path: &PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
        Ok(host::fs::entries(&self.root)?.iter().filter_map(name).collect())
    }

    /// Runs a command whose process outlives it, with these streams; `log` is this command's file.
    pub(super) fn leave(&self, log: &Path, args: &[&str], streams: [OwnedFd; 3], program: &str) -> Result<(), Error> {
        host::fs::remove_file(log).map_err(Error::failed(format!("cannot remove {}", log.display())))?;
        let [stdin, stdout, stderr] = streams;
        let tool = self.tool(Some(log)).args(args).timeout(TIMEOUT);
        match tool.run_with(stdin, stdout, stderr) {
            Ok(()) => Ok(()),
            Err(error @ RunError::Failed { .. }) => {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                Err(last_error(&text).map_or_else(|| failed(args, error), |message| explained(&message, program)))
            }
            Err(error) => Err(failed(args, error)),
        }
    }

    /// Removes a container with its processes. Idempotent.
    pub(super) fn delete(&self, name: &str) -> Result<(), Error> {
        if !self.knows(name) {
            return Ok(());
        }
        let args = ["delete", "--force", name];
        match self.tool(None).args(args).timeout(TIMEOUT).run() {
            Ok(_) => Ok(()),
            // runc cannot load a state that was only half made.
            Err(_) if !self.root.join(name).join("state.json").exists() => {
                host::fs::remove_dir_all(&self.root.join(name)).map_err(|error| failed(&args, error))
            }
            Err(error) => Err(failed(&args, error)),
        }
    }

    /// Removes the state of a container without processes and cgroups, and without hooks, as all of ours: nothing else is left
    /// for `runc delete`, whose start takes longer than all the rest of a removal. Idempotent.
    pub(super) fn forget(&self, name: &str) -> Result<(), Error> {
        let state = self.root.join(name);
        host::fs::remove_dir_all(&state).map_err(Error::failed(format!("cannot remove {}", state.display())))
    }

    /// Changes the limits of a running container.
    pub(super) fn update(&self, name: &str, limits: &Value) -> Result<(), Error> {
        let args = ["update", "--resources", "-", name];
        let tool = self.tool(None).args(args).stdin(limits.to_string()).timeout(TIMEOUT);
        tool.run().map_err(|error| failed(&args, error))?;
        Ok(())
    }

    fn tool(&self, log: Option<&Path>) -> Tool {
        let tool = Tool::new("runc").args(["--root".as_ref(), self.root.as_os_str()]);
        match log {
            None => tool,
            Some(log) => tool.args(["--log-format".as_ref(), "json".as_ref(), "--log".as_ref(), log.as_os_str()]),
        }
    }
}

fn failed(args: &[&str], error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::failed(format!("cannot {} a container with runc", args[0]))(error)
}

/// The last error of a log with a JSON object per line.
fn last_error(log: &str) -> Option<String> {
    log.lines().rev().find_map(|line| {
        let entry: Value = serde_json::from_str(line).ok()?;
        (entry["level"] == "error").then(|| entry["msg"].as_str().unwrap_or_default().to_owned())
    })
}

/// Parses an error of runc. The text after `exec:` says whether the program cannot be run.
fn explained(message: &str, program: &str) -> Error {
    let of_the_program = message.contains("exec: \"") || message.contains("exec /");
    let exit_code = if message.contains("executable file not found") || message.contains("no such file or directory") {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    };
    // strerror(3) of ENOSPC and EDQUOT, as Go writes it: runc makes the destinations of mounts.
    if message.contains("no space left on device") || message.contains("disk quota exceeded") {
        return Error::failed("cannot run the container with runc")(host::Exhausted(message.to_owned()));
    }
    if of_the_program {
        Error::Command { program: program.to_owned(), reason: message.to_owned(), exit_code }
    } else {
        Error::failed("cannot run the container with runc")(message)
    }
}

#[cfg(test)]
mod tests {
    use super::{explained, last_error};
    use crate::Error;

    #[test]
    fn the_last_error_of_a_log_is_told() {
        let log = "{\"level\":\"warning\",\"msg\":\"w\"}\n{\"level\":\"error\",\"msg\":\"first\"}\n\
            {\"level\":\"error\",\"msg\":\"second\"}\n{\"level\":\"info\",\"msg\":\"i\"}\nnot json\n";
        assert_eq!(last_error(log).unwrap(), "second");
        assert_eq!(last_error(""), None);
    }

    #[test]
    fn a_full_disk_is_told_from_its_text() {
        let text = "error during container init: error mounting \"/a\" to rootfs at \"/b\": mkdir /r/b: ";
        for (errno, full) in
            [("no space left on device", true), ("disk quota exceeded", true), ("not a directory", false)]
        {
            assert_eq!(host::is_exhausted(&explained(&format!("{text}{errno}"), "sh")), full, "{errno}");
        }
    }

    #[test]
    fn a_missing_program_is_told_from_a_broken_container() {
        let start = "runc run failed: unable to start container process: ";
        let cases = [
            ("exec: \"foo\": executable file not found in $PATH", Some(127)),
            ("exec: \"/foo\": stat /foo: no such file or directory", Some(127)),
            ("exec: \"/etc/passwd\": permission denied", Some(126)),
            ("error during container init: error mounting \"/x\": no such file or directory", None),
        ];
        for (text, code) in cases {
            let got = match explained(&format!("{start}{text}"), "foo") {
                Error::Command { exit_code, .. } => Some(exit_code),
                _ => None,
            };
            assert_eq!(got, code, "{text}");
        }
    }
}
