//! glibc's call.

/// Returns the free pages of all heaps to the kernel.
pub(super) fn trim() {
    // SAFETY: malloc_trim(3) takes no pointer, and locks the heaps that it works on.
    let _some = unsafe { libc::malloc_trim(0) };
}
