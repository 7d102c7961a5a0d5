//! The init of a pod whose containers share a process namespace: the namespace lives as long as its first process, which only
//! reaps orphans. Other pods have none.

use std::convert::Infallible;
use std::ffi::{CStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use host::worker::Workers;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::names::PID_PIN;
use super::pod::init_pid_path;
use crate::Error;
use crate::monitor::WORKER;

/// Its command as the worker [`WORKER`].
pub(super) const WORD: &str = "init";
/// Its arguments as the containers of its pod see them: without paths of the host.
const NEUTRAL: [&CStr; 3] = [c"cellblock", c"hold", c"init"];
/// The limit for the end of a killed init: the kernel first ends every process of its namespace.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Starts the init of the pod with this directory; when it returns, the namespace is pinned.
pub(super) fn start(workers: &Workers, directory: &Path) -> Result<(), Error> {
    let operation = "cannot start the init of a pod";
    let mut command = workers.monitor(WORKER);
    command.arg(WORD).arg(directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = command.output().map_err(Error::failed(operation))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(Error::failed(operation)(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// The worker: makes the namespace, pins it and leaves its first process behind, which is this program again, with no directory.
pub(super) fn run(args: &[OsString]) -> ExitCode {
    let directory = match args {
        [_, directory] => Path::new(directory),
        [_] => return reap(),
        _ => return ExitCode::FAILURE,
    };
    match begin(directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns in the worker, once all is done; in the first process of the namespace only with an error.
fn begin(directory: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    let Some(child) = host::worker::fork()? else {
        leave()?;
        return become_init().map(|never| match never {});
    };
    let pinned = || -> io::Result<()> {
        let pin = directory.join(PID_PIN);
        fs::write(&pin, "")?;
        let namespace = format!("/proc/{child}/ns/pid");
        mount(Some(namespace.as_str()), &pin, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        fs::write(init_pid_path(directory), child.to_string())
    };
    pinned().inspect_err(|_| {
        // Nothing is pinned, so only the child is left.
        let _ = kill(child, Signal::SIGKILL);
    })
}

/// Executes this program anew: the containers read the arguments of this process, and some of them its environment.
fn become_init() -> io::Result<Infallible> {
    // Not by its path: it may have been replaced.
    Ok(nix::unistd::execve(c"/proc/self/exe", &NEUTRAL, &[] as &[&CStr])?)
}

/// Closes the inherited error output, whose end the parent waits for.
fn leave() -> io::Result<()> {
    let null = fs::File::open("/dev/null")?;
    nix::unistd::dup2_stderr(null)?;
    nix::unistd::setsid()?;
    std::env::set_current_dir("/")
}

/// Reaps orphans until it is killed: the first process of a namespace gets no other signal.
fn reap() -> ExitCode {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    // The kernel calls it `exe` after the path that it was executed by.
    let _ = nix::sys::prctl::set_name(NEUTRAL[0]);
    if children.thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
        if children.wait().is_err() {
            return ExitCode::FAILURE;
        }
    }
}

/// Ends the init of a pod, and with it every process of its namespace. Idempotent.
pub(super) fn stop(directory: &Path) -> Result<(), Error> {
    let Some(number) = number(directory)? else { return Ok(()) };
    let failed = || Error::failed::<io::Error>(format!("cannot stop the init of a pod, process {number}"));
    let Some(ended) = host::wait::exit_descriptor(number).map_err(failed())? else { return Ok(()) };
    // The check follows the opening: the descriptor is of the process that has the number then.
    if !is_running(directory)? {
        return Ok(());
    }
    kill(Pid::from_raw(number), Signal::SIGKILL).map_err(|errno| failed()(errno.into()))?;
    if host::wait::readable(&ended, STOP_WAIT).map_err(failed())? {
        Ok(())
    } else {
        Err(failed()(io::ErrorKind::TimedOut.into()))
    }
}

/// Whether the init of the pod with this directory runs.
pub(super) fn is_running(directory: &Path) -> Result<bool, Error> {
    Ok(number(directory)?.is_some_and(|number| is_in(number, &directory.join(PID_PIN))))
}

fn number(directory: &Path) -> Result<Option<i32>, Error> {
    let path = init_pid_path(directory);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::failed(format!("cannot read {}", path.display()))(error)),
    }
}

/// Whether a process is in the namespace of a pin: its number may have been given to another. A zombie is in none.
fn is_in(process: i32, pin: &Path) -> bool {
    let of = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The state follows the name, which may hold anything but ends with the last parenthesis (proc_pid_stat(5)).
    let is_zombie = stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    let namespace = of(Path::new(&format!("/proc/{process}/ns/pid")));
    !is_zombie && namespace.is_some() && namespace == of(pin)
}
