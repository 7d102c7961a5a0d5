//! Returns free memory to the kernel after a busy hour. FreeBSD's malloc does so by itself after some seconds (jemalloc(3),
//! dirty_decay_ms); glibc's keeps it, since it only shrinks its heaps at their ends, unless it is asked (malloc_trim(3)).

#[cfg(target_env = "gnu")]
mod sys;

/// Returns free memory; this may take some milliseconds. A C library other than glibc needs no such call.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    sys::trim();
}
