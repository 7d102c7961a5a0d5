//! System calls that libc has no safe form of: interface ioctls, jail_attach(2), jail_get(2), sysctl(3). Numbers and
//! layouts come from the headers of FreeBSD 14.3 and 15.1, amd64, which agree; arm64 has the same layouts (LP64).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

// Requests, sys/sockio.h and netinet6/in6_var.h.
const SIOCIFCREATE2: libc::c_ulong = 0xc020_697c;
const SIOCSIFNAME: libc::c_ulong = 0x8020_6928;
const SIOCSIFVNET: libc::c_ulong = 0xc020_695a;
const SIOCSIFRVNET: libc::c_ulong = 0xc020_695b;
const SIOCAIFGROUP: libc::c_ulong = 0x8028_6987;
const SIOCGIFINFO_IN6: libc::c_ulong = 0xc048_696c;
const SIOCSIFINFO_IN6: libc::c_ulong = 0xc048_696d;
/// `IFNAMSIZ`.
const NAME_LENGTH: usize = 16;
/// Words of `struct nd_ifinfo` after the name, and the index of its flags (netinet6/nd6.h).
const ND6_WORDS: usize = 14;
const ND6_FLAGS: usize = 5;

/// `struct ifreq` (net/if.h): a name, and a pointer or a number.
#[repr(C)]
struct Request {
    name: [u8; NAME_LENGTH],
    value: usize,
    rest: usize,
}

/// `struct in6_ndireq`.
#[repr(C)]
struct NeighbourRequest {
    name: [u8; NAME_LENGTH],
    words: [u32; ND6_WORDS],
}

/// `struct ifgroupreq` (net/if.h).
#[repr(C, align(8))]
struct GroupRequest {
    name: [u8; NAME_LENGTH],
    length: [u32; 2],
    group: [u8; NAME_LENGTH],
}

/// Creates an interface and returns its name: `epair7` creates `epair7a` and `epair7b` and returns the first.
pub(super) fn create(socket: &impl AsFd, name: &str) -> io::Result<String> {
    let mut request = Request { name: name_bytes(name)?, value: 0, rest: 0 };
    ioctl(socket, SIOCIFCREATE2, &mut request)?;
    Ok(crate::netlink::text(&request.name))
}

pub(super) fn rename(socket: &impl AsFd, name: &str, new: &str) -> io::Result<()> {
    let mut new = name_bytes(new)?;
    // The union holds the pointer as a number; the variable above keeps its target alive.
    let value = (&raw mut new).expose_provenance();
    ioctl(socket, SIOCSIFNAME, &mut Request { name: name_bytes(name)?, value, rest: 0 })
}

/// Moves an interface into a jail's vnet.
pub(super) fn move_to_jail(socket: &impl AsFd, name: &str, jail: i32) -> io::Result<()> {
    let value = usize::try_from(jail).map_err(io::Error::other)?;
    ioctl(socket, SIOCSIFVNET, &mut Request { name: name_bytes(name)?, value, rest: 0 })
}

/// Moves an interface back out of a jail's vnet. Idempotent: ENXIO says that the jail or its interface is not there.
pub(super) fn take_from_jail(socket: &impl AsFd, name: &str, jail: i32) -> io::Result<()> {
    let value = usize::try_from(jail).map_err(io::Error::other)?;
    match ioctl(socket, SIOCSIFRVNET, &mut Request { name: name_bytes(name)?, value, rest: 0 }) {
        Err(error) if error.raw_os_error() != Some(libc::ENXIO) => Err(error),
        _ => Ok(()),
    }
}

/// Adds an interface to a group. Idempotent.
pub(super) fn add_to_group(socket: &impl AsFd, name: &str, group: &str) -> io::Result<()> {
    let mut request = GroupRequest { name: name_bytes(name)?, length: [0; 2], group: name_bytes(group)? };
    match ioctl(socket, SIOCAIFGROUP, &mut request) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
        _ => Ok(()),
    }
}

/// Sets and clears flags of neighbour discovery; `socket` is of the family INET6.
pub(super) fn set_nd6_flags(socket: &impl AsFd, name: &str, set: u32, clear: u32) -> io::Result<()> {
    let mut request = NeighbourRequest { name: name_bytes(name)?, words: [0; ND6_WORDS] };
    ioctl(socket, SIOCGIFINFO_IN6, &mut request)?;
    request.words[ND6_FLAGS] = (request.words[ND6_FLAGS] | set) & !clear;
    ioctl(socket, SIOCSIFINFO_IN6, &mut request)
}

/// Returns the id of a jail (jail_get(2)); ENOENT if missing.
pub(super) fn jail_id(name: &str) -> io::Result<i32> {
    let key = c"name".to_bytes_with_nul();
    let name = CString::new(name)?;
    let name = name.as_bytes_with_nul();
    let part = |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut parameters = [part(key), part(name)];
    // SAFETY: two vectors that point at a key and a value, both ending with NUL and alive for the call; neither is written to,
    // because a name is what is looked for.
    let jail = unsafe { libc::jail_get(parameters.as_mut_ptr(), 2, 0) };
    if jail < 0 { Err(io::Error::last_os_error()) } else { Ok(jail) }
}

unsafe extern "C" {
    /// modfind(2); the libc crate lacks it.
    fn modfind(name: *const libc::c_char) -> libc::c_int;
}

/// Returns the id of a kernel module, also of one that is part of the kernel; a module that is loaded again has another.
pub(super) fn module_id(name: &std::ffi::CStr) -> Option<i32> {
    // SAFETY: the name ends with NUL and lives for the call.
    let id = unsafe { modfind(name.as_ptr()) };
    (id >= 0).then_some(id)
}

/// Moves this process into a jail, permanently (jail_attach(2)).
pub(super) fn jail_attach(jail: i32) -> io::Result<()> {
    // SAFETY: it takes a number and touches no memory.
    check(unsafe { libc::jail_attach(jail) })
}

/// Takes ownership of a descriptor received in a message.
pub(super) fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the kernel made it for this process when the message was received, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Reads a sysctl(3) of at most `limit` bytes.
pub(super) fn sysctl(name: &str, limit: usize) -> io::Result<Vec<u8>> {
    let name = CString::new(name)?;
    let mut value = vec![0u8; limit];
    let mut length = value.len();
    // SAFETY: the buffer has the length that is given, and the length is updated to what was written.
    let done =
        unsafe { libc::sysctlbyname(name.as_ptr(), value.as_mut_ptr().cast(), &raw mut length, std::ptr::null(), 0) };
    check(done)?;
    value.truncate(length);
    Ok(value)
}

/// Writes a sysctl(3).
pub(super) fn set_sysctl(name: &str, value: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: nothing is read back, and the new value has the length that is given.
    let done = unsafe {
        libc::sysctlbyname(
            name.as_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            value.as_ptr().cast(),
            value.len(),
        )
    };
    check(done)
}

fn ioctl<T>(socket: &impl AsFd, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
    let argument: *mut T = argument;
    // SAFETY: the requests above take a pointer to the structure that their callers give, whose size is in the request.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request, argument) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn name_bytes(name: &str) -> io::Result<[u8; NAME_LENGTH]> {
    let mut bytes = [0; NAME_LENGTH];
    if name.len() >= NAME_LENGTH {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("interface name {name} is too long")));
    }
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Ok(bytes)
}
