//! Runs external programs to their end, without a shell: with a time-out and limited output, and errors that have the command
//! line and its output.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::wait;

/// The limit on a program's output, in bytes: tools print lists, not files.
const OUTPUT_LIMIT: u64 = 4 << 20;
/// Bytes that are copied to a program at once.
const COPY_BYTES: usize = 256 << 10;
/// The default time-out.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why a program failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The program could not be started (not installed, no rights).
    #[error("cannot start {program}")]
    Start {
        /// The program's name.
        program: String,
        /// The error of exec.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("{command}: {status}: {stderr}")]
    Failed {
        /// The program and its arguments.
        command: String,
        /// Its exit status.
        status: ExitStatus,
        /// Its standard error, trimmed.
        stderr: String,
    },
    /// It was killed at its time-out.
    #[error("{command}: killed after {} s", after.as_secs())]
    TimedOut {
        /// The program and its arguments.
        command: String,
        /// The time-out.
        after: Duration,
    },
    /// Its pipes could not be read or written.
    #[error("cannot talk to {command}")]
    Pipe {
        /// The program and its arguments.
        command: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A program with its arguments, not started yet.
#[derive(Debug, Clone)]
pub struct Tool {
    program: OsString,
    args: Vec<OsString>,
    stdin: Vec<u8>,
    timeout: Duration,
}

/// The output of a program that succeeded.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its standard output, at most 4 MiB.
    pub stdout: Vec<u8>,
    /// Its standard error, at most 4 MiB: a tool may warn and succeed.
    pub stderr: Vec<u8>,
}

impl Tool {
    /// A program by its name on PATH or its path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { program: program.as_ref().to_owned(), args: Vec::new(), stdin: Vec::new(), timeout: TIMEOUT }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// The program's standard input (by default empty).
    #[must_use]
    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.stdin = input.into();
        self
    }

    /// Sets the time-out (by default 60 s), at which the program is killed.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it to its end and returns its output. It runs in its own process group in the locale C; the group is killed at the
    /// time-out.
    ///
    /// # Errors
    /// It cannot be started, exits with a code other than 0, or does not end in time.
    pub fn run(self) -> Result<Output, RunError> {
        let command = self.to_string();
        let piped = Stdio::piped;
        let mut child = self.start(self.command().stdin(piped()).stdout(piped()).stderr(piped()))?;
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        std::thread::scope(|scope| {
            let pipe = |source| RunError::Pipe { command: command.clone(), source };
            let begun = begin(scope, &self.stdin, (stdin, stdout, stderr));
            // Without these threads its output is lost.
            let (out, err) = match begun {
                Ok(readers) => readers,
                Err(source) => {
                    kill(&mut child).map_err(pipe)?;
                    return Err(pipe(source));
                }
            };
            let status = wait(&mut child, self.timeout);
            let stdout = joined(out).map_err(pipe)?;
            let stderr = joined(err).map_err(pipe)?;
            self.judge(status, &stderr).map(|()| Output { stdout, stderr })
        })
    }

    /// Runs it to its end with its standard input copied from `from`, however long that takes; the time-out begins when all of it
    /// is read. If `from` fails, the program's process group is killed. Its output is dropped.
    ///
    /// # Errors
    /// As [`Tool::run`]; [`RunError::Pipe`] with the error of `from`.
    pub fn run_from(self, from: &mut dyn Read) -> Result<(), RunError> {
        self.copy(Stdio::piped(), Stdio::null(), |child| {
            let mut stdin = child.stdin.take().expect("stdin is piped");
            copy_from(from, &mut stdin)
        })
    }

    /// Runs it to its end with its standard output copied to `to`, however long that takes; the time-out begins when the program
    /// has closed it. If `to` fails, the program's process group is killed.
    ///
    /// # Errors
    /// As [`Tool::run`]; [`RunError::Pipe`] with the error of `to`.
    pub fn run_to(self, to: &mut dyn Write) -> Result<(), RunError> {
        self.copy(Stdio::null(), Stdio::piped(), |child| {
            let mut stdout = child.stdout.take().expect("stdout is piped");
            io::copy(&mut stdout, to).map(drop)
        })
    }

    fn copy(
        self,
        stdin: Stdio,
        stdout: Stdio,
        copy: impl FnOnce(&mut Child) -> io::Result<()>,
    ) -> Result<(), RunError> {
        let mut child = self.start(self.command().stdin(stdin).stdout(stdout).stderr(Stdio::piped()))?;
        let stderr = child.stderr.take().expect("stderr is piped");
        std::thread::scope(|scope| {
            let pipe = |source| RunError::Pipe { command: self.to_string(), source };
            let begun = std::thread::Builder::new().spawn_scoped(scope, move || read_capped(stderr));
            let copied = begun.and_then(|err| copy(&mut child).map(|()| err));
            let err = match copied {
                Ok(err) => err,
                Err(source) => {
                    kill(&mut child).map_err(pipe)?;
                    return Err(pipe(source));
                }
            };
            let status = wait(&mut child, self.timeout);
            self.judge(status, &joined(err).map_err(pipe)?)
        })
    }

    fn start(&self, command: &mut Command) -> Result<Child, RunError> {
        let program = || self.program.to_string_lossy().into_owned();
        command.spawn().map_err(|source| RunError::Start { program: program(), source })
    }

    /// What became of it: None is the time-out.
    fn judge(&self, status: io::Result<Option<ExitStatus>>, stderr: &[u8]) -> Result<(), RunError> {
        let command = self.to_string();
        match status {
            Err(source) => Err(RunError::Pipe { command, source }),
            Ok(None) => Err(RunError::TimedOut { command, after: self.timeout }),
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(Some(status)) => {
                let stderr = String::from_utf8_lossy(stderr).trim().to_owned();
                Err(RunError::Failed { command, status, stderr })
            }
        }
    }

    /// Runs it to its end with these standard streams, which it may leave to a process that outlives it (a runtime that starts
    /// a container). Nothing is captured, so the program must report its errors elsewhere. No thread is started.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub fn run_with(self, stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd) -> Result<(), RunError> {
        let mut child = self.start(self.command().stdin(stdin).stdout(stdout).stderr(stderr))?;
        let status = wait(&mut child, self.timeout);
        self.judge(status, &[])
    }

    #[expect(clippy::disallowed_methods, reason = "this is the runner that the lint points to")]
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env("LC_ALL", "C").process_group(0);
        command
    }
}

