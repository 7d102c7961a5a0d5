//! glibc's calls.

/// Larger blocks are mappings of their own, and each heap keeps this much at its end: eight times glibc's default before it learns,
/// so that the pieces of a download are no mappings. In bytes.
const THRESHOLD: libc::c_int = 1 << 20;

/// Sets both thresholds, which then stay.
pub(super) fn set_thresholds() {
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: mallopt(3) takes numbers, and locks what it changes. It refuses only unknown parameters.
        let _set = unsafe { libc::mallopt(parameter, THRESHOLD) };
    }
}

/// Returns the free pages of all heaps to the kernel.
pub(super) fn trim() {
    // SAFETY: malloc_trim(3) takes no pointer, and locks the heaps that it works on.
    let _some = unsafe { libc::malloc_trim(0) };
}
