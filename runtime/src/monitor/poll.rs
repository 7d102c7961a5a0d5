//! The descriptors that a monitor waits for, each with its source.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::SigSet;
use nix::sys::time::TimeSpec;

use super::container::Monitor;
use super::log::Stream;

/// The source of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A connection.
    Listener,
    /// The container's output.
    Output(Stream),
    /// The container reads its backlog of input.
    Input,
    /// The backend's descriptor.
    Watch,
    /// A client's connection, by its index.
    Control(usize),
    /// An attached client's input.
    Stdin(usize),
    /// An attached client reads its output, or has closed it.
    Tail(usize, Stream),
}

/// The descriptors of one wait.
pub(super) struct Watched<'a> {
    sources: Vec<Source>,
    descriptors: Vec<PollFd<'a>>,
}

impl<'a> Watched<'a> {
    /// Every descriptor that lets the monitor go on. Output waits for attached clients that are behind, unless the container
    /// has ended: then its pipes limit the rest.
    pub(super) fn of(monitor: &'a Monitor) -> Self {
        let mut watched = Self { sources: Vec::new(), descriptors: Vec::new() };
        if let Some(listener) = &monitor.listener
            && monitor.has_room()
        {
            watched.add(Source::Listener, listener.as_fd(), PollFlags::POLLIN);
        }
        if let Some(descriptor) = monitor.launch.watch_descriptor() {
            watched.add(Source::Watch, descriptor, PollFlags::POLLIN);
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            let held = monitor.exit().is_none() && monitor.clients.iter().any(|client| client.is_behind_on(stream));
            if let Some(output) = &monitor.outputs[stream as usize]
                && !held
            {
                watched.add(Source::Output(stream), output.as_fd(), PollFlags::POLLIN);
            }
        }
        if let Some(input) = &monitor.input
            && !monitor.input_backlog.is_empty()
        {
            watched.add(Source::Input, input.as_fd(), PollFlags::POLLOUT);
        }
        for index in 0..monitor.clients.len() {
            watched.add_client(monitor, index);
        }
        watched
    }

    fn add_client(&mut self, monitor: &'a Monitor, index: usize) {
        let client = &monitor.clients[index];
        if let Some(connection) = &client.connection {
            self.add(Source::Control(index), connection.as_fd(), PollFlags::POLLIN);
        }
        let Some(attached) = &client.attached else { return };
        if let Some(stdin) = &attached.stdin
            && monitor.input_backlog.is_empty()
        {
            self.add(Source::Stdin(index), stdin.as_fd(), PollFlags::POLLIN);
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(tail) = &attached.outputs[stream as usize] {
                let wanted = if tail.is_behind() { PollFlags::POLLOUT } else { PollFlags::empty() };
                self.add(Source::Tail(index, stream), tail.as_fd(), wanted);
            }
        }
    }

    fn add(&mut self, source: Source, descriptor: BorrowedFd<'a>, wanted: PollFlags) {
        self.sources.push(source);
        self.descriptors.push(PollFd::new(descriptor, wanted));
    }

    /// Waits with SIGCHLD unblocked; returns no event after the time-out or a child's end.
    pub(super) fn wait(mut self, timeout: Option<Duration>, signals: &SigSet) -> io::Result<Vec<(Source, PollFlags)>> {
        match ppoll(&mut self.descriptors, timeout.map(TimeSpec::from_duration), Some(*signals)) {
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
            Ok(_) => {}
        }
        let happened = self.descriptors.iter().map(|descriptor| descriptor.revents().unwrap_or(PollFlags::empty()));
        Ok(self.sources.into_iter().zip(happened).filter(|(_, flags)| !flags.is_empty()).collect())
    }
}
