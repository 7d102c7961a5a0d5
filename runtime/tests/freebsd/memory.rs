//! The memory of a container, counted once however many processes share it. This test program itself is the program in the
//! containers ([`program`]).

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use runtime::spec::{ContainerSpec, Mount, MountOptions, MountSource, Propagation, Resources};

use crate::bench::{Bench, PATIENCE, add_program, tool};
use crate::sys;

const MIB: usize = 1 << 20;
/// Processes that share memory, as the backends of a database do.
const READERS: usize = 20;
/// The memory that they share, and that of forked readers.
const SHARED: usize = 64 * MIB;
const FORKED: usize = 200 * MIB;
/// The limits: far below what the sums of resident sets are.
const LIMIT: u64 = 200 << 20;
const FORKED_LIMIT: u64 = 320 << 20;
/// How long a container must live with its memory: several rounds of its monitor.
const SURVIVES: Duration = Duration::from_secs(4);
/// The time before an overrun in which its monitor saves what counting may take: under emulation a count takes long.
const QUIET: Duration = Duration::from_secs(12);
/// How long a container may take to fill its memory: twenty processes with 200 MiB each, on an emulated machine that does other work.
const FILLED_WITHIN: Duration = Duration::from_secs(600);

/// The program in the containers; what it does is in the environment. As a test of its own it does nothing.
#[test]
fn program() {
    let Ok(what) = std::env::var("MEMORY") else { return };
    match what.as_str() {
        "shared" => readers(sys::anonymous(SHARED, true), 0),
        "system v" => readers(sys::segment(SHARED), 0),
        "posix" => readers(sys::posix(Some(c"/shared"), SHARED), 0),
        "nameless" => readers(sys::posix(None, SHARED), 0),
        // One page that each changes for itself gives each an object of its own over the common one.
        "forked" => readers(sys::anonymous(FORKED, false), 4096),
        "shared and too much" => {
            readers(sys::anonymous(SHARED, true), 0);
            std::thread::sleep(QUIET);
            sys::anonymous(FORKED, false).write(FORKED);
            println!("over");
        }
        "forked and changed" => {
            readers(sys::anonymous(SHARED, false), SHARED);
            println!("over");
        }
        "hidden" => {
            let memory = sys::posix(Some(c"/hidden"), FORKED + SHARED);
            memory.write(FORKED + SHARED);
            memory.unmap();
            println!("over");
        }
        other => panic!("{other}"),
    }
    println!("ready");
    std::thread::sleep(PATIENCE);
}

fn readers(memory: sys::Memory, changed: usize) {
    memory.write(usize::MAX);
    for _ in 0..READERS {
        sys::child(|| {
            memory.read();
            memory.write(changed);
        });
    }
}

fn spec(bench: &Bench, what: &str, limit: u64) -> ContainerSpec {
    let mut spec = bench.spec("");
    let own = std::env::current_exe().unwrap();
    add_program(&spec.rootfs, own.to_str().unwrap());
    spec.process.args = [own.to_str().unwrap(), "--exact", "memory::program", "--nocapture"].map(str::to_owned).into();
    spec.process.env.push(("MEMORY".to_owned(), what.to_owned()));
    spec.resources = Resources { memory: Some(limit), ..Resources::default() };
    spec
}

/// The time of the entry of a log with this word.
fn said_at(spec: &ContainerSpec, word: &str) -> SystemTime {
    let text = fs::read_to_string(spec.log_path.as_ref().unwrap()).unwrap();
    let line = text.lines().find(|line| line.ends_with(word)).unwrap_or_else(|| panic!("{word}: {text}"));
    let time = line.split(' ').next().unwrap().split('.').next().unwrap().to_owned();
    let seconds = tool("date", &["-juf", "%Y-%m-%dT%H:%M:%S", &time, "+%s"]);
    let fraction: u64 = line.split(['.', 'Z']).nth(1).unwrap().parse().unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.trim().parse().unwrap()) + Duration::from_nanos(fraction)
}

/// Runs a container that shares memory: it lives, although the sum of its resident sets is over the limit.
fn lives(bench: &Bench, what: &str, limit: u64) {
    let spec = spec(bench, what, limit);
    bench.start(&spec);
    let asked = Instant::now();
    while !bench.log(&spec).contains("ready") {
        assert!(asked.elapsed() < FILLED_WITHIN, "{what}: {}", bench.log(&spec));
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(SURVIVES);
    let usage = bench.runtime.container_usage(&spec.id).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(usage.rss_bytes.unwrap() > limit, "{what}: {usage:?}");
    assert!(usage.working_set_bytes.unwrap() < limit, "{what}: {usage:?}");
    bench.runtime.remove_container(&spec.id).unwrap();
}

#[test]
fn what_twenty_processes_share_is_counted_once() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    for what in ["shared", "system v", "posix", "nameless"] {
        lives(&bench, what, LIMIT);
    }
    bench.remove();
}

#[test]
fn what_twenty_forked_readers_did_not_change_is_counted_once() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    lives(&bench, "forked", FORKED_LIMIT);
    bench.remove();
}

#[test]
fn what_is_really_too_much_is_killed() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    for what in ["shared and too much", "forked and changed"] {
        let spec = spec(&bench, what, LIMIT);
        bench.start(&spec);
        let exit = bench.wait(&spec);
        assert_eq!((exit.code, exit.out_of_memory), (137, true), "{what}: {}", bench.log(&spec));
        // It may have been killed before it had all. How late depends on the machine's other work, within a second on an idle one.
        if bench.log(&spec).contains("over") {
            println!("{what}: {:?}", exit.at.duration_since(said_at(&spec, "over")).unwrap_or_default());
        }
    }
    bench.remove();
}

#[test]
fn memory_that_no_process_maps_counts_too() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let hidden = spec(&bench, "hidden", LIMIT);
    bench.start(&hidden);
    assert!(bench.wait(&hidden).out_of_memory, "POSIX shared memory");
    let mut filled = bench.spec("cat /fill > /m/f; exec sleep 1000");
    // No zeroes: cat(1) copies holes as holes.
    fs::write(filled.rootfs.join("fill"), vec![1u8; 96 << 20]).unwrap();
    filled.resources.memory = Some(64 << 20);
    filled.mounts = vec![Mount {
        destination: "/m".into(),
        source: MountSource::Tmpfs { size: None },
        readonly: false,
        recursive_readonly: false,
        propagation: Propagation::Private,
        options: MountOptions::default(),
    }];
    bench.start(&filled);
    assert!(bench.wait(&filled).out_of_memory, "a tmpfs");
    bench.remove();
}

#[test]
fn dev_shm_of_a_linux_image_has_a_size() {
    let Some(bench) = Bench::new(|_| ()) else { return };
    let mut spec = bench.spec("df -k /dev/shm");
    spec.for_linux = true;
    if tool("kldstat", &[]).contains("linux64") {
        add_program(&spec.rootfs, "/bin/df");
        let (_, text) = bench.output(&spec);
        assert!(text.contains(" 65536 "), "{text}");
    }
    bench.remove();
}
