//! The streams of a connection, their states and their windows. Pure bookkeeping: frames go in, decisions come out.
//!
//! The clients that matter (crictl, kubelet and kubectl, all by moby/spdystream) have no flow control: they never send
//! WINDOW_UPDATE, ignore those that they get, and send as much as the socket takes. A connection therefore begins as
//! [`FlowControl::Unknown`], and windows hold. The first WINDOW_UPDATE or initial window of the peer makes it
//! [`FlowControl::Honored`]: windows hold for good. A peer that overruns a window, or that answers the PING sent at the end of its
//! window without opening the window, makes it [`FlowControl::Ignored`]: windows no longer hold, and only the socket's flow
//! control limits either side.

use std::collections::{BTreeMap, HashMap};

use super::frame::{MAX_31, ProtocolError, RstStatus};
use crate::input::InputWriter;

/// The initial window of a stream and of the connection, in bytes: the draft's default.
pub(crate) const WINDOW: i64 = 64 * 1024;
/// The smallest delta of our WINDOW_UPDATEs, in bytes: fewer frames, and the sender never stalls.
const UPDATE_THRESHOLD: i64 = WINDOW / 2;

/// Whether the peer takes part in flow control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlowControl {
    /// Not known yet: windows hold.
    Unknown,
    /// It does: windows hold.
    Honored,
    /// It does not: there are no windows.
    Ignored,
}

/// The answer to a stream that wants to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reservation {
    /// It may send this number of bytes.
    Granted(usize),
    /// It waits for a WINDOW_UPDATE.
    Wait,
    /// It waits, but the peer may never send a WINDOW_UPDATE: send it a PING.
    Probe,
    /// The stream is closed for sending.
    Closed,
}

/// The destination of a data frame's payload.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// To the stream's consumer.
    To(InputWriter),
    /// Nowhere: the stream was reset, and the peer could not know yet.
    Discard,
}

#[derive(Debug)]
struct Stream {
    input_writer: InputWriter,
    send: i64,
    receive: i64,
    consumed: i64,
    local_fin: bool,
    remote_fin: bool,
}

/// The streams of one connection.
#[derive(Debug)]
pub(crate) struct Table {
    streams: HashMap<u32, Stream>,
    limit: usize,
    last: u32,
    initial: i64,
    send: i64,
    receive: i64,
    flow_control: FlowControl,
    window_updates: BTreeMap<u32, i64>,
    closing: bool,
}

