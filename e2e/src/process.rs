//! The only place of this crate that starts programs. It does not use `host`'s runner: tests should not depend on tested code, and
//! servers run in the background.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::wait::eventually;

/// The time-out of a client: longer than crictl's own, whose error is better.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The time-out of a server's exit after SIGTERM.
const TERM_TIMEOUT: Duration = Duration::from_secs(20);
/// The interval of waiting for an exit.
const POLL: Duration = Duration::from_millis(5);

/// The output of a program that has exited.
#[derive(Debug)]
pub struct Output {
    /// The exit status.
    pub status: ExitStatus,
    /// The standard output.
    pub stdout: String,
    /// The standard error.
    pub stderr: String,
}

/// The measured output of a program.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// From the start to the first byte.
    pub first: Duration,
    /// From the first byte to the last.
    pub rest: Duration,
    /// The number of bytes.
    pub bytes: u64,
}

/// A program to run, and its surroundings.
#[derive(Debug)]
pub struct Program {
    command: Command,
    stdin: Vec<u8>,
    timeout: Duration,
}

impl Program {
    /// A program with its arguments.
    #[expect(clippy::disallowed_methods, reason = "the one place of this crate; see the module's comment")]
    pub fn new<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(program);
        command.args(args);
        Self { command, stdin: Vec::new(), timeout: TIMEOUT }
    }

    /// Sets the working directory.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Sets the user and the group; other groups are dropped.
    #[must_use]
    pub fn user(mut self, id: u32) -> Self {
        self.command.uid(id).gid(id);
        self
    }

    /// Sets the standard input.
    #[must_use]
    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.stdin = input.into();
        self
    }

    /// Sets the time after which it is killed.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it to its exit, whatever its status.
    pub fn output(mut self) -> Result<Output> {
        let name = self.to_string();
        // Files, not pipes: a daemon that it leaves behind would hold a pipe open.
        let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        self.command.stdin(self.input()?).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        let mut child = self.command.spawn().with_context(|| format!("cannot start {name}"))?;
        let Some(status) = wait(&mut child, self.timeout)? else {
            child.kill()?;
            child.wait()?;
            bail!("{name}: killed after {} s: {}", self.timeout.as_secs(), contents(&mut stderr)?);
        };
        Ok(Output { status, stdout: contents(&mut stdout)?, stderr: contents(&mut stderr)? })
    }

    /// Runs it to its exit and returns its standard output; a failure is an error with its output.
    pub fn run(self) -> Result<String> {
        let name = self.to_string();
        let output = self.output()?;
        ensure!(output.status.success(), "{name}: {}: {}{}", output.status, output.stdout, output.stderr);
        Ok(output.stdout)
    }

    /// Runs it to its successful exit and measures its output.
    pub fn flow(self) -> Result<Flow> {
        self.flow_into(|_| ())
    }

    /// The same, and passes on its output.
    pub fn flow_into(mut self, mut sink: impl FnMut(&[u8])) -> Result<Flow> {
        let name = self.to_string();
        let mut stderr = tempfile::tempfile()?;
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr.try_clone()?);
        let start = Instant::now();
        let mut child = self.command.spawn().with_context(|| format!("cannot start {name}"))?;
        let mut stdout = child.stdout.take().context("its output is piped")?;
        let (mut buffer, mut bytes, mut first) = (vec![0; 1 << 20], 0, None);
        loop {
            let length = stdout.read(&mut buffer)?;
            let now = first.get_or_insert_with(|| start.elapsed());
            if length == 0 {
                let flow = Flow { first: *now, rest: start.elapsed() - *now, bytes };
                ensure!(child.wait()?.success(), "{name}: {}", contents(&mut stderr)?);
                return Ok(flow);
            }
            sink(&buffer[..length]);
            bytes += length as u64;
        }
    }

    /// Starts it with its output in a pipe that nobody reads, like a client that stops reading.
    pub fn unread(mut self) -> Result<Unread> {
        let name = self.to_string();
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = self.command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Unread(child))
    }

    /// Starts it in the background, its output appended to a file.
    pub fn background(mut self, log: &Path) -> Result<Background> {
        let name = self.to_string();
        let file = File::options().create(true).append(true).open(log)?;
        self.command.stdin(self.input()?).stdout(file.try_clone()?).stderr(file);
        let child = self.command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Background { child, name, log: log.to_owned() })
    }

    /// Becomes it; returns why it could not.
    pub fn replace(mut self) -> anyhow::Error {
        let error = self.command.exec();
        anyhow::Error::new(error).context(format!("cannot start {self}"))
    }

    fn input(&self) -> Result<File> {
        let mut file = tempfile::tempfile()?;
        file.write_all(&self.stdin)?;
        file.rewind()?;
        Ok(file)
    }
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.command.get_program().to_string_lossy())?;
        self.command.get_args().try_for_each(|arg| write!(f, " {}", arg.to_string_lossy()))
    }
}