impl std::fmt::Display for Tool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.program.to_string_lossy())?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", arg.to_string_lossy()))
    }
}

type Reader<'scope> = std::thread::ScopedJoinHandle<'scope, io::Result<Vec<u8>>>;

/// Starts the threads for a program's input and output. The kernel may have no thread left (EAGAIN).
fn begin<'scope, 'env>(
    scope: &'scope std::thread::Scope<'scope, 'env>,
    input: &'env [u8],
    (mut stdin, stdout, stderr): (ChildStdin, ChildStdout, ChildStderr),
) -> io::Result<(Reader<'scope>, Reader<'scope>)> {
    let thread = std::thread::Builder::new;
    thread().spawn_scoped(scope, move || {
        // A tool that ends without reading its input says why by its exit code.
        let _ = stdin.write_all(input);
    })?;
    let out = thread().spawn_scoped(scope, move || read_capped(stdout))?;
    let err = thread().spawn_scoped(scope, move || read_capped(stderr))?;
    Ok((out, err))
}

fn joined(reader: Reader<'_>) -> io::Result<Vec<u8>> {
    reader.join().expect("the reader does not panic")
}

/// Copies until `from` ends, or the program reads no more: then its exit status says why.
fn copy_from(from: &mut dyn Read, stdin: &mut ChildStdin) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 || stdin.write_all(&buffer[..read]).is_err() {
            return Ok(());
        }
    }
}

/// Reads to the end of a pipe and keeps the first [`OUTPUT_LIMIT`] bytes; the rest is dropped, so that the writer does not
/// block.
fn read_capped(mut pipe: impl Read) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    pipe.by_ref().take(OUTPUT_LIMIT).read_to_end(&mut kept)?;
    io::copy(&mut pipe, &mut io::sink())?;
    Ok(kept)
}

/// Waits for the child. At the time-out its process group is killed and reaped; None.
fn wait(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let ended = wait::exit_descriptor(id_of(child).as_raw())
        .and_then(|descriptor| descriptor.map_or(Ok(true), |descriptor| wait::readable(descriptor, timeout)));
    if let Ok(true) = ended {
        return child.wait().map(Some);
    }
    kill(child)?;
    ended.map(|_| None)
}

