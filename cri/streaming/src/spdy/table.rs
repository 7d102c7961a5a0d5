//! The streams of a connection and their windows: what may be sent, what may be received, who has said the last word. Pure
//! bookkeeping: frames go in, decisions come out.
//!
//! The clients that matter (crictl, kubelet and kubectl, all by moby/spdystream) know nothing of windows: they never send
//! WINDOW_UPDATE, they drop those that they get, and they send as much as the socket takes. A connection is therefore of one
//! of three kinds. It begins as [`Peer::Unknown`] and is treated as one that keeps windows. The first WINDOW_UPDATE or
//! initial window that the peer sends makes it [`Peer::Keeps`]: both sides are held to their windows from then on. A peer
//! that overruns a window, or answers the PING that is sent when its own is used up without having opened it, is
//! [`Peer::Ignores`]: the windows are forgotten, and the socket's own flow control is what holds back either side.

use std::collections::{BTreeMap, HashMap};

use super::frame::{MAX_31, Status, Violation};
use crate::inbox::Inlet;

/// Bytes that may be sent on a stream, and on all together, before the receiver asks for more: the draft's default, which
/// we keep for what we receive.
pub const WINDOW: i64 = 64 * 1024;
/// What is given back once it has piled up to this: fewer frames, and the sender never comes to a stop.
const CREDIT: i64 = WINDOW / 2;

/// What the peer makes of windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// It has not shown yet.
    Unknown,
    /// It opens ours and is held to its own.
    Keeps,
    /// It knows nothing of them.
    Ignores,
}

/// What a stream that wants to send may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Send so many bytes.
    Send(usize),
    /// Wait for the window to open.
    Wait,
    /// Wait, but the peer may not know that it should open it: ask whether it listens.
    Ask,
    /// Nothing can be sent any more.
    Gone,
}

/// Where a data frame's payload goes.
#[derive(Debug)]
pub enum Delivery {
    /// To the stream's consumer.
    To(Inlet),
    /// Nowhere: the stream is gone, and the peer could not know.
    Nowhere,
}

#[derive(Debug)]
struct Stream {
    inlet: Inlet,
    send: i64,
    receive: i64,
    consumed: i64,
    local_done: bool,
    remote_done: bool,
}

/// The streams of one connection.
#[derive(Debug)]
pub struct Table {
    streams: HashMap<u32, Stream>,
    limit: usize,
    last: u32,
    initial: i64,
    send: i64,
    receive: i64,
    peer: Peer,
    credits: BTreeMap<u32, i64>,
    closing: bool,
}