/// A program in the background; dropping this kills it.
#[derive(Debug)]
pub struct Background {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Background {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns an error with the end of its output if it has exited.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended: {status}:\n{}", self.name, tail(&self.log)),
        }
    }

    /// Polls until it is ready.
    pub fn until(&mut self, timeout: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let answer = eventually(timeout, "readiness", || match ready() {
            true => Ok(Some(())),
            false => self.check().map(|()| None),
        });
        // The error of a program that has exited has its log already.
        self.check()?;
        answer.with_context(|| format!("{}:\n{}", self.name, tail(&self.log)))
    }

    /// Stops it by SIGTERM.
    pub fn stop(mut self) -> Result<()> {
        self.check()?;
        Program::new("kill", ["-TERM", &self.pid().to_string()]).run()?;
        match wait(&mut self.child, TERM_TIMEOUT)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{}: after SIGTERM: {status}:\n{}", self.name, tail(&self.log)),
            None => bail!("{}: still there {} s after SIGTERM", self.name, TERM_TIMEOUT.as_secs()),
        }
    }

    /// Waits until it ends by itself.
    pub fn ended(mut self, timeout: Duration) -> Result<ExitStatus> {
        let ended = wait(&mut self.child, timeout)?;
        ended.with_context(|| format!("{}: still there after {} s", self.name, timeout.as_secs()))
    }

    /// Kills it by SIGKILL, like a crash.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program whose output nobody reads; dropping this kills it.
#[derive(Debug)]
pub struct Unread(Child);

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Kills the worker of the server that was started with this word (`cellblock-monitor WORD PATH`) and a path that ends like this.
pub fn kill_worker(word: &str, path: &str) -> Result<()> {
    let list = Program::new("ps", ["-axww", "-o", "pid=", "-o", "command="]).run()?;
    for line in list.lines() {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        // FreeBSD's ps(1) appends the program of a process that changed its title.
        words.pop_if(|word| word.starts_with('('));
        let is_worker = matches!(words[..], [_, _, found, _] if found == word);
        if is_worker && words[words.len() - 1].ends_with(path) {
            return Program::new("kill", ["-KILL", words[0]]).run().map(drop);
        }
    }
    bail!("no worker {word} of {path} runs")
}

/// The seconds of a processor time as FreeBSD's ps(1) prints it (`1:02.34`), and `times` of its sh(1) (`1m2.340s`).
pub fn processor_time(text: &str) -> Result<f64> {
    let parts = text.trim().trim_end_matches('s').split_once([':', 'm']);
    let seconds =
        parts.and_then(|(minutes, rest)| Some(minutes.parse::<f64>().ok()? * 60.0 + rest.parse::<f64>().ok()?));
    seconds.with_context(|| format!("no processor time: {text:?}"))
}

/// The resident set of a process, in KiB.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let printed = Program::new("ps", ["-o", "rss=", "-p", &pid.to_string()]).run()?;
    printed.trim().parse().with_context(|| format!("ps printed {printed:?}"))
}

fn wait(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    while start.elapsed() < timeout {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(POLL);
    }
    Ok(None)
}

fn contents(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a log, for the error of a server that has exited.
pub fn tail(log: &Path) -> String {
    const LINES: usize = 30;
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::processor_time;

    #[test]
    fn processor_times_are_read_as_ps_and_sh_print_them() {
        for (text, wanted) in
            [("  1:02.50\n", Some(62.5)), ("0:00.00", Some(0.0)), ("2m0.250s", Some(120.25)), ("-", None)]
        {
            assert_eq!(processor_time(text).ok(), wanted, "{text}");
        }
    }
}
