//! rctl(4)'s system calls (sys/rctl.h), cpuset_setaffinity(2) and cpuset_setdomain(2).

use std::collections::BTreeSet;
use std::io;
use std::ptr::null_mut;

use super::{c_string, checked};

/// The limit on an answer, in bytes: RCTL_DEFAULT_BUFSIZE in usr.bin/rctl is 128 KiB; one jail's is a line.
const ANSWER_LENGTH: usize = 16 << 10;

unsafe extern "C" {
    fn rctl_get_racct(
        input: *const libc::c_char,
        inlen: usize,
        output: *mut libc::c_char,
        outlen: usize,
    ) -> libc::c_int;
    fn rctl_add_rule(input: *const libc::c_char, inlen: usize, output: *mut libc::c_char, outlen: usize)
    -> libc::c_int;
    fn rctl_remove_rule(
        input: *const libc::c_char,
        inlen: usize,
        output: *mut libc::c_char,
        outlen: usize,
    ) -> libc::c_int;
    /// sys/cpuset.h; the libc crate has it for some releases only.
    fn cpuset_setdomain(
        level: libc::c_int,
        which: libc::c_int,
        id: libc::id_t,
        size: usize,
        mask: *const libc::c_void,
        policy: libc::c_int,
    ) -> libc::c_int;
}

/// DOMAINSET_POLICY_FIRSTTOUCH in sys/_domainset.h: memory near the CPU that touches it first, as Linux has it.
const FIRST_TOUCH: libc::c_int = 2;

/// The usage of a jail, as `name=value,…`.
pub(in crate::freebsd) fn usage(jail: &str) -> io::Result<String> {
    let filter = c_string(&format!("jail:{jail}"))?.into_bytes_with_nul();
    let mut answer = vec![0u8; ANSWER_LENGTH];
    // SAFETY: both buffers have the lengths that are given.
    let result =
        unsafe { rctl_get_racct(filter.as_ptr().cast(), filter.len(), answer.as_mut_ptr().cast(), answer.len()) };
    checked(result)?;
    Ok(until_nul(&answer))
}

pub(in crate::freebsd) fn add_rule(rule: &str) -> io::Result<()> {
    let rule = c_string(rule)?.into_bytes_with_nul();
    // SAFETY: the input has its length; there is no output.
    let result = unsafe { rctl_add_rule(rule.as_ptr().cast(), rule.len(), null_mut(), 0) };
    checked(result).map(drop)
}

/// Removes every rule that matches a filter. Idempotent. ENOSYS where accounting is off.
pub(in crate::freebsd) fn remove_rules(filter: &str) -> io::Result<()> {
    let filter = c_string(filter)?.into_bytes_with_nul();
    // SAFETY: the input has its length; there is no output.
    let result = unsafe { rctl_remove_rule(filter.as_ptr().cast(), filter.len(), null_mut(), 0) };
    match checked(result) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
        _ => Ok(()),
    }
}

/// Confines a jail to these CPUs, whose numbers are below 1,024 (CPU_SETSIZE in sys/cpuset.h since 14.0; the libc crate's set
/// is smaller).
pub(in crate::freebsd) fn confine(jid: i32, cpus: &BTreeSet<usize>) -> io::Result<()> {
    let mut mask = [0u64; 16];
    for cpu in cpus {
        let word = mask.get_mut(cpu / 64).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        *word |= 1 << (cpu % 64);
    }
    // SAFETY: the mask lives through the call and has the size that is given.
    let result = unsafe {
        libc::cpuset_setaffinity(
            libc::CPU_LEVEL_WHICH,
            libc::CPU_WHICH_JAIL,
            libc::id_t::from(jid),
            size_of_val(&mask),
            mask.as_ptr().cast(),
        )
    };
    checked(result).map(drop)
}

/// Lets a jail take memory from these domains only, whose numbers are below 256 (DOMAINSET_MAXSIZE in sys/_domainset.h).
pub(in crate::freebsd) fn prefer(jid: i32, domains: &BTreeSet<usize>) -> io::Result<()> {
    let mut mask = [0u64; 4];
    for domain in domains {
        let word = mask.get_mut(domain / 64).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        *word |= 1 << (domain % 64);
    }
    // SAFETY: the mask lives through the call and has the size that is given.
    let result = unsafe {
        cpuset_setdomain(
            libc::CPU_LEVEL_WHICH,
            libc::CPU_WHICH_JAIL,
            libc::id_t::from(jid),
            size_of_val(&mask),
            mask.as_ptr().cast(),
            FIRST_TOUCH,
        )
    };
    checked(result).map(drop)
}

fn until_nul(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
