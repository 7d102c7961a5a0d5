//! libzfs_core(3), loaded when the backend is opened: one binary runs on nodes with and without ZFS, and is built without the
//! library. The calls are those of libzfs_core.h of OpenZFS 2.2 (FreeBSD 14) and later.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::io;
use std::ptr;

/// `LZC_DATSET_TYPE_ZFS` of libzfs_core.h.
const TYPE_ZFS: c_int = 2;
/// `NV_UNIQUE_NAME` of sys/nvpair.h.
const UNIQUE: c_uint = 1;
/// The names of the libraries on FreeBSD 14 and 15.
const NVPAIR: &CStr = c"libnvpair.so.2";
const CORE: &CStr = c"libzfs_core.so.2";

/// An opaque nvlist_t.
type List = *mut c_void;

// The calls, as the headers declare them.
type Init = unsafe extern "C" fn() -> c_int;
type Exists = unsafe extern "C" fn(*const c_char) -> c_int;
type Create = unsafe extern "C" fn(*const c_char, c_int, List, *mut u8, c_uint) -> c_int;
type CloneOf = unsafe extern "C" fn(*const c_char, *const c_char, List) -> c_int;
type Destroy = unsafe extern "C" fn(*const c_char) -> c_int;
type Snapshot = unsafe extern "C" fn(List, List, *mut List) -> c_int;
type DestroySnapshots = unsafe extern "C" fn(List, c_int, *mut List) -> c_int;
type Rollback = unsafe extern "C" fn(*const c_char, *const c_char) -> c_int;
type ListAlloc = unsafe extern "C" fn(*mut List, c_uint, c_int) -> c_int;
type ListAdd = unsafe extern "C" fn(List, *const c_char) -> c_int;
type ListFree = unsafe extern "C" fn(List);

/// The loaded functions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Library {
    exists: Exists,
    create: Create,
    clone: CloneOf,
    destroy: Destroy,
    snapshot: Snapshot,
    destroy_snapshots: DestroySnapshots,
    rollback: Rollback,
    list_alloc: ListAlloc,
    list_add: ListAdd,
    list_free: ListFree,
}

/// Casts a symbol to its function type.
macro_rules! function {
    ($library:expr, $name:literal, $type:ty) => {{
        let symbol = symbol($library, $name)?;
        // SAFETY: the header declares the function with this type.
        unsafe { std::mem::transmute::<*mut c_void, $type>(symbol) }
    }};
}

impl Library {
    /// Loads the libraries and starts libzfs_core, which opens /dev/zfs.
    pub(super) fn load() -> io::Result<Self> {
        let (nvpair, core) = (open(NVPAIR)?, open(CORE)?);
        let init = function!(core, c"libzfs_core_init", Init);
        // SAFETY: takes nothing.
        check(unsafe { init() })?;
        Ok(Self {
            exists: function!(core, c"lzc_exists", Exists),
            create: function!(core, c"lzc_create", Create),
            clone: function!(core, c"lzc_clone", CloneOf),
            destroy: function!(core, c"lzc_destroy", Destroy),
            snapshot: function!(core, c"lzc_snapshot", Snapshot),
            destroy_snapshots: function!(core, c"lzc_destroy_snaps", DestroySnapshots),
            rollback: function!(core, c"lzc_rollback_to", Rollback),
            list_alloc: function!(nvpair, c"nvlist_alloc", ListAlloc),
            list_add: function!(nvpair, c"nvlist_add_boolean", ListAdd),
            list_free: function!(nvpair, c"nvlist_free", ListFree),
        })
    }

    /// Whether a dataset or a snapshot exists.
    pub(super) fn exists(&self, name: &str) -> io::Result<bool> {
        let name = CString::new(name)?;
        // SAFETY: the name ends in NUL.
        Ok(unsafe { (self.exists)(name.as_ptr()) } != 0)
    }