impl Table {
    /// A table for at most `limit` streams at once.
    #[must_use]
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            streams: HashMap::new(),
            limit,
            last: 0,
            initial: WINDOW,
            send: WINDOW,
            receive: WINDOW,
            flow_control: FlowControl::Unknown,
            window_updates: BTreeMap::new(),
            closing: false,
        }
    }

    /// The last stream that was accepted.
    #[must_use]
    pub(crate) fn last(&self) -> u32 {
        self.last
    }

    /// Whether the peer takes part in flow control.
    #[must_use]
    pub(crate) fn flow_control(&self) -> FlowControl {
        self.flow_control
    }

    /// Opens a stream of the peer's, half-closed with `fin`.
    ///
    /// # Errors
    /// An even id or one that is not larger than the last; more streams than the limit; after [`Table::close`].
    pub(crate) fn open(&mut self, stream: u32, input_writer: InputWriter, fin: bool) -> Result<(), ProtocolError> {
        if self.streams.contains_key(&stream) {
            return Err(ProtocolError::Stream { stream, status: RstStatus::StreamInUse });
        }
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(ProtocolError::Stream { stream, status: RstStatus::ProtocolError });
        }
        self.last = stream;
        if self.closing || self.streams.len() >= self.limit {
            return Err(ProtocolError::Stream { stream, status: RstStatus::RefusedStream });
        }
        if fin {
            input_writer.finish();
        }
        let opened = Stream {
            input_writer,
            send: self.initial,
            receive: WINDOW,
            consumed: 0,
            local_fin: false,
            remote_fin: fin,
        };
        self.streams.insert(stream, opened);
        Ok(())
    }

    /// Accounts for a data frame of `length` bytes.
    ///
    /// # Errors
    /// A stream that was never opened or that the peer has half-closed; a window overrun by a peer with flow control.
    pub(crate) fn receive(&mut self, stream: u32, length: usize) -> Result<Delivery, ProtocolError> {
        let length = i64::try_from(length).expect("a frame is below 16 MiB");
        if stream == 0 {
            return Err(ProtocolError::Connection("data for stream 0"));
        }
        self.charge(stream, length)?;
        // The connection's window is opened again at once: the streams' windows bound what is buffered.
        self.add_window_update(0, length);
        match self.streams.get(&stream) {
            Some(state) if state.remote_fin => {
                Err(ProtocolError::Stream { stream, status: RstStatus::StreamAlreadyClosed })
            }
            Some(state) => Ok(Delivery::To(state.input_writer.clone())),
            None if stream <= self.last => Ok(Delivery::Discard),
            None => Err(ProtocolError::Stream { stream, status: RstStatus::InvalidStream }),
        }
    }

    fn charge(&mut self, stream: u32, length: i64) -> Result<(), ProtocolError> {
        if self.flow_control == FlowControl::Ignored {
            return Ok(());
        }
        self.receive -= length;
        let mut overrun = self.receive < 0;
        if let Some(state) = self.streams.get_mut(&stream) {
            state.receive -= length;
            overrun |= state.receive < 0;
        }
        match self.flow_control {
            _ if !overrun => Ok(()),
            FlowControl::Unknown => {
                self.ignore_flow_control();
                Ok(())
            }
            _ if self.receive < 0 => Err(ProtocolError::Connection("the connection's window was overrun")),
            _ => Err(ProtocolError::Stream { stream, status: RstStatus::FlowControlError }),
        }
    }

    /// Drops the windows of a peer whose flow control is unknown.
    pub(crate) fn ignore_flow_control(&mut self) {
        if self.flow_control == FlowControl::Unknown {
            self.flow_control = FlowControl::Ignored;
            self.window_updates.clear();
        }
    }

    /// Accounts for bytes that a consumer has finished. Returns whether a WINDOW_UPDATE is due.
    pub(crate) fn consumed(&mut self, stream: u32, length: usize) -> bool {
        let length = i64::try_from(length).expect("a buffer is far below 2^63");
        let Some(state) = self.streams.get_mut(&stream).filter(|state| !state.remote_fin) else { return false };
        state.consumed += length;
        if state.consumed < UPDATE_THRESHOLD {
            return false;
        }
        let delta = std::mem::take(&mut state.consumed);
        self.add_window_update(stream, delta);
        self.flow_control != FlowControl::Ignored
    }

    fn add_window_update(&mut self, stream: u32, length: i64) {
        if self.flow_control != FlowControl::Ignored && length > 0 {
            *self.window_updates.entry(stream).or_default() += length;
        }
    }

    /// Takes the WINDOW_UPDATEs that are due, as stream ids and deltas.
    pub(crate) fn take_window_updates(&mut self) -> Vec<(u32, u32)> {
        let due: Vec<_> =
            self.window_updates.iter().filter(|(_, delta)| **delta >= UPDATE_THRESHOLD).map(|(id, _)| *id).collect();
        let mut updates = Vec::with_capacity(due.len());
        for stream in due {
            let delta = self.window_updates.remove(&stream).expect("it was just listed");
            if stream == 0 {
                self.receive += delta;
            } else if let Some(state) = self.streams.get_mut(&stream) {
                state.receive += delta;
            } else {
                continue;
            }
            updates.push((stream, u32::try_from(delta).expect("they stay below the window")));
        }
        updates
    }

    /// Whether WINDOW_UPDATEs are due.
    #[must_use]
    pub(crate) fn has_window_updates(&self) -> bool {
        self.window_updates.values().any(|delta| *delta >= UPDATE_THRESHOLD)
    }

    /// Applies a WINDOW_UPDATE of the peer, for a stream or (0) the connection.
    ///
    /// # Errors
    /// A delta of 0, or a window above 2^31 - 1.
    pub(crate) fn window_update(&mut self, stream: u32, delta: u32) -> Result<(), ProtocolError> {
        let flow_control = ProtocolError::Stream { stream, status: RstStatus::FlowControlError };
        if delta == 0 {
            let wrong = ProtocolError::Stream { stream, status: RstStatus::ProtocolError };
            return Err(if stream == 0 { ProtocolError::Connection("a window update of 0") } else { wrong });
        }
        self.honor_flow_control();
        if stream == 0 {
            self.send += i64::from(delta);
            let fits = self.send <= i64::from(MAX_31);
            return if fits { Ok(()) } else { Err(ProtocolError::Connection("a window above 2^31 - 1")) };
        }
        let Some(state) = self.streams.get_mut(&stream) else { return Ok(()) };
        state.send += i64::from(delta);
        if state.send <= i64::from(MAX_31) { Ok(()) } else { Err(flow_control) }
    }

    fn honor_flow_control(&mut self) {
        if self.flow_control == FlowControl::Unknown {
            self.flow_control = FlowControl::Honored;
        }
    }

    /// Applies the peer's initial window; the windows of open streams change by the difference, also below zero.
    pub(crate) fn initial_window(&mut self, window: u32) {
        self.honor_flow_control();
        let change = i64::from(window) - self.initial;
        self.initial = i64::from(window);
        for state in self.streams.values_mut() {
            state.send += change;
        }
    }

    /// Takes up to `wanted` bytes from the windows for sending on the stream.
    pub(crate) fn reserve(&mut self, stream: u32, wanted: usize) -> Reservation {
        let Some(state) = self.streams.get_mut(&stream).filter(|state| !state.local_fin) else {
            return Reservation::Closed;
        };
        if self.flow_control == FlowControl::Ignored {
            return Reservation::Granted(wanted);
        }
        match usize::try_from(state.send.min(self.send)) {
            Ok(open) if open > 0 => {
                let granted = wanted.min(open);
                let taken = i64::try_from(granted).expect("it is within the window");
                state.send -= taken;
                self.send -= taken;
                Reservation::Granted(granted)
            }
            _ if self.flow_control == FlowControl::Unknown => Reservation::Probe,
            _ => Reservation::Wait,
        }
    }

    /// Half-closes our side. Returns false when it was closed already.
    pub(crate) fn local_fin(&mut self, stream: u32) -> bool {
        let Some(state) = self.streams.get_mut(&stream).filter(|state| !state.local_fin) else { return false };
        state.local_fin = true;
        self.remove_if_closed(stream);
        true
    }

    /// Half-closes the peer's side.
    pub(crate) fn remote_fin(&mut self, stream: u32) {
        if let Some(state) = self.streams.get_mut(&stream) {
            state.input_writer.finish();
            state.remote_fin = true;
            self.remove_if_closed(stream);
        }
    }

    fn remove_if_closed(&mut self, stream: u32) {
        if self.streams.get(&stream).is_some_and(|state| state.local_fin && state.remote_fin) {
            self.streams.remove(&stream);
        }
    }

    /// Resets the stream, for either side. Returns whether it was open.
    pub(crate) fn reset(&mut self, stream: u32) -> bool {
        let removed = self.streams.remove(&stream);
        removed.map(|state| state.input_writer.reset()).is_some()
    }

    /// Refuses further streams.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Resets all streams with the connection.
    pub(crate) fn end(&mut self) {
        self.close();
        for (_, state) in self.streams.drain() {
            state.input_writer.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Delivery, FlowControl, ProtocolError, Reservation, RstStatus, Table, WINDOW};
    use crate::input;

    const ALL: usize = 64 * 1024;

    fn table() -> Table {
        let mut table = Table::new(2);
        table.open(1, input::pair(8, None).0, false).unwrap();
        table
    }

    fn refused(stream: u32, status: RstStatus) -> Result<(), ProtocolError> {
        Err(ProtocolError::Stream { stream, status })
    }

    #[test]
    fn streams_are_odd_new_and_few() {
        let mut table = table();
        assert_eq!(table.open(1, input::pair(8, None).0, false), refused(1, RstStatus::StreamInUse));
        assert_eq!(table.open(2, input::pair(8, None).0, false), refused(2, RstStatus::ProtocolError));
        table.open(5, input::pair(8, None).0, false).unwrap();
        assert_eq!(table.open(3, input::pair(8, None).0, false), refused(3, RstStatus::ProtocolError));
        assert_eq!(table.open(7, input::pair(8, None).0, false), refused(7, RstStatus::RefusedStream));
        assert!(table.reset(5));
        table.open(9, input::pair(8, None).0, false).unwrap();
        table.close();
        assert!(table.reset(9));
        assert_eq!(table.open(11, input::pair(8, None).0, false), refused(11, RstStatus::RefusedStream));
    }

    #[test]
    fn a_peer_that_overruns_its_window_is_one_that_knows_none() {
        let mut table = table();
        assert!(matches!(table.receive(1, ALL), Ok(Delivery::To(_))));
        assert_eq!(table.flow_control(), FlowControl::Unknown);
        assert!(matches!(table.receive(1, 1), Ok(Delivery::To(_))));
        assert_eq!(table.flow_control(), FlowControl::Ignored);
        assert!(table.take_window_updates().is_empty());
        assert_eq!(table.reserve(1, 10 * ALL), Reservation::Granted(10 * ALL));
    }

    #[test]
    fn a_peer_that_keeps_windows_is_held_to_them() {
        let mut table = table();
        table.window_update(1, 1).unwrap();
        table.receive(1, ALL).unwrap();
        assert_eq!(table.take_window_updates(), [(0, 65536)]);
        assert_eq!(table.receive(1, 1).map(drop), refused(1, RstStatus::FlowControlError));
        table.reset(1);
        table.open(3, input::pair(8, None).0, false).unwrap();
        assert!(matches!(table.receive(3, 2 * ALL), Err(ProtocolError::Connection(_))));
    }

    #[test]
    fn what_was_consumed_is_given_back_in_halves() {
        let mut table = table();
        table.receive(1, ALL).unwrap();
        assert!(!table.consumed(1, ALL / 2 - 1));
        assert!(table.consumed(1, 1));
        assert_eq!(table.take_window_updates(), [(0, 65536), (1, 32768)]);
        table.receive(1, ALL / 2).unwrap();
        assert_eq!(table.flow_control(), FlowControl::Unknown, "the window was kept");
    }

    #[test]
    fn sending_stops_at_the_smaller_window() {
        let mut table = table();
        table.open(3, input::pair(8, None).0, false).unwrap();
        assert_eq!(table.reserve(1, 60_000), Reservation::Granted(60_000));
        assert_eq!(table.reserve(1, 60_000), Reservation::Granted(5_536));
        assert_eq!(table.reserve(3, 1), Reservation::Probe, "the connection's window is shared");
        table.window_update(0, 10).unwrap();
        assert_eq!(table.reserve(3, 100), Reservation::Granted(10));
        assert_eq!(table.reserve(3, 1), Reservation::Wait);
        table.window_update(0, 10).unwrap();
        assert_eq!(table.reserve(1, 1), Reservation::Wait, "its own is used up");
        table.initial_window(u32::try_from(WINDOW).unwrap() + 3);
        assert_eq!(table.reserve(1, 100), Reservation::Granted(3));
        table.initial_window(0);
        assert_eq!(table.reserve(3, 1), Reservation::Wait, "a window may be below zero");
    }

    #[test]
    fn windows_do_not_overflow() {
        let mut table = table();
        assert_eq!(table.window_update(1, (1 << 31) - 1), refused(1, RstStatus::FlowControlError));
        assert!(matches!(table.window_update(0, (1 << 31) - 1), Err(ProtocolError::Connection(_))));
        assert_eq!(table.window_update(1, 0), refused(1, RstStatus::ProtocolError));
        assert!(matches!(table.window_update(0, 0), Err(ProtocolError::Connection(_))));
        assert_eq!(table.window_update(99, 1), Ok(()), "for a stream that is gone");
    }

    #[test]
    fn a_stream_is_gone_when_both_have_said_their_last_word() {
        let mut table = table();
        table.remote_fin(1);
        assert_eq!(table.receive(1, 1).map(drop), refused(1, RstStatus::StreamAlreadyClosed));
        assert_eq!(table.reserve(1, 1), Reservation::Granted(1));
        assert!(table.local_fin(1));
        assert!(!table.local_fin(1));
        assert_eq!(table.reserve(1, 1), Reservation::Closed);
        assert!(matches!(table.receive(1, 1), Ok(Delivery::Discard)));
        assert_eq!(table.receive(3, 1).map(drop), refused(3, RstStatus::InvalidStream));
        assert!(matches!(table.receive(0, 1), Err(ProtocolError::Connection(_))));
    }
}
