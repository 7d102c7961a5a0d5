//! From a monitor's fork to the program: the child puts its streams into their places, closes all other descriptors, enters the
//! jail, opens its terminal there, becomes its user, and runs the program. It reports errors through a pipe that the exec
//! closes.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::pty::{grantpt, posix_openpt, unlockpt};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, chdir, execve, fchown, setgid, setgroups, setsid, setuid};

use super::sys::jail::{Jail, attach};
use super::sys::process;
use crate::Error;
use crate::monitor::{Launched, Streams, receive_descriptor};
use crate::spec::Identity;

/// The descriptors that the child keeps: the pipe to the monitor, and the socket for the terminal.
const REPORT: RawFd = 3;
const TERMINAL: RawFd = 4;
/// The first number for descriptors that wait until their places are free.
const ASIDE: RawFd = TERMINAL + 1;
/// The limit on a report, in bytes.
const REPORT_LENGTH: u64 = 4096;
/// The exit codes of a program that does not exist and of one that cannot be run, as shells count.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
/// The default of PATH (execvp(3)).
const DEFAULT_PATH: &str = "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin";

/// A program and its user.
pub(super) struct Program<'a> {
    pub(super) args: &'a [String],
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: &'a Path,
    pub(super) identity: &'a Identity,
    /// The name of its login (getlogin(2)); empty: none.
    pub(super) login: &'a str,
    pub(super) no_new_privileges: bool,
}

/// Starts a program in a jail; returns when it runs, or leaves nothing of it.
///
/// # Errors
/// [`Error::Command`] for a program that does not exist or cannot be run; any other.
pub(super) fn start(jail: &Jail, program: &Program<'_>, streams: Streams) -> Result<Launched, Error> {
    let failed = || Error::failed::<io::Error>("cannot start a process in the jail");
    let (report, their_report) = io::pipe().map_err(failed())?;
    let (terminal, their_terminal) = match &streams {
        Streams::Pipes { .. } => (None, None),
        Streams::Terminal => {
            let (ours, theirs) = UnixStream::pair().map_err(failed())?;
            (Some(ours), Some(theirs))
        }
    };
    let table = process::table_of_next_child().map_err(failed())?;
    let Some(pid) = host::worker::fork().map_err(failed())? else {
        let (report, terminal) = (their_report.as_fd(), their_terminal.as_ref());
        let ends = Ends { streams: &streams, report, terminal, table };
        let error = run(jail, program, &ends).unwrap_or_else(|failure| failure);
        let mut report = File::from(process::adopt(error.report));
        // Where the pipe cannot be written, the monitor is gone.
        let _ = report.write_all(error.text.as_bytes());
        process::leave(1);
    };
    drop((their_report, their_terminal, streams));
    let launched = begun(pid, report, terminal);
    if launched.is_err() {
        // It reported its error, and ends.
        let _ = waitpid(pid, None);
    }
    launched.map_err(|text| report_error(&text, program))
}

/// Waits for the exec, or for the child's error.
fn begun(pid: Pid, report: io::PipeReader, terminal: Option<UnixStream>) -> Result<Launched, String> {
    let terminal = terminal.map(|socket| receive_descriptor(socket.as_fd())).transpose();
    let mut text = String::new();
    report.take(REPORT_LENGTH).read_to_string(&mut text).map_err(|error| error.to_string())?;
    match terminal {
        Ok(terminal) if text.is_empty() => Ok(Launched { pid, terminal }),
        // A child that failed before sends none, and reports its error.
        Err(error) if text.is_empty() => Err(error.to_string()),
        _ => Err(text),
    }
}

/// The child's report as an error: an exit code and a reason for a program that does not run.
fn report_error(text: &str, program: &Program<'_>) -> Error {
    if let Some((code, reason)) = text.split_once(' ')
        && let Ok(exit_code) = code.parse()
    {
        let program = program.args.first().cloned().unwrap_or_default();
        return Error::Command { program, reason: reason.to_owned(), exit_code };
    }
    Error::failed("cannot start a process in the jail")(io::Error::other(text.to_owned()))
}

/// The child's ends of everything.
struct Ends<'a> {
    streams: &'a Streams,
    report: BorrowedFd<'a>,
    terminal: Option<&'a UnixStream>,
    /// The size of the child's descriptor table.
    table: RawFd,
}

/// An error, and the pipe for it.
struct Failure {
    report: RawFd,
    text: String,
}

/// Runs the program; returns only an error.
fn run(jail: &Jail, program: &Program<'_>, ends: &Ends<'_>) -> Result<Failure, Failure> {
    let before =
        |error: io::Error| Failure { report: ends.report.as_raw_fd(), text: format!("its descriptors: {error}") };
    arrange(ends).map_err(before)?;
    let failed =
        |what: &'static str| move |error: io::Error| Failure { report: REPORT, text: format!("{what}: {error}") };
    process::reset_signals().map_err(failed("its signals"))?;
    // From the attach on, other processes of the jail see this one: none may trace it before it runs its program.
    process::forbid_tracing().map_err(failed("tracing"))?;
    // The monitor holds the jail's descriptor until this process runs its program.
    attach(jail.jid).map_err(failed("attaching"))?;
    setsid().map_err(|errno| failed("its session")(errno.into()))?;
    if ends.terminal.is_some() {
        open_terminal(program.identity).map_err(failed("its terminal"))?;
    }
    // As runc: first as root, who may enter a directory that its user may not; a file system that knows no root (NFS) may let
    // only the user in.
    let entered = chdir(program.cwd);
    if !matches!(entered, Ok(()) | Err(Errno::EACCES | Errno::EPERM)) {
        entered.map_err(|errno| failed("its working directory")(errno.into()))?;
    }
    become_user(program).map_err(failed("its user"))?;
    if entered.is_err() {
        chdir(program.cwd).map_err(|errno| failed("its working directory")(errno.into()))?;
    }
    let (code, reason) = execute(program);
    Ok(Failure { report: REPORT, text: format!("{code} {reason}") })
}

