//! System calls of this backend.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

nix::ioctl_read_bad!(interface_flags, libc::SIOCGIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq);

/// Raises the loopback interface of the calling thread's network namespace, which then gets its addresses.
pub(super) fn raise_loopback() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: a structure of numbers and bytes, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *place = byte.cast_signed();
    }
    // SAFETY: the descriptor is a socket, and the structure has the name of an interface and outlives the call.
    unsafe { interface_flags(socket.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the call above has filled this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let up = i16::try_from(libc::IFF_UP).unwrap_or(1);
    request.ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: flags | up };
    // SAFETY: as above, with the flags set.
    unsafe { set_interface_flags(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}
