//! The only program of the test image `nonewprivs`: set-user-id root in the image, it prints the user that it runs as in the
//! eyes of the kernel, which is root only where gaining privileges is allowed. Linked statically; read from /proc, so that it
//! needs no system call of its own.

fn main() {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("proc(5): every process has a Uid line");
    println!("Effective uid: {}", uids.split_whitespace().nth(1).expect("proc(5): real, effective, saved, file system"));
}