/// Kills and reaps a program with its process group.
fn kill(child: &mut Child) -> io::Result<()> {
    match killpg(id_of(child), Signal::SIGKILL) {
        // It has ended by itself.
        Ok(()) | Err(Errno::ESRCH) => child.wait().map(drop),
        Err(errno) => Err(errno.into()),
    }
}

fn id_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid fits an i32"))
}

/// Whether a program failed with this exit code.
#[must_use]
pub fn exited_with(error: &RunError, code: i32) -> bool {
    matches!(error, RunError::Failed { status, .. } if status.code() == Some(code) && status.signal().is_none())
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::time::Duration;

    use super::{RunError, Tool, exited_with};

    #[test]
    fn a_tool_reads_its_input_and_its_output_is_returned() {
        let output = Tool::new("cat").stdin("hello").run().unwrap();
        assert_eq!(output.stdout, b"hello");
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_printed() {
        let error = Tool::new("sh").args(["-c", "echo broken >&2; exit 3"]).run().unwrap_err();
        assert!(exited_with(&error, 3));
        assert!(error.to_string().contains("sh -c") && error.to_string().ends_with("broken"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Tool::new("no-such-program").run().unwrap_err();
        assert!(matches!(&error, RunError::Start { program, .. } if program == "no-such-program"));
    }

    #[test]
    fn where_no_process_can_be_made_the_error_says_so() {
        // The test runs itself again: limits hold for a whole process.
        const NAME: &str = "run::tests::where_no_process_can_be_made_the_error_says_so";
        const AGAIN: &str = "CELLBLOCK_TEST_AGAIN";
        if std::env::var_os(AGAIN).is_none() {
            let program = std::env::current_exe().unwrap();
            let script = format!("{AGAIN}=1 exec \"$0\" --exact {NAME} --nocapture");
            let output = Tool::new("sh").args(["-c", script.as_str()]).args([&program]).run().unwrap();
            assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
            return;
        }
        // Root has no such limit.
        if nix::unistd::geteuid().is_root() {
            nix::unistd::setuid(nix::unistd::Uid::from_raw(65_534)).unwrap();
        }
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NPROC, 0, 0).unwrap();
        let error = Tool::new("true").run().unwrap_err();
        assert!(matches!(error, RunError::Start { .. }) && crate::is_exhausted(&error), "{error:?}");
    }

    #[test]
    fn streams_are_copied_to_a_program_and_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("copied");
        let (script, bytes) = (format!("cat >{}", file.display()), vec![7; 1 << 20]);
        Tool::new("sh").args(["-c", &script]).run_from(&mut bytes.as_slice()).unwrap();
        let mut copied = Vec::new();
        Tool::new("cat").args([&file]).run_to(&mut copied).unwrap();
        assert!(copied == bytes);
        // One that reads no more says why.
        let script = "head -c 1 >/dev/null; echo enough >&2; exit 3";
        let error = Tool::new("sh").args(["-c", script]).run_from(&mut bytes.as_slice()).unwrap_err();
        assert!(exited_with(&error, 3) && error.to_string().ends_with("enough"), "{error}");
    }

    /// A stream that breaks off.
    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broke off"))
        }
    }

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::other("broke off"))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stream_that_breaks_off_ends_the_program() {
        // Neither ends by itself; the inner sleep holds the pipe of errors: they return early only because it was killed too.
        let begun = std::time::Instant::now();
        let reader = Tool::new("sh").args(["-c", "sleep 60 & wait"]).run_from(&mut Broken).unwrap_err();
        let writer = Tool::new("sh").args(["-c", "echo some; sleep 60 & wait"]).run_to(&mut Broken).unwrap_err();
        for error in [reader, writer] {
            assert!(matches!(&error, RunError::Pipe { source, .. } if source.to_string() == "broke off"), "{error:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn the_whole_group_dies_at_the_time_out() {
        // The inner sleep holds the pipes: the call returns only because it was killed too.
        let error =
            Tool::new("sh").args(["-c", "sleep 60 & wait"]).timeout(Duration::from_millis(50)).run().unwrap_err();
        assert!(matches!(error, RunError::TimedOut { .. }), "{error}");
    }
}