/// Puts the descriptors into their places and closes all others.
fn arrange(ends: &Ends<'_>) -> io::Result<()> {
    // openfiles of rctl(8) counts the largest size that the table of a process has had, and a child begins with its parent's count,
    // which goes back to the server: hundreds for each process. It is set anew, by dup2(2) alone, where a number does not fit.
    process::place(ends.report, ends.table)?;
    let aside = |descriptor: BorrowedFd<'_>| -> io::Result<OwnedFd> {
        Ok(process::adopt(fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(ASIDE))?))
    };
    let mut moves: Vec<(OwnedFd, RawFd)> = vec![(aside(ends.report)?, REPORT)];
    match ends.streams {
        Streams::Pipes { stdin, stdout, stderr } => {
            for (descriptor, number) in [(stdin, 0), (stdout, 1), (stderr, 2)] {
                moves.push((aside(descriptor.as_fd())?, number));
            }
        }
        Streams::Terminal => {}
    }
    if let Some(terminal) = ends.terminal {
        moves.push((aside(terminal.as_fd())?, TERMINAL));
    }
    for (descriptor, number) in &moves {
        process::place(descriptor.as_fd(), *number)?;
    }
    // Their numbers are closed below: they must not be closed twice.
    moves.into_iter().for_each(|(descriptor, _)| std::mem::forget(descriptor));
    process::close_from(if ends.terminal.is_some() { TERMINAL + 1 } else { REPORT + 1 });
    let report = process::adopt(REPORT);
    let flagged = fcntl(&report, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    std::mem::forget(report);
    flagged?;
    Ok(())
}

/// Opens a terminal inside the jail, where alone it is visible. The socket passes its master out.
fn open_terminal(identity: &Identity) -> io::Result<()> {
    let socket = UnixStream::from(process::adopt(TERMINAL));
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = process::terminal_name(master.as_fd())?;
    let slave = open(name.as_str(), OFlag::O_RDWR | OFlag::O_NOCTTY, Mode::empty())?;
    fchown(slave.as_fd(), Some(Uid::from_raw(identity.uid)), None)?;
    process::control_terminal(slave.as_fd())?;
    for number in 0..3 {
        process::place(slave.as_fd(), number)?;
    }
    let rights = [master.as_raw_fd()];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(b"t")],
        &[ControlMessage::ScmRights(&rights)],
        MsgFlags::empty(),
        None,
    )?;
    Ok(())
}

/// The groups first: only root may change them. Up to FreeBSD 14, and for programs linked for it, the first of setgroups(2)'s
/// groups is the effective one; the others are the supplementary ones, among which a login (initgroups(3)) has the primary
/// group too.
fn become_user(program: &Program<'_>) -> io::Result<()> {
    let identity = program.identity;
    let groups = std::iter::once(&identity.gid).chain(&identity.groups);
    let groups: Vec<Gid> = groups.map(|group| Gid::from_raw(*group)).collect();
    setgroups(&groups)?;
    setgid(Gid::from_raw(identity.gid))?;
    // Else it would be the login name of the server's process.
    process::set_login(program.login)?;
    setuid(Uid::from_raw(identity.uid))?;
    if program.no_new_privileges {
        process::forbid_new_privileges()?;
    }
    Ok(())
}

/// Runs the program; returns the exit code and the reason when it cannot.
fn execute(program: &Program<'_>) -> (i32, String) {
    let c_strings = |texts: Vec<String>| texts.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let env = program.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let (Ok(args), Ok(env)) = (c_strings(program.args.to_vec()), c_strings(env)) else {
        return (NOT_EXECUTABLE, "an argument has a NUL".to_owned());
    };
    let mut refused = Errno::ENOENT;
    for candidate in candidates(program) {
        let Ok(path) = CString::new(candidate.into_vec()) else { continue };
        let errno = match execve(&path, &args, &env) {
            Ok(never) => match never {},
            Err(errno) => errno,
        };
        // As execvp(3): the search goes on after a missing one; any other reason is reported.
        if !matches!(errno, Errno::ENOENT | Errno::ENOTDIR) {
            refused = errno;
        }
    }
    let code = if refused == Errno::ENOENT { NOT_FOUND } else { NOT_EXECUTABLE };
    (code, refused.desc().to_owned())
}

/// The candidate paths of the program.
fn candidates(program: &Program<'_>) -> Vec<OsString> {
    let Some(name) = program.args.first() else { return Vec::new() };
    if name.contains('/') {
        return vec![name.into()];
    }
    let path = program.env.iter().find(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, path)| path);
    path.split(':')
        .filter(|directory| !directory.is_empty())
        .map(|directory| format!("{directory}/{name}").into())
        .collect()
}
