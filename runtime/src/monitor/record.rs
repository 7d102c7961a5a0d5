//! The monitor's files in its container's directory: the start and the exit. A server that finds no monitor reads them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use host::fs::Lock;
use serde::{Deserialize, Serialize};

use crate::spec::ContainerSpec;
use crate::{Error, Exit, Started};

/// The spec of the container, written by the backend.
pub(crate) const SPEC: &str = "spec.json";
/// The start of the monitor, and the first process' number once it runs.
const START: &str = "start.json";
/// The end of the container.
const EXIT: &str = "exit.json";
const SOCKET: &str = "monitor.sock";
/// The lock (flock(2)) that a monitor holds from before the start is recorded until the end is, or it dies.
const LOCK: &str = "monitor.lock";
/// The exit code after an unobserved end, as in containerd.
pub(super) const UNKNOWN_EXIT_CODE: i32 = 255;

/// The file of the container's spec.
pub(crate) fn spec_path(directory: &Path) -> PathBuf {
    directory.join(SPEC)
}

pub(super) fn socket_path(directory: &Path) -> PathBuf {
    directory.join(SOCKET)
}

/// The start of a container, on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StartRecord {
    pub(super) version: u32,
    /// 0 while the process is being started.
    pub(super) pid: i32,
    pub(super) started_ns: u64,
}

/// The end of a container, on disk and in the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ExitRecord {
    pub(super) version: u32,
    pub(super) pid: i32,
    pub(super) started_ns: u64,
    pub(super) finished_ns: u64,
    pub(super) code: i32,
    /// The signal that ended the first process; `code` has it too, added to 128.
    pub(super) signal: Option<i32>,
    pub(super) out_of_memory: bool,
    #[serde(default)]
    pub(super) message: String,
}

impl ExitRecord {
    pub(super) fn started(&self) -> Started {
        started(self.pid, self.started_ns)
    }

    pub(super) fn exit(&self) -> Exit {
        Exit {
            at: time(self.finished_ns),
            code: self.code,
            out_of_memory: self.out_of_memory,
            message: self.message.clone(),
        }
    }
}

pub(super) fn started(pid: i32, started_ns: u64) -> Started {
    Started { pid: u32::try_from(pid).unwrap_or(0), at: time(started_ns) }
}

/// Nanoseconds since 1970.
pub(super) fn now_ns() -> u64 {
    nanoseconds(SystemTime::now())
}

pub(super) fn nanoseconds(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

fn time(ns: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(ns)
}

pub(super) fn write_start(directory: &Path, record: &StartRecord) -> Result<(), Error> {
    Ok(host::json::replace(&directory.join(START), record)?)
}

/// The process could not be started: its container is as before.
pub(super) fn remove_start(directory: &Path) -> Result<(), Error> {
    host::fs::remove_file(&directory.join(START))
        .map_err(Error::failed(format!("cannot remove the start record in {}", directory.display())))
}

pub(super) fn write_exit(directory: &Path, record: &ExitRecord) -> Result<(), Error> {
    Ok(host::json::replace(&directory.join(EXIT), record)?)
}

pub(super) fn read_start(directory: &Path) -> Result<Option<StartRecord>, Error> {
    Ok(host::json::read(&directory.join(START))?)
}

pub(super) fn read_exit(directory: &Path) -> Result<Option<ExitRecord>, Error> {
    Ok(host::json::read(&directory.join(EXIT))?)
}

/// Whether a container runs by its files: it was started, and no end is recorded.
pub(super) fn is_running(directory: &Path) -> bool {
    !directory.join(EXIT).exists() && directory.join(START).exists()
}

/// What the files tell of a monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It lives, or the server is about to record its end.
    Lives,
    /// It was not started, is dead, or has recorded the end.
    Over,
    /// It is of the time before the lock.
    Unknown,
}

/// Takes the lock that its holder alone may record the end under; None: somebody has it.
pub(super) fn hold(directory: &Path) -> Result<Option<Lock>, Error> {
    Lock::take(&directory.join(LOCK))
        .map_err(Error::failed(format!("cannot take the monitor's lock in {}", directory.display())))
}

/// Whether a container's monitor lives.
pub(super) fn life(directory: &Path) -> Result<Life, Error> {
    if !is_running(directory) {
        return Ok(Life::Over);
    }
    let path = directory.join(LOCK);
    let failed = || Error::failed::<io::Error>(format!("cannot look at {}", path.display()));
    if !path.try_exists().map_err(failed())? {
        return Ok(Life::Unknown);
    }
    Ok(if Lock::is_held(&path).map_err(failed())? { Life::Lives } else { Life::Over })
}

/// Reads the spec in a container's directory.
pub(crate) fn read_spec(directory: &Path) -> Result<ContainerSpec, Error> {
    let spec = host::json::read(&spec_path(directory))?;
    spec.ok_or_else(|| Error::not_found(format!("the spec in {}", directory.display())))
}

#[cfg(test)]
mod tests {
    use super::{ExitRecord, read_exit, read_start, write_exit};

    #[test]
    fn an_exit_record_of_version_1_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let text = r#"{"version":1,"pid":7,"started_ns":1,"finished_ns":2000000001,"code":137,"signal":9,"out_of_memory":true,"later":{}}"#;
        std::fs::write(directory.path().join("exit.json"), text).unwrap();
        let record = read_exit(directory.path()).unwrap().unwrap();
        assert_eq!((record.code, record.signal, record.out_of_memory), (137, Some(9), true));
        assert_eq!(record.exit().at.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos(), 2_000_000_001);
    }

    #[test]
    fn what_was_written_is_read_and_what_was_not_is_none() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read_start(directory.path()).unwrap().is_none());
        let record = ExitRecord {
            version: 1,
            pid: 3,
            started_ns: 4,
            finished_ns: 5,
            code: 0,
            signal: None,
            out_of_memory: false,
            message: "m".to_owned(),
        };
        write_exit(directory.path(), &record).unwrap();
        assert_eq!(read_exit(directory.path()).unwrap().unwrap(), record);
    }
}
