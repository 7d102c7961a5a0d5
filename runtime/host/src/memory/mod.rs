//! Memory that a busy hour needed, given back to the kernel. FreeBSD's malloc does so by itself, some seconds later
//! (jemalloc(3), dirty_decay_ms); glibc's keeps it, since it only shrinks its heaps at their ends, and asks to be told
//! (malloc_trim(3)).

#[cfg(target_env = "gnu")]
mod sys;

/// Gives back what is free; it may take some milliseconds. Where the C library needs no telling: nothing.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    sys::trim();
}
