//! The process: it binds its sockets as root, gives up every right, and answers until it is killed.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use host::worker::lone::{self, Lone};
use nix::libc::rlim_t;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::{TcpListener, UdpSocket, UnixListener, UnixStream};

use crate::answers::Answers;
use crate::slots::Slots;
use crate::sockets::Sockets;
use crate::supervise::{CONTROL, EMPTY, FILES, READY, SETTINGS, Started};
use crate::{Settings, Told, serve};

/// The user and the group that run it: nobody, on both systems.
const NOBODY: u32 = 65_534;
/// Open files: what may wait and be connected at once, twice.
const FILES_MAX: rlim_t = 4096;

/// The worker `nameserver DIRECTORY`: prints that it listens or why it cannot, closes its standard output, and serves until it is
/// killed.
pub fn main(args: &[OsString]) -> ExitCode {
    let Some(directory) = args.first() else {
        lone::report("usage: nameserver DIRECTORY");
        return ExitCode::from(64);
    };
    match open(Path::new(directory)) {
        Ok(opened) => {
            // Nobody reads why; the server sees that it ended.
            if opened.serve().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            lone::report(&host::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

struct Opened {
    settings: Settings,
    sockets: Sockets,
    control: StdListener,
    null: File,
    /// Held while the process lives.
    _lock: host::fs::Lock,
}

fn open(directory: &Path) -> Result<Opened, Box<dyn std::error::Error>> {
    host::worker::detach()?;
    let lock = Lone::new(directory, FILES).claim()?;
    let started: Option<Started> = host::json::read(&directory.join(SETTINGS))?;
    let settings = started.ok_or_else(|| io::Error::other("the settings are missing"))?.settings;
    let sockets = Sockets::bind(&settings)?;
    let control = directory.join(CONTROL);
    host::fs::remove_file(&control)?;
    let control = StdListener::bind(&control)?;
    control.set_nonblocking(true)?;
    let null = lone::null()?;
    host::worker::drop_rights(&directory.join(EMPTY), NOBODY, FILES_MAX)?;
    Ok(Opened { settings, sockets, control, null, _lock: lock })
}

impl Opened {
    fn serve(self) -> Result<(), Box<dyn std::error::Error>> {
        lone::report(READY);
        lone::close_output(&self.null)?;
        let answers = Arc::new(Answers::new(self.settings)?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let control = UnixListener::from_std(self.control)?;
            let (mut lines, mut sockets) = (None, Some(self.sockets));
            loop {
                tokio::select! {
                    // The newest server is the one that lives.
                    accepted = control.accept() => lines = Some(BufReader::new(accepted?.0).lines()),
                    line = next(&mut lines) => match line {
                        None => lines = None,
                        Some(line) => {
                            answers.learn(serde_json::from_str::<Told>(&line)?)?;
                            // Only now: before, every name would be missing. Questions wait in the sockets.
                            if let Some(sockets) = sockets.take() {
                                begin(sockets, &answers)?;
                            }
                        }
                    },
                }
            }
        })
    }
}

/// The next line of the server; None: it has gone. Without a server it never returns.
async fn next(lines: &mut Option<Lines<BufReader<UnixStream>>>) -> Option<String> {
    match lines {
        Some(lines) => lines.next_line().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

fn begin(sockets: Sockets, answers: &Arc<Answers>) -> io::Result<()> {
    let connections = Slots::new(serve::CONNECTIONS, serve::CONNECTIONS_EACH);
    for socket in sockets.udp {
        tokio::spawn(serve::udp(UdpSocket::from_std(socket)?, Arc::clone(answers)));
    }
    for listener in sockets.tcp {
        let listener = TcpListener::from_std(listener)?;
        tokio::spawn(serve::tcp(listener, Arc::clone(answers), Arc::clone(&connections)));
    }
    Ok(())
}
