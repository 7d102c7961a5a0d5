//! sysctl(3) by name.

use std::io;
use std::ptr::{null, null_mut};

use super::{c_string, checked};

/// The limit on a value, in bytes.
const VALUE_LIMIT: usize = 4096;
/// The limit on a table, in bytes: more than the mappings of any process, or the objects of a full node.
const TABLE_LIMIT: usize = 256 << 20;

/// A value as its bytes.
pub(in crate::freebsd) fn get(name: &str) -> io::Result<Vec<u8>> {
    let name = c_string(name)?;
    let mut value = vec![0u8; VALUE_LIMIT];
    let mut length = value.len();
    // SAFETY: the name ends in a NUL, and `value` has the `length` bytes that the kernel may write.
    let result = unsafe { libc::sysctlbyname(name.as_ptr(), value.as_mut_ptr().cast(), &raw mut length, null(), 0) };
    checked(result)?;
    value.truncate(length);
    Ok(value)
}

/// A number of four or eight bytes, or a boolean of one.
pub(in crate::freebsd) fn number(name: &str) -> io::Result<u64> {
    let value = get(name)?;
    match value.as_slice() {
        [byte] => Ok(u64::from(*byte)),
        [a, b, c, d] => Ok(u64::from(u32::from_ne_bytes([*a, *b, *c, *d]))),
        other => other
            .try_into()
            .map(u64::from_ne_bytes)
            .map_err(|_| io::Error::other(format!("{name} is no number of 1, 4 or 8 bytes"))),
    }
}

pub(in crate::freebsd) fn text(name: &str) -> io::Result<String> {
    let value = get(name)?;
    Ok(String::from_utf8_lossy(&value).trim_end_matches('\0').to_owned())
}

/// Whether a name exists: security.jail.param has the parameters of the kernel. The parent of others (`allow.mount`) is a name
/// too, without a value.
pub(in crate::freebsd) fn exists(name: &str) -> bool {
    numbers(name).is_ok()
}

pub(in crate::freebsd) fn numbers(name: &str) -> io::Result<Vec<libc::c_int>> {
    let name = c_string(name)?;
    let mut numbers = vec![0; libc::CTL_MAXNAME as usize];
    let mut length = numbers.len();
    // SAFETY: the name ends in a NUL, and `numbers` has the `length` numbers that may be written.
    checked(unsafe { libc::sysctlnametomib(name.as_ptr(), numbers.as_mut_ptr(), &raw mut length) })?;
    numbers.truncate(length);
    Ok(numbers)
}

/// A value of any length, by its numbers. `guess` is the length of the first attempt; None: the kernel is asked for it.
pub(in crate::freebsd) fn table(mib: &[libc::c_int], guess: Option<usize>) -> io::Result<Vec<u8>> {
    let count = libc::c_uint::try_from(mib.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0u8; guess.unwrap_or(0)];
    loop {
        if guess.is_none() {
            let mut length = 0usize;
            // SAFETY: the numbers have their count; without a buffer the kernel only tells the length.
            checked(unsafe { libc::sysctl(mib.as_ptr(), count, null_mut(), &raw mut length, null(), 0) })?;
            // Room for what appears meanwhile.
            bytes = vec![0; length + length / 4];
        }
        let mut length = bytes.len();
        // SAFETY: the numbers have their count, and the buffer has `length` bytes.
        match checked(unsafe {
            libc::sysctl(mib.as_ptr(), count, bytes.as_mut_ptr().cast(), &raw mut length, null(), 0)
        }) {
            Ok(_) => {
                bytes.truncate(length);
                return Ok(bytes);
            }
            Err(error) if error.raw_os_error() != Some(libc::ENOMEM) => return Err(error),
            Err(error) if bytes.len() >= TABLE_LIMIT => return Err(error),
            Err(_) if guess.is_some() => bytes = vec![0; bytes.len() * 2],
            Err(_) => {}
        }
    }
}

/// Sets a value, given as its bytes.
pub(in crate::freebsd) fn set(name: &str, value: &[u8]) -> io::Result<()> {
    let name = c_string(name)?;
    // SAFETY: the name ends in a NUL, and the kernel reads only the bytes of `value`.
    let result =
        unsafe { libc::sysctlbyname(name.as_ptr(), null_mut(), null_mut(), value.as_ptr().cast(), value.len()) };
    checked(result).map(drop)
}
