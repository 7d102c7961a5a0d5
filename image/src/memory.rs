//! Gives the memory of pulls back to the system: glibc's allocator keeps freed memory, for each thread that allocated, and a pull
//! uses many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use host::memory;

/// The delay after a pull or a removal: many at a time cost one round, which takes a few milliseconds.
const DELAY: Duration = Duration::from_secs(1);

/// Whether a round is due.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    due: AtomicBool,
}

impl Memory {
    /// Gives back soon, on a thread.
    pub(crate) fn give_back_soon(self: &Arc<Self>) {
        if !memory::KEEPS_FREE || self.due.swap(true, Ordering::Relaxed) {
            return;
        }
        let this = Arc::clone(self);
        let started = std::thread::Builder::new().name("memory".to_owned()).spawn(move || {
            std::thread::sleep(DELAY);
            this.due.store(false, Ordering::Relaxed);
            memory::give_back();
        });
        if started.is_err() {
            self.due.store(false, Ordering::Relaxed);
        }
    }
}
