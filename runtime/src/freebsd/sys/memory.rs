//! The mappings of a process (sysctl kern.proc.vmmap) and the kernel's objects with anonymous memory (vm.swap_objects), as
//! the structures of sys/user.h, and the list of POSIX shared memory. A record is as long as its path.

use std::io;

use super::sysctl;
use crate::freebsd::memory::{Backing, Mapping, NAMELESS, Object};

/// KVME_TYPE_VNODE.
const TYPE_VNODE: i32 = 2;
/// KVME_FLAG_SYSVSHM and KVME_FLAG_POSIXSHM.
const MAPS_SYSTEM_V: i32 = 0x80;
const MAPS_POSIX: i32 = 0x100;
/// KVMO_FLAG_POSIXSHM.
const IS_POSIX: u32 = 0x2;
/// The first guess at the length of a process' mappings, in bytes: asking for it would cost as much as reading them.
const MAPPINGS_LENGTH: usize = 128 << 10;
/// The place of the size and of the path in struct kinfo_file.
const FILE_SIZE: usize = 312;
const FILE_PATH: usize = 368;

/// struct kinfo_vmentry without its path.
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    length: i32,
    kind: i32,
    start: u64,
    end: u64,
    offset: u64,
    file: u64,
    old_file_system: u32,
    flags: i32,
    resident: i32,
    private_resident: i32,
    protection: i32,
    references: i32,
    shadows: i32,
    file_type: i32,
    file_size: u64,
    old_device: u32,
    mode: u16,
    status: u16,
    /// The object's id, unless it is a file or lies over one.
    object: u64,
    device: u64,
    spare: [i32; 8],
}

/// struct kinfo_vmobject without its path.
#[repr(C)]
#[derive(Clone, Copy)]
struct Listed {
    length: i32,
    kind: i32,
    size: u64,
    file: u64,
    old_file_system: u32,
    references: i32,
    shadows: i32,
    attributes: i32,
    resident: u64,
    active: u64,
    inactive: u64,
    below: u64,
    id: u64,
    laundry: u64,
    wired: u64,
    spare: [u64; 4],
    swapped: u32,
    flags: u32,
    more: [u32; 6],
}

/// The mappings of a process. EPERM for one that forbids to be traced.
pub(in crate::freebsd) fn mappings(process: i32) -> io::Result<Vec<Mapping>> {
    let mib = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_VMMAP, process];
    let bytes = sysctl::table(&mib, Some(MAPPINGS_LENGTH))?;
    Ok(records(&bytes)
        .filter_map(|record| Some(mapping(&head::<Entry>(record)?, path(record, size_of::<Entry>()))))
        .collect())
}

fn mapping(entry: &Entry, path: &str) -> Mapping {
    let unsigned = |number: i32| u64::try_from(number).unwrap_or(0);
    let (visible, resident) = (unsigned(entry.resident), unsigned(entry.private_resident));
    let backing = match entry.kind {
        // Without pages of its own object, but with visible ones: an object that lies over the file.
        TYPE_VNODE if resident == 0 && visible > 0 => Backing::CopyOfFile,
        TYPE_VNODE => Backing::Other,
        _ if entry.object != 0 => Backing::Anonymous(entry.object),
        _ if entry.flags & MAPS_SYSTEM_V != 0 => Backing::SystemV,
        _ if entry.flags & MAPS_POSIX != 0 && path == NAMELESS => Backing::Nameless,
        _ => Backing::Other,
    };
    let bytes = entry.end.saturating_sub(entry.start);
    Mapping { backing, bytes, visible, resident, references: unsigned(entry.references) }
}

/// Every object of the kernel with anonymous memory or POSIX shared memory.
pub(in crate::freebsd) fn objects() -> io::Result<Vec<Object>> {
    let bytes = sysctl::table(&sysctl::numbers("vm.swap_objects")?, None)?;
    let listed = records(&bytes).filter_map(|record| Some((head::<Listed>(record)?, record)));
    let wanted = listed.filter(|(head, _)| head.id != 0 || head.flags & IS_POSIX != 0);
    let object = |(head, record): (Listed, &[u8])| Object {
        id: head.id,
        below: if head.id == 0 { 0 } else { head.below },
        resident: head.resident,
        name: if head.flags & IS_POSIX == 0 { String::new() } else { path(record, size_of::<Listed>()).to_owned() },
    };
    Ok(wanted.map(object).collect())
}

/// The names of the node's POSIX shared memory and its sizes in bytes.
pub(in crate::freebsd) fn named_shared_memory() -> io::Result<Vec<(String, u64)>> {
    let bytes = sysctl::table(&sysctl::numbers("kern.ipc.posix_shm_list")?, None)?;
    let size = |record: &[u8]| record.get(FILE_SIZE..)?.first_chunk().copied().map(u64::from_ne_bytes);
    Ok(records(&bytes).filter_map(|record| Some((path(record, FILE_PATH).to_owned(), size(record)?))).collect())
}

/// The records of an answer: each begins with its length.
fn records(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::try_from(i32::from_ne_bytes(*bytes.first_chunk()?)).ok().filter(|length| *length > 0)?;
        let (record, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        Some(record)
    })
}

fn head<T: Copy>(record: &[u8]) -> Option<T> {
    let head = record.get(..size_of::<T>())?;
    // SAFETY: the bytes are as many as the structure has; it is numbers only, and need not be aligned.
    Some(unsafe { head.as_ptr().cast::<T>().read_unaligned() })
}

fn path(record: &[u8], at: usize) -> &str {
    let text = record.get(at..).unwrap_or_default();
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    std::str::from_utf8(&text[..end]).unwrap_or_default()
}
