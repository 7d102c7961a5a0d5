//! Returns free memory to the kernel after a busy hour. FreeBSD's malloc does so by itself after some seconds (jemalloc(3),
//! dirty_decay_ms); glibc's keeps it, unless its thresholds are set (mallopt(3)) and it is asked (malloc_trim(3)).

#[cfg(target_env = "gnu")]
mod sys;

/// Whether the allocator keeps free memory until [`give_back`].
pub const KEEPS_FREE: bool = cfg!(target_env = "gnu");

/// Makes every heap shrink as its end becomes free; for the start of a server. Otherwise glibc raises its thresholds by the largest
/// block that was ever freed, and each heap, of up to eight for each processor, keeps up to 64 MiB at its end, which [`give_back`]
/// leaves alone in all heaps but the first.
pub fn set_thresholds() {
    #[cfg(target_env = "gnu")]
    sys::set_thresholds();
}

/// Returns free memory; this may take some milliseconds. A C library other than glibc needs no such call.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    sys::trim();
}