    /// Creates an empty file system that inherits its properties.
    pub(super) fn create(&self, name: &str) -> io::Result<()> {
        let name = CString::new(name)?;
        // SAFETY: the name ends in NUL; no properties and no key are null.
        check(unsafe { (self.create)(name.as_ptr(), TYPE_ZFS, ptr::null_mut(), ptr::null_mut(), 0) })
    }

    /// Clones a snapshot.
    pub(super) fn clone_of(&self, snapshot: &str, name: &str) -> io::Result<()> {
        let (snapshot, name) = (CString::new(snapshot)?, CString::new(name)?);
        // SAFETY: both names end in NUL; no properties are null.
        check(unsafe { (self.clone)(name.as_ptr(), snapshot.as_ptr(), ptr::null_mut()) })
    }

    /// Destroys a file system without children.
    pub(super) fn destroy(&self, name: &str) -> io::Result<()> {
        let name = CString::new(name)?;
        // SAFETY: the name ends in NUL.
        check(unsafe { (self.destroy)(name.as_ptr()) })
    }

    /// Takes snapshots of different datasets in one pool, all or none.
    pub(super) fn snapshot(&self, snapshots: &[String]) -> io::Result<()> {
        let mut errors = ptr::null_mut();
        let list = self.list(snapshots)?;
        // SAFETY: the list is one of nvlist_alloc; no properties are null; what is put into `errors` is freed below.
        let done = check(unsafe { (self.snapshot)(list, ptr::null_mut(), &raw mut errors) });
        self.free(list);
        self.free(errors);
        done
    }

    /// Destroys snapshots in one pool, all or none; does not defer.
    pub(super) fn destroy_snapshots(&self, snapshots: &[String]) -> io::Result<()> {
        let mut errors = ptr::null_mut();
        let list = self.list(snapshots)?;
        // SAFETY: the list is one of nvlist_alloc; what is put into `errors` is freed below.
        let done = check(unsafe { (self.destroy_snapshots)(list, 0, &raw mut errors) });
        self.free(list);
        self.free(errors);
        done
    }

    /// Rolls a file system back to this snapshot, which must be the latest.
    pub(super) fn rollback(&self, dataset: &str, snapshot: &str) -> io::Result<()> {
        let (dataset, snapshot) = (CString::new(dataset)?, CString::new(snapshot)?);
        // SAFETY: both names end in NUL.
        check(unsafe { (self.rollback)(dataset.as_ptr(), snapshot.as_ptr()) })
    }

    fn list(&self, names: &[String]) -> io::Result<List> {
        let names: Vec<CString> = names.iter().map(|name| CString::new(name.as_str())).collect::<Result<_, _>>()?;
        let mut list = ptr::null_mut();
        // SAFETY: the list is put into the variable.
        check(unsafe { (self.list_alloc)(&raw mut list, UNIQUE, 0) })?;
        for name in names {
            // SAFETY: the list was just made, and the name ends in NUL.
            check(unsafe { (self.list_add)(list, name.as_ptr()) }).inspect_err(|_| self.free(list))?;
        }
        Ok(list)
    }

    fn free(&self, list: List) {
        if !list.is_null() {
            // SAFETY: the list is one of the library's, and nothing uses it any more.
            unsafe { (self.list_free)(list) };
        }
    }
}

fn open(name: &CStr) -> io::Result<*mut c_void> {
    // SAFETY: the name ends in NUL. The library is never closed.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
    if library.is_null() { Err(missing(name)) } else { Ok(library) }
}

fn symbol(library: *mut c_void, name: &CStr) -> io::Result<*mut c_void> {
    // SAFETY: the library is open, and the name ends in NUL.
    let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
    if symbol.is_null() { Err(missing(name)) } else { Ok(symbol) }
}

fn missing(name: &CStr) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} cannot be loaded", name.to_string_lossy()))
}

/// Converts a returned errno(2), or 0.
fn check(number: c_int) -> io::Result<()> {
    if number == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(number)) }
}
