//! A process that outlives the server and of which a directory has at most one: a listener, the name server. It holds a lock while
//! it lives, and has written its process id under it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fs::Lock;

/// The limit for a killed process to end: the kernel only closes its files.
const DEATH: Duration = Duration::from_secs(5);

/// The files of such a process.
#[derive(Debug, Clone)]
pub struct Lone {
    lock: PathBuf,
    pid: PathBuf,
}

impl Lone {
    /// The files `NAME.lock` and `NAME.pid` of a directory.
    #[must_use]
    pub fn new(directory: &Path, name: &str) -> Self {
        Self { lock: directory.join(format!("{name}.lock")), pid: directory.join(format!("{name}.pid")) }
    }

    /// Makes this process the one; it is until the lock is dropped.
    ///
    /// # Errors
    /// Another is, or the files cannot be written.
    pub fn claim(&self) -> io::Result<Lock> {
        let lock = Lock::take(&self.lock)?;
        let lock = lock.ok_or_else(|| io::Error::other(format!("another process holds {}", self.lock.display())))?;
        std::fs::write(&self.pid, std::process::id().to_string())?;
        Ok(lock)
    }

    /// Whether the process lives.
    ///
    /// # Errors
    /// The lock cannot be opened.
    pub fn is_running(&self) -> io::Result<bool> {
        Lock::is_held(&self.lock)
    }

    /// Kills the process and waits until its lock is free. Idempotent. The kernel closes its sockets then too, but not at the same
    /// instant: who binds their addresses next may have to try again.
    ///
    /// # Errors
    /// It cannot be killed, or still lives.
    pub fn kill(&self) -> io::Result<()> {
        let started = Instant::now();
        while self.is_running()? {
            if started.elapsed() > DEATH {
                return Err(io::Error::other(format!("the process of {} still lives", self.pid.display())));
            }
            // The lock's holder wrote the process id after locking and is alive while the lock is held.
            let pid = std::fs::read_to_string(&self.pid).ok().and_then(|text| text.trim().parse::<i32>().ok());
            if let Some(pid) = pid.filter(|pid| *pid > 1) {
                match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => (),
                    Err(error) => return Err(error.into()),
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Prints one line for the server that started this process.
pub fn report(text: &str) {
    // The reader may have gone; there is nowhere else to report.
    let _ = writeln!(io::stdout(), "{text}").and_then(|()| io::stdout().flush());
}

/// Closes the standard output, which the server reads to its end; later output goes to this file: [`null`].
///
/// # Errors
/// The kernel refuses.
pub fn close_output(null: &File) -> io::Result<()> {
    Ok(nix::unistd::dup2_stdout(null)?)
}

/// Opens /dev/null, which a process that changes its root does not find afterwards.
///
/// # Errors
/// There is none.
pub fn null() -> io::Result<File> {
    OpenOptions::new().write(true).open("/dev/null")
}

#[cfg(test)]
mod tests {
    use super::Lone;

    /// Looks of each of two threads at a lock.
    const LOOKS: u32 = 3000;

    /// Another process may have the number of one that has ended.
    #[test]
    fn nobody_is_killed_where_none_runs_while_others_look() {
        let directory = tempfile::tempdir().unwrap();
        let lone = Lone::new(directory.path(), "one");
        drop(lone.claim().unwrap());
        #[expect(clippy::disallowed_methods, reason = "it is there to be killed or not")]
        let mut innocent = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        std::fs::write(directory.path().join("one.pid"), innocent.id().to_string()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..LOOKS).filter(|_| lone.is_running().unwrap()).count());
            }
            (0..LOOKS / 10).for_each(|_| lone.kill().unwrap());
            drop(lone.claim().expect("nobody holds it"));
        });
        assert_eq!(innocent.try_wait().unwrap(), None, "it was killed");
        innocent.kill().unwrap();
        innocent.wait().unwrap();
    }
}
