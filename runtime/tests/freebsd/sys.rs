//! What a program in a container does to its memory: the calls that no crate wraps.

use std::io;
use std::ptr::null_mut;

const PAGE: usize = 4096;

/// Memory that lives as long as this process.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    at: *mut u8,
    length: usize,
}

fn mapped(at: *mut libc::c_void, length: usize) -> Memory {
    assert_ne!(at, libc::MAP_FAILED, "{}", io::Error::last_os_error());
    Memory { at: at.cast(), length }
}

/// New anonymous memory, shared with later children or not.
pub(crate) fn anonymous(length: usize, shared: bool) -> Memory {
    let kind = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    // SAFETY: the kernel picks an unused place.
    let at =
        unsafe { libc::mmap(null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, kind | libc::MAP_ANON, -1, 0) };
    mapped(at, length)
}

/// A new System V segment.
pub(crate) fn segment(length: usize) -> Memory {
    // SAFETY: shmget(2) takes numbers.
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, length, 0o600 | libc::IPC_CREAT) };
    // SAFETY: the kernel picks an unused place.
    mapped(unsafe { libc::shmat(id, null_mut(), 0) }, length)
}

/// New POSIX shared memory with a name, or without.
pub(crate) fn posix(name: Option<&std::ffi::CStr>, length: usize) -> Memory {
    // SHM_ANON in sys/mman.h.
    let path = name.map_or(std::ptr::without_provenance(1), std::ffi::CStr::as_ptr);
    // SAFETY: the name ends in a NUL, or is SHM_ANON.
    let descriptor = unsafe { libc::shm_open(path, libc::O_RDWR | libc::O_CREAT, 0o600) };
    let size = libc::off_t::try_from(length).unwrap();
    // SAFETY: ftruncate(2) takes numbers.
    assert_eq!(unsafe { libc::ftruncate(descriptor, size) }, 0, "{}", io::Error::last_os_error());
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel picks an unused place.
    mapped(unsafe { libc::mmap(null_mut(), length, access, libc::MAP_SHARED, descriptor, 0) }, length)
}

impl Memory {
    /// Writes to every page of a part.
    pub(crate) fn write(self, length: usize) {
        for offset in (0..length.min(self.length)).step_by(PAGE) {
            // SAFETY: the place is inside the memory.
            unsafe { self.at.wrapping_add(offset).write_volatile(1) };
        }
    }

    /// Reads every page.
    pub(crate) fn read(self) {
        for offset in (0..self.length).step_by(PAGE) {
            // SAFETY: the place is inside the memory.
            unsafe { self.at.wrapping_add(offset).read_volatile() };
        }
    }

    pub(crate) fn unmap(self) {
        // SAFETY: nothing uses it any more.
        assert_eq!(unsafe { libc::munmap(self.at.cast(), self.length) }, 0);
    }
}

/// Starts a child that does this and then sleeps; returns when it is done.
pub(crate) fn child(work: impl Fn()) {
    let (mut done, theirs) = io::pipe().unwrap();
    // SAFETY: the child touches memory, writes a byte and sleeps.
    match unsafe { libc::fork() } {
        -1 => panic!("{}", io::Error::last_os_error()),
        0 => {
            work();
            let _ = io::Write::write(&mut &theirs, b"1");
            loop {
                // SAFETY: pause(3) has no preconditions.
                unsafe { libc::pause() };
            }
        }
        _ => io::Read::read_exact(&mut done, &mut [0]).unwrap(),
    }
}
