//! FreeBSD lets a process say what ps(1) shows of it.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;

/// Shows these arguments in the place of the last one, as if the process had been started with them (setproctitle(3)).
pub(crate) fn set_title(args: &[OsString]) {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    words.pop();
    words.extend_from_slice(args);
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let Ok(title) = CString::new(words.join(&b' ')) else { return };
    // SAFETY: the format takes one text that ends with a zero byte, which this is; "-" leaves the program's name out.
    unsafe { libc::setproctitle(c"-%s".as_ptr(), title.as_ptr()) }
}
