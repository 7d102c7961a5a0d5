//! The streams of the fake's processes: socket pairs, with a thread for a process that copies.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::missing;
use crate::spec::ExecSpec;
use crate::{Control, Error, Session};

/// The exit code of a process that was killed.
const KILLED: i32 = 137;

/// The end of a process, for those that wait for it.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    state: Mutex<(Option<i32>, Vec<UnixStream>)>,
    changed: Condvar,
}

impl Ended {
    fn lock(&self) -> MutexGuard<'_, (Option<i32>, Vec<UnixStream>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the process; the first code counts.
    pub(crate) fn end(&self, code: i32) {
        let mut state = self.lock();
        state.0.get_or_insert(code);
        // Closing these ends is the end-of-file that the others wait for.
        state.1.clear();
        self.changed.notify_all();
    }

    /// A descriptor that reads as end-of-file at the end of the process.
    pub(crate) fn descriptor(&self) -> Result<OwnedFd, Error> {
        let (ours, theirs) = UnixStream::pair().map_err(Error::failed("cannot create a socket pair"))?;
        let mut state = self.lock();
        if state.0.is_none() {
            state.1.push(ours);
        }
        Ok(theirs.into())
    }

    fn wait(&self, timeout: Duration) -> Option<i32> {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, timeout, |(code, _)| code.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.0
    }
}

#[derive(Debug)]
struct FakeControl {
    ended: Arc<Ended>,
    kills: bool,
}

impl Control for FakeControl {
    fn resize(&self, _: u16, _: u16) -> Result<(), Error> {
        match self.ended.wait(Duration::ZERO) {
            None => Ok(()),
            Some(_) => Err(Error::conflict("the process has ended")),
        }
    }

    fn exit_descriptor(&self) -> Result<OwnedFd, Error> {
        self.ended.descriptor()
    }

    fn wait(&self, timeout: Duration) -> Result<Option<i32>, Error> {
        Ok(self.ended.wait(timeout))
    }

    fn kill(&self) -> Result<(), Error> {
        if self.kills {
            self.ended.end(KILLED);
        }
        Ok(())
    }
}

impl Drop for FakeControl {
    fn drop(&mut self) {
        if self.kills {
            self.ended.end(KILLED);
        }
    }
}

fn pair() -> Result<(UnixStream, UnixStream), Error> {
    UnixStream::pair().map_err(Error::failed("cannot create a socket pair"))
}

/// Executes a process.
pub(super) fn exec(spec: &ExecSpec) -> Result<Session, Error> {
    let program = spec.args.first().map(String::as_str);
    if program.is_none_or(|program| program == "missing") {
        return Err(missing(&spec.args));
    }
    let ended = Arc::new(Ended::default());
    let (stdin, mut process_stdin) = pair()?;
    let (stdout, mut process_stdout) = pair()?;
    let (stderr, process_stderr) = pair()?;
    match (program, spec.args.get(1)) {
        (Some("exit"), code) => ended.end(code.and_then(|code| code.parse().ok()).unwrap_or(0)),
        (Some("print"), Some(text)) => {
            process_stdout.write_all(format!("{text}\n").as_bytes()).map_err(Error::failed("cannot print"))?;
            ended.end(0);
        }
        (Some("copy"), _) => {
            let ended = ended.clone();
            std::thread::spawn(move || {
                copy(&mut process_stdin, &mut process_stdout);
                drop((process_stdout, process_stderr));
                ended.end(0);
            });
        }
        _ => {
            let waited = ended.clone();
            std::thread::spawn(move || {
                waited.wait(Duration::from_secs(3600));
                drop((process_stdin, process_stdout, process_stderr));
            });
        }
    }
    Ok(Session {
        stdin: spec.stdin.then(|| stdin.into()),
        stdout: Some(stdout.into()),
        stderr: (!spec.tty).then(|| stderr.into()),
        control: Box::new(FakeControl { ended, kills: true }),
    })
}

fn copy(from: &mut UnixStream, to: &mut UnixStream) {
    let mut buffer = [0u8; 65536];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Attaches to a running container; the second value takes its output.
pub(super) fn attach(ended: Arc<Ended>) -> Result<(Session, UnixStream), Error> {
    let (stdout, output) = pair()?;
    let control = Box::new(FakeControl { ended, kills: false });
    Ok((Session { stdin: None, stdout: Some(stdout.into()), stderr: None, control }, output))
}