impl Table {
    /// A table for at most `limit` streams at once.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            streams: HashMap::new(),
            limit,
            last: 0,
            initial: WINDOW,
            send: WINDOW,
            receive: WINDOW,
            peer: Peer::Unknown,
            credits: BTreeMap::new(),
            closing: false,
        }
    }

    /// The last stream that was accepted.
    #[must_use]
    pub fn last(&self) -> u32 {
        self.last
    }

    /// What the peer makes of windows.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The peer opens a stream; `silent` when it will send nothing on it.
    ///
    /// # Errors
    /// An even number or one that went before; more streams than the limit; none are taken any more.
    pub fn open(&mut self, stream: u32, inlet: Inlet, silent: bool) -> Result<(), Violation> {
        if self.streams.contains_key(&stream) {
            return Err(Violation::Stream { stream, status: Status::StreamInUse });
        }
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(Violation::Stream { stream, status: Status::ProtocolError });
        }
        self.last = stream;
        if self.closing || self.streams.len() >= self.limit {
            return Err(Violation::Stream { stream, status: Status::RefusedStream });
        }
        if silent {
            inlet.finish();
        }
        let opened =
            Stream { inlet, send: self.initial, receive: WINDOW, consumed: 0, local_done: false, remote_done: silent };
        self.streams.insert(stream, opened);
        Ok(())
    }

    /// A data frame of `length` bytes begins.
    ///
    /// # Errors
    /// A stream that never was, one on which the peer has said its last word, a window overrun by a peer that keeps them.
    pub fn receive(&mut self, stream: u32, length: usize) -> Result<Delivery, Violation> {
        let length = i64::try_from(length).expect("a frame is below 16 MiB");
        if stream == 0 {
            return Err(Violation::Connection("data for stream 0"));
        }
        self.charge(stream, length)?;
        // What arrives is taken from the connection's window at once: the streams' own bound what is held.
        self.give_back(0, length);
        match self.streams.get(&stream) {
            Some(state) if state.remote_done => Err(Violation::Stream { stream, status: Status::StreamAlreadyClosed }),
            Some(state) => Ok(Delivery::To(state.inlet.clone())),
            None if stream <= self.last => Ok(Delivery::Nowhere),
            None => Err(Violation::Stream { stream, status: Status::InvalidStream }),
        }
    }

    fn charge(&mut self, stream: u32, length: i64) -> Result<(), Violation> {
        if self.peer == Peer::Ignores {
            return Ok(());
        }
        self.receive -= length;
        let mut overrun = self.receive < 0;
        if let Some(state) = self.streams.get_mut(&stream) {
            state.receive -= length;
            overrun |= state.receive < 0;
        }
        match self.peer {
            _ if !overrun => Ok(()),
            Peer::Unknown => {
                self.ignore_windows();
                Ok(())
            }
            _ if self.receive < 0 => Err(Violation::Connection("the connection's window was overrun")),
            _ => Err(Violation::Stream { stream, status: Status::FlowControlError }),
        }
    }

    /// The peer does not know windows: they are forgotten.
    pub fn ignore_windows(&mut self) {
        if self.peer == Peer::Unknown {
            self.peer = Peer::Ignores;
            self.credits.clear();
        }
    }

    /// A consumer is done with bytes of a stream. Returns whether there is something to give back now.
    pub fn consumed(&mut self, stream: u32, length: usize) -> bool {
        let length = i64::try_from(length).expect("an inbox is far below 2^63");
        let Some(state) = self.streams.get_mut(&stream).filter(|state| !state.remote_done) else { return false };
        state.consumed += length;
        if state.consumed < CREDIT {
            return false;
        }
        let credit = std::mem::take(&mut state.consumed);
        self.give_back(stream, credit);
        self.peer != Peer::Ignores
    }

    fn give_back(&mut self, stream: u32, length: i64) {
        if self.peer != Peer::Ignores && length > 0 {
            *self.credits.entry(stream).or_default() += length;
        }
    }

    /// Takes the WINDOW_UPDATEs that are due, as streams and increments.
    pub fn credits(&mut self) -> Vec<(u32, u32)> {
        let due: Vec<_> = self.credits.iter().filter(|(_, credit)| **credit >= CREDIT).map(|(id, _)| *id).collect();
        let mut updates = Vec::with_capacity(due.len());
        for stream in due {
            let credit = self.credits.remove(&stream).expect("it was just listed");
            if stream == 0 {
                self.receive += credit;
            } else if let Some(state) = self.streams.get_mut(&stream) {
                state.receive += credit;
            } else {
                continue;
            }
            updates.push((stream, u32::try_from(credit).expect("credits stay below the window")));
        }
        updates
    }

    /// Whether WINDOW_UPDATEs are due.
    #[must_use]
    pub fn has_credits(&self) -> bool {
        self.credits.values().any(|credit| *credit >= CREDIT)
    }

    /// The peer takes more, on a stream or (0) on all together.
    ///
    /// # Errors
    /// An increment of nothing, or a window above 2^31 - 1.
    pub fn window_update(&mut self, stream: u32, delta: u32) -> Result<(), Violation> {
        let flow_control = Violation::Stream { stream, status: Status::FlowControlError };
        if delta == 0 {
            let wrong = Violation::Stream { stream, status: Status::ProtocolError };
            return Err(if stream == 0 { Violation::Connection("a window update of 0") } else { wrong });
        }
        self.keeps_windows();
        if stream == 0 {
            self.send += i64::from(delta);
            let fits = self.send <= i64::from(MAX_31);
            return if fits { Ok(()) } else { Err(Violation::Connection("a window above 2^31 - 1")) };
        }
        let Some(state) = self.streams.get_mut(&stream) else { return Ok(()) };
        state.send += i64::from(delta);
        if state.send <= i64::from(MAX_31) { Ok(()) } else { Err(flow_control) }
    }

    fn keeps_windows(&mut self) {
        if self.peer == Peer::Unknown {
            self.peer = Peer::Keeps;
        }
    }

    /// The peer says with how much the streams begin; those that are open change by the difference, also below zero.
    pub fn initial_window(&mut self, window: u32) {
        self.keeps_windows();
        let change = i64::from(window) - self.initial;
        self.initial = i64::from(window);
        for state in self.streams.values_mut() {
            state.send += change;
        }
    }

    /// May `wanted` bytes be sent on the stream? What is granted is taken from the windows.
    pub fn reserve(&mut self, stream: u32, wanted: usize) -> Leave {
        let Some(state) = self.streams.get_mut(&stream).filter(|state| !state.local_done) else { return Leave::Gone };
        if self.peer == Peer::Ignores {
            return Leave::Send(wanted);
        }
        match usize::try_from(state.send.min(self.send)) {
            Ok(open) if open > 0 => {
                let granted = wanted.min(open);
                let taken = i64::try_from(granted).expect("it is within the window");
                state.send -= taken;
                self.send -= taken;
                Leave::Send(granted)
            }
            _ if self.peer == Peer::Unknown => Leave::Ask,
            _ => Leave::Wait,
        }
    }

    /// We have said our last word on the stream. Returns whether it was not said before.
    pub fn local_done(&mut self, stream: u32) -> bool {
        let Some(state) = self.streams.get_mut(&stream).filter(|state| !state.local_done) else { return false };
        state.local_done = true;
        self.sweep(stream);
        true
    }

    /// The peer has said its last word on the stream.
    pub fn remote_done(&mut self, stream: u32) {
        if let Some(state) = self.streams.get_mut(&stream) {
            state.inlet.finish();
            state.remote_done = true;
            self.sweep(stream);
        }
    }

    fn sweep(&mut self, stream: u32) {
        if self.streams.get(&stream).is_some_and(|state| state.local_done && state.remote_done) {
            self.streams.remove(&stream);
        }
    }

    /// The stream is gone, by either side's word. Returns whether it was there.
    pub fn reset(&mut self, stream: u32) -> bool {
        let removed = self.streams.remove(&stream);
        removed.map(|state| state.inlet.cut()).is_some()
    }

    /// No more streams are taken.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// The connection is gone, and all its streams with it.
    pub fn end(&mut self) {
        self.close();
        for (_, state) in self.streams.drain() {
            state.inlet.cut();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Delivery, Leave, Peer, Status, Table, Violation, WINDOW};
    use crate::inbox::inbox;

    const ALL: usize = 64 * 1024;

    fn table() -> Table {
        let mut table = Table::new(2);
        table.open(1, inbox(8, None).0, false).unwrap();
        table
    }

    fn refused(stream: u32, status: Status) -> Result<(), Violation> {
        Err(Violation::Stream { stream, status })
    }

    #[test]
    fn streams_are_odd_new_and_few() {
        let mut table = table();
        assert_eq!(table.open(1, inbox(8, None).0, false), refused(1, Status::StreamInUse));
        assert_eq!(table.open(2, inbox(8, None).0, false), refused(2, Status::ProtocolError));
        table.open(5, inbox(8, None).0, false).unwrap();
        assert_eq!(table.open(3, inbox(8, None).0, false), refused(3, Status::ProtocolError));
        assert_eq!(table.open(7, inbox(8, None).0, false), refused(7, Status::RefusedStream));
        assert!(table.reset(5));
        table.open(9, inbox(8, None).0, false).unwrap();
        table.close();
        assert!(table.reset(9));
        assert_eq!(table.open(11, inbox(8, None).0, false), refused(11, Status::RefusedStream));
    }

    #[test]
    fn a_peer_that_overruns_its_window_is_one_that_knows_none() {
        let mut table = table();
        assert!(matches!(table.receive(1, ALL), Ok(Delivery::To(_))));
        assert_eq!(table.peer(), Peer::Unknown);
        assert!(matches!(table.receive(1, 1), Ok(Delivery::To(_))));
        assert_eq!(table.peer(), Peer::Ignores);
        assert!(table.credits().is_empty());
        assert_eq!(table.reserve(1, 10 * ALL), Leave::Send(10 * ALL));
    }

    #[test]
    fn a_peer_that_keeps_windows_is_held_to_them() {
        let mut table = table();
        table.window_update(1, 1).unwrap();
        table.receive(1, ALL).unwrap();
        assert_eq!(table.credits(), [(0, 65536)]);
        assert_eq!(table.receive(1, 1).map(drop), refused(1, Status::FlowControlError));
        table.reset(1);
        table.open(3, inbox(8, None).0, false).unwrap();
        assert!(matches!(table.receive(3, 2 * ALL), Err(Violation::Connection(_))));
    }

    #[test]
    fn what_was_consumed_is_given_back_in_halves() {
        let mut table = table();
        table.receive(1, ALL).unwrap();
        assert!(!table.consumed(1, ALL / 2 - 1));
        assert!(table.consumed(1, 1));
        assert_eq!(table.credits(), [(0, 65536), (1, 32768)]);
        table.receive(1, ALL / 2).unwrap();
        assert_eq!(table.peer(), Peer::Unknown, "the window was kept");
    }

    #[test]
    fn sending_stops_at_the_smaller_window() {
        let mut table = table();
        table.open(3, inbox(8, None).0, false).unwrap();
        assert_eq!(table.reserve(1, 60_000), Leave::Send(60_000));
        assert_eq!(table.reserve(1, 60_000), Leave::Send(5_536));
        assert_eq!(table.reserve(3, 1), Leave::Ask, "the connection's window is shared");
        table.window_update(0, 10).unwrap();
        assert_eq!(table.reserve(3, 100), Leave::Send(10));
        assert_eq!(table.reserve(3, 1), Leave::Wait);
        table.window_update(0, 10).unwrap();
        assert_eq!(table.reserve(1, 1), Leave::Wait, "its own is used up");
        table.initial_window(u32::try_from(WINDOW).unwrap() + 3);
        assert_eq!(table.reserve(1, 100), Leave::Send(3));
        table.initial_window(0);
        assert_eq!(table.reserve(3, 1), Leave::Wait, "a window may be below zero");
    }

    #[test]
    fn windows_do_not_overflow() {
        let mut table = table();
        assert_eq!(table.window_update(1, (1 << 31) - 1), refused(1, Status::FlowControlError));
        assert!(matches!(table.window_update(0, (1 << 31) - 1), Err(Violation::Connection(_))));
        assert_eq!(table.window_update(1, 0), refused(1, Status::ProtocolError));
        assert!(matches!(table.window_update(0, 0), Err(Violation::Connection(_))));
        assert_eq!(table.window_update(99, 1), Ok(()), "for a stream that is gone");
    }

    #[test]
    fn a_stream_is_gone_when_both_have_said_their_last_word() {
        let mut table = table();
        table.remote_done(1);
        assert_eq!(table.receive(1, 1).map(drop), refused(1, Status::StreamAlreadyClosed));
        assert_eq!(table.reserve(1, 1), Leave::Send(1));
        assert!(table.local_done(1));
        assert!(!table.local_done(1));
        assert_eq!(table.reserve(1, 1), Leave::Gone);
        assert!(matches!(table.receive(1, 1), Ok(Delivery::Nowhere)));
        assert_eq!(table.receive(3, 1).map(drop), refused(3, Status::InvalidStream));
        assert!(matches!(table.receive(0, 1), Err(Violation::Connection(_))));
    }
}
