//! jail_set(2), jail_get(2), jail_attach(2), jail_remove(2), and since FreeBSD 15 jail descriptors: a descriptor means the same
//! jail while it is open, whereas a number may become another jail's.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::{c_string, checked, sysctl};
use crate::freebsd::params::{Params, Value};

/// sys/jail.h, since 15.0: return a descriptor of the jail that does not own it.
const JAIL_GET_DESC: libc::c_int = 0x40;
/// sys/syscall.h, since 15.0.
const SYS_JAIL_REMOVE_JD: libc::c_int = 598;
/// The first kernel with jail descriptors (`__FreeBSD_version`); one without would kill the caller by SIGSYS.
const DESCRIPTORS_SINCE: u64 = 1_500_000;
/// MAXHOSTNAMELEN in sys/param.h.
const NAME_LENGTH: usize = 256;
/// JAIL_ERRMSGLEN in lib/libjail/jail.h.
const MESSAGE_LENGTH: usize = 1024;

#[derive(Debug)]
pub(in crate::freebsd) struct Jail {
    /// Its number.
    pub(in crate::freebsd) jid: i32,
    /// Its descriptor, which never owns the jail; None before FreeBSD 15.
    descriptor: Option<OwnedFd>,
}

fn has_descriptors() -> bool {
    sysctl::number("kern.osreldate").is_ok_and(|version| version >= DESCRIPTORS_SINCE)
}

/// Creates a jail; EEXIST if there is one.
pub(in crate::freebsd) fn create(params: &Params) -> io::Result<Jail> {
    let mut descriptor: libc::c_int = -1;
    let mut list = List::of(params)?;
    let mut flags = libc::JAIL_CREATE;
    if has_descriptors() {
        list.number("desc", &mut descriptor)?;
        flags |= JAIL_GET_DESC;
    }
    let jid = list.call(libc::jail_set, flags)?;
    Ok(Jail { jid, descriptor: owned(descriptor)? })
}

/// Changes a jail; ENOENT if there is none.
pub(in crate::freebsd) fn update(jid: i32, params: &Params) -> io::Result<()> {
    let mut jid = jid;
    let mut list = List::of(params)?;
    list.number("jid", &mut jid)?;
    list.call(libc::jail_set, libc::JAIL_UPDATE).map(drop)
}

