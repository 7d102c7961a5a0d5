//! A blob on its way to the unpacker: how many of its bytes are stored in order and hashed. The downloading side moves it on, the
//! unpacking side waits for it and reads the same file.

use std::fs::File;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::locks::hold;

/// Bytes that the unpacker waits for at least, unless the blob ends: fewer would cost more in wake-ups than they bring.
const STEP: u64 = 256 << 10;

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Flow {
    /// The blob's file, open for reading; its own bytes are the first ones.
    pub(crate) file: File,
    /// Bytes of the blob.
    pub(crate) total: u64,
    state: Mutex<State>,
    changed: Condvar,
}

/// How far a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct State {
    /// Bytes in order.
    pub(crate) bytes: u64,
    /// Counts how often the download began anew: bytes of another round may differ.
    pub(crate) round: u32,
    /// Whether it ended with the right digest.
    pub(crate) ended: Option<bool>,
    /// Somebody waits for this many bytes.
    wanted: u64,
}

impl State {
    /// The beginning of a round.
    pub(crate) fn of_round(round: u32) -> Self {
        Self { round, ..Self::default() }
    }
}

impl Flow {
    pub(crate) fn new(file: File, total: u64) -> Self {
        Self { file, total, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Tells of more bytes.
    pub(crate) fn advance(&self, bytes: u64) {
        let mut state = hold(&self.state);
        state.bytes = bytes;
        if bytes >= state.wanted {
            self.changed.notify_all();
        }
    }

    /// The download begins anew.
    pub(crate) fn restart(&self) {
        let mut state = hold(&self.state);
        (state.bytes, state.round) = (0, state.round + 1);
        self.changed.notify_all();
    }

    /// The download ended; `whole`: every byte is there, and the digest is right. Only the first call counts.
    pub(crate) fn end(&self, whole: bool) {
        hold(&self.state).ended.get_or_insert(whole);
        self.changed.notify_all();
    }

    /// How far it is now.
    pub(crate) fn now(&self) -> State {
        *hold(&self.state)
    }

    /// Waits until there is a good deal more than before, or the download began anew or ended. Blocking.
    pub(crate) fn wait(&self, before: State) -> State {
        let mut state = hold(&self.state);
        loop {
            let wanted = (before.bytes + STEP).min(self.total);
            if state.round != before.round || state.ended.is_some() || state.bytes >= wanted.max(before.bytes + 1) {
                return *state;
            }
            state.wanted = wanted;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the end of this round: whether it was the blob's end, with the right digest. Blocking.
    pub(crate) fn outcome(&self, round: u32) -> bool {
        let mut state = hold(&self.state);
        loop {
            if state.round != round {
                return false;
            }
            if let Some(whole) = state.ended {
                return whole;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
