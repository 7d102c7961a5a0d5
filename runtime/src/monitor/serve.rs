//! Serves the requests of the monitor's clients.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::attach::{Attached, Tail, set_nonblocking};
use super::container::{ATTACHED_LIMIT, Monitor};
use super::protocol::{self, Arrived, Failure, MESSAGE_LIMIT, Reply, Request};
use super::sys;
use crate::Error;

/// Serves one request of a client; hangs up on one that is gone or breaks the protocol.
pub(super) fn serve(monitor: &mut Monitor, index: usize) {
    let client = &mut monitor.clients[index];
    let Some(connection) = &client.connection else { return };
    let text = match client.incoming.read(connection.as_fd(), MESSAGE_LIMIT) {
        Ok(Arrived::Message(text, _)) => text,
        Ok(Arrived::Partly) => return,
        Ok(Arrived::End) | Err(_) => return client.hang_up(),
    };
    let (reply, descriptors) = match serde_json::from_slice::<Request>(&text) {
        Ok(Request::Attach { stdin }) => {
            attach(monitor, index, stdin).unwrap_or_else(|error| (refused(&error), Vec::new()))
        }
        Ok(request) => (reply(monitor, &request), Vec::new()),
        Err(error) => {
            let text = format!("the monitor does not know this request: {error}");
            (Reply::Failed(Failure::conflict(text)), Vec::new())
        }
    };
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let client = &mut monitor.clients[index];
    if let Some(connection) = &client.connection
        && protocol::send(connection.as_fd(), &reply, &borrowed).is_err()
    {
        client.hang_up();
    }
}

fn reply(monitor: &mut Monitor, request: &Request) -> Reply {
    let done = match request {
        Request::State => {
            return Reply::State {
                pid: monitor.pid.as_raw(),
                started_ns: monitor.started_ns,
                exit: monitor.exit().cloned(),
            };
        }
        Request::Wait => Ok(()),
        Request::Signal { number } => signal(monitor, *number),
        Request::Kill => monitor.launch.kill(),
        Request::Resize { columns, rows } => monitor
            .terminal
            .as_ref()
            .map_or(Ok(()), |terminal| sys::resize(terminal.as_fd(), *columns, *rows))
            .map_err(Error::failed("cannot resize the terminal")),
        Request::ReopenLog => monitor.log.reopen().map_err(Error::failed("cannot reopen the log")),
        Request::Attach { .. } | Request::Launch { .. } => Err(Error::conflict("this monitor has its process already")),
    };
    done.map_or_else(|error| Reply::Failed(Failure::of(&error)), |()| Reply::Done)
}

/// The process is the monitor's child and is not reaped while it runs: its number cannot be another's.
fn signal(monitor: &Monitor, number: i32) -> Result<(), Error> {
    if monitor.exit().is_some() {
        return Ok(());
    }
    sys::kill(monitor.pid, number).map_err(Error::failed(format!("cannot send signal {number}")))
}

/// Makes the pipes of an attached client; the reply carries their other ends.
fn attach(monitor: &mut Monitor, index: usize, stdin: bool) -> io::Result<(Reply, Vec<OwnedFd>)> {
    if monitor.exit().is_some() {
        return Ok((Reply::Failed(Failure::conflict("the container has ended")), Vec::new()));
    }
    // A client that is gone stays while the container does not read its input.
    if monitor.attached() >= ATTACHED_LIMIT
        && let Some(gone) = monitor.clients.iter_mut().find(|client| client.connection.is_none())
    {
        gone.attached = None;
    }
    if monitor.attached() >= ATTACHED_LIMIT {
        let text = format!("{ATTACHED_LIMIT} clients are attached to the container, which is the limit");
        return Ok((Reply::Failed(Failure::conflict(text)), Vec::new()));
    }
    let mut theirs = Vec::new();
    let mut attached = Attached { stdin: None, outputs: [None, None] };
    if stdin && monitor.input.is_some() && !monitor.input_ends {
        let (reader, writer) = io::pipe()?;
        set_nonblocking(reader.as_fd())?;
        attached.stdin = Some(std::fs::File::from(OwnedFd::from(reader)));
        theirs.push(writer.into());
    }
    for (output, place) in monitor.outputs.iter().zip(&mut attached.outputs) {
        if output.is_some() {
            let (reader, writer) = io::pipe()?;
            *place = Some(Tail::new(writer)?);
            theirs.push(reader.into());
        }
    }
    let reply = Reply::Attached {
        stdin: attached.stdin.is_some(),
        stdout: attached.outputs[0].is_some(),
        stderr: attached.outputs[1].is_some(),
    };
    monitor.clients[index].attached = Some(attached);
    Ok((reply, theirs))
}

fn refused(error: &io::Error) -> Reply {
    Reply::Failed(Failure::conflict(format!("cannot create the pipes of an attached client: {error}")))
}