/// Finds a jail by its name, without dying ones.
pub(in crate::freebsd) fn find(name: &str) -> io::Result<Option<Jail>> {
    let mut descriptor: libc::c_int = -1;
    let mut list = List::of(&vec![("name".to_owned(), Value::Text(name.to_owned()))])?;
    let mut flags = 0;
    if has_descriptors() {
        list.number("desc", &mut descriptor)?;
        flags |= JAIL_GET_DESC;
    }
    match list.call(libc::jail_get, flags) {
        Ok(jid) => Ok(Some(Jail { jid, descriptor: owned(descriptor)? })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The numbers and names of all jails but dying ones (sysctl security.jail.list). In one call: jail_get(2) walks the list of jails
/// from its head for each `lastjid`.
pub(in crate::freebsd) fn all() -> io::Result<Vec<(i32, String)>> {
    let table = sysctl::table(&sysctl::numbers("security.jail.list")?, None)?;
    listed(&table).ok_or_else(|| io::Error::other("security.jail.list has an unknown form"))
}

/// Reads a table of `struct xprison` in sys/jail.h, each with its addresses behind it; None: it has another form.
fn listed(mut table: &[u8]) -> Option<Vec<(i32, String)>> {
    const VERSION: i32 = 3;
    /// PRISON_STATE_ALIVE.
    const ALIVE: i32 = 1;
    const NAME: usize = 1296;
    /// The numbers of addresses behind it, of 4 and 16 bytes.
    const ADDRESSES: [usize; 2] = [1552, 1556];
    const SIZE: usize = 1560;
    let mut jails = Vec::new();
    while !table.is_empty() {
        let number = |at: usize| Some(i32::from_ne_bytes(*table.get(at..)?.first_chunk()?));
        let [v4, v6] = ADDRESSES.map(|at| number(at).and_then(|count| usize::try_from(count).ok()));
        let (version, jid, state) = (number(0)?, number(4)?, number(8)?);
        let (name, rest) = (table.get(NAME..NAME + NAME_LENGTH)?, table.get(SIZE + v4? * 4 + v6? * 16..)?);
        if version != VERSION {
            return None;
        }
        if state == ALIVE {
            jails.push((jid, until_nul(name)));
        }
        table = rest;
    }
    Some(jails)
}

/// How many jails are in the jail with a name, dying ones included (`children.cur` in jail(8)); None: there is no such jail.
pub(in crate::freebsd) fn children(name: &str) -> io::Result<Option<i32>> {
    let mut count: libc::c_int = 0;
    let mut list = List::of(&vec![("name".to_owned(), Value::Text(name.to_owned()))])?;
    list.number("children.cur", &mut count)?;
    match list.call(libc::jail_get, 0) {
        Ok(_) => Ok(Some(count)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Attaches this process to the jail with a number, for good; the caller keeps the number from becoming another jail's.
pub(in crate::freebsd) fn attach(jid: i32) -> io::Result<()> {
    // SAFETY: jail_attach(2) takes a number and touches no memory.
    checked(unsafe { libc::jail_attach(jid) }).map(drop)
}

impl Jail {
    /// Attaches this process to the jail, for good. By its number: jail_attach_jd(2) of FreeBSD 15.0 and 15.1 leaks a reference
    /// to the jail (do_jail_attach in sys/kern/kern_jail.c), which then stays dying for ever. The descriptor keeps the number
    /// from becoming another jail's.
    pub(in crate::freebsd) fn attach(&self) -> io::Result<()> {
        attach(self.jid)
    }

    /// Kills every process in the jail and in those below it, and removes them. Idempotent.
    pub(in crate::freebsd) fn remove(&self) -> io::Result<()> {
        let result = match &self.descriptor {
            // SAFETY: the system call takes one descriptor, which is open.
            Some(descriptor) => unsafe { libc::syscall(SYS_JAIL_REMOVE_JD, descriptor.as_raw_fd()) },
            // SAFETY: jail_remove(2) takes a number and touches no memory.
            None => unsafe { libc::jail_remove(self.jid) },
        };
        match checked(result) {
            // EINVAL: no such number; ENOENT: the descriptor's jail is gone.
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Takes a new descriptor of a jail, which no program that is executed gets: the kernel makes it without the flag
/// (`jaildesc_alloc` in kern/kern_jaildesc.c) and has none for it.
fn owned(descriptor: libc::c_int) -> io::Result<Option<OwnedFd>> {
    if descriptor < 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has just put this descriptor into this process; nothing else owns it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(Some(descriptor))
}

fn until_nul(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

type Call = unsafe extern "C" fn(*mut libc::iovec, libc::c_uint, libc::c_int) -> libc::c_int;

/// Names and values for the kernel, as pairs of iovecs. It writes into borrowed values.
struct List<'a> {
    vectors: Vec<libc::iovec>,
    /// The memory of the vectors: it does not move while they are in use, since each is a heap block.
    owned: Vec<Vec<u8>>,
    _written: std::marker::PhantomData<&'a mut [u8]>,
}

impl<'a> List<'a> {
    fn of(params: &Params) -> io::Result<Self> {
        let mut list = Self { vectors: Vec::new(), owned: Vec::new(), _written: std::marker::PhantomData };
        for (name, value) in params {
            let bytes = match value {
                Value::Flag => Vec::new(),
                Value::Number(number) => number.to_ne_bytes().into(),
                Value::Text(text) => c_string(text)?.into_bytes_with_nul(),
            };
            list.own(c_string(name)?.into_bytes_with_nul());
            list.own(bytes);
        }
        Ok(list)
    }

    fn own(&mut self, mut bytes: Vec<u8>) {
        let base = if bytes.is_empty() { std::ptr::null_mut() } else { bytes.as_mut_ptr().cast() };
        self.vectors.push(libc::iovec { iov_base: base, iov_len: bytes.len() });
        self.owned.push(bytes);
    }

    fn number(&mut self, name: &str, value: &'a mut libc::c_int) -> io::Result<()> {
        self.own(c_string(name)?.into_bytes_with_nul());
        self.vectors.push(libc::iovec { iov_base: (&raw mut *value).cast(), iov_len: size_of::<libc::c_int>() });
        Ok(())
    }

    /// Makes the call; an error has the kernel's message.
    fn call(mut self, call: Call, flags: libc::c_int) -> io::Result<libc::c_int> {
        let mut message = [0u8; MESSAGE_LENGTH];
        self.own(b"errmsg\0".to_vec());
        self.vectors.push(libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message.len() });
        let count = libc::c_uint::try_from(self.vectors.len()).map_err(io::Error::other)?;
        // SAFETY: every vector points to memory that lives through the call, owned by `self`, borrowed for 'a, or `message`,
        // and has its length.
        let result = unsafe { call(self.vectors.as_mut_ptr(), count, flags) };
        checked(result).map_err(|error| {
            let said = until_nul(&message);
            if said.is_empty() { error } else { said_by_kernel(&error, &said) }
        })
    }
}

/// Keeps the number of an error, unless there is a message: then it has the kind only.
fn said_by_kernel(error: &io::Error, said: &str) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EEXIST) => io::Error::from_raw_os_error(error.raw_os_error().unwrap_or_default()),
        _ => io::Error::new(error.kind(), format!("{said} ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::{Jail, all, create, find, listed};
    use crate::freebsd::params::Value;

    #[test]
    fn no_program_that_is_executed_gets_a_jails_descriptor() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root makes jails");
            return;
        }
        let name = format!("zz{}", std::process::id());
        let text = |name: &str, value: &str| (name.to_owned(), Value::Text(value.to_owned()));
        let made = create(&vec![text("name", &name), text("path", "/"), ("persist".to_owned(), Value::Flag)]).unwrap();
        let found = find(&name).unwrap().unwrap();
        found.remove().unwrap();
        for Jail { descriptor, .. } in [made, found] {
            let Some(descriptor) = descriptor else { continue };
            let flags = FdFlag::from_bits_retain(fcntl(&descriptor, FcntlArg::F_GETFD).unwrap());
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
        }
    }

    /// A struct xprison of this state and name, with two addresses of 4 bytes and one of 16.
    fn listing(jid: i32, state: i32, name: &str) -> Vec<u8> {
        let mut entry = vec![0; 1560 + 2 * 4 + 16];
        let mut put = |at: usize, bytes: &[u8]| entry[at..at + bytes.len()].copy_from_slice(bytes);
        for (at, number) in [(0, 3), (4, jid), (8, state), (1552, 2), (1556, 1)] {
            put(at, &number.to_ne_bytes());
        }
        put(1296, name.as_bytes());
        entry
    }

    #[test]
    fn a_list_tells_the_living_jails_and_none_of_another_form() {
        let (living, dying) = (1, 2);
        let table = [listing(7, living, "a"), listing(8, dying, "b"), listing(9, living, "c.d")].concat();
        assert_eq!(listed(&table), Some(vec![(7, "a".to_owned()), (9, "c.d".to_owned())]));
        assert_eq!(listed(&[]), Some(Vec::new()));
        assert_eq!(listed(&table[..table.len() - 1]), None);
        assert_eq!(listed(&[&[4, 0, 0, 0], &table[4..]].concat()), None);
    }

    #[test]
    fn a_jail_is_listed_from_its_creation_to_its_removal() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root makes jails");
            return;
        }
        let name = format!("zy{}", std::process::id());
        let text = |name: &str, value: &str| (name.to_owned(), Value::Text(value.to_owned()));
        let params =
            [text("name", &name), text("path", "/"), text("host.hostname", "h"), ("persist".to_owned(), Value::Flag)];
        let made = create(&params.into()).unwrap();
        assert!(all().unwrap().contains(&(made.jid, name.clone())));
        made.remove().unwrap();
        assert!(all().unwrap().iter().all(|(_, listed)| *listed != name));
    }
}
