//! What the tests on a real kernel share: the backend with a state directory of its own, and roots for containers.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use host::run::Tool;
use host::worker::Workers;
use host::{ContainerId, PodId};
use runtime::{Runtime, Settings};

/// What the containers are made of: a shell and two programs of the host, with their libraries.
const PROGRAMS: [&str; 3] = ["/bin/sh", "/bin/cat", "/bin/sleep"];
/// Cargo may wait for another build.
const BUILD_TIMEOUT: Duration = Duration::from_secs(1800);
/// The loader that ldd(1) does not list on FreeBSD.
const LOADER: &str = "/libexec/ld-elf.so.1";

pub(crate) fn settings(state: &Path) -> Settings {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // Two letters of a number keep two runs on one machine apart.
    let letter = |n: u32| char::from(b'a' + u8::try_from(n % 26).unwrap());
    let number = std::process::id() + COUNT.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("{}{}", letter(number), letter(number / 26)).parse().unwrap();
    let workers = Workers::of_program(&monitor());
    Settings { prefix, state: state.to_owned(), workers }
}

/// `cellblock-monitor`, two directories up. It is another package's, which cargo does not build for these tests; on another machine
/// e2e/freebsd/run.sh puts it there.
fn monitor() -> PathBuf {
    static BUILT: Once = Once::new();
    if let Some(cargo) = std::env::var_os("CARGO") {
        let build = Tool::new(cargo).args(["build", "-q", "--workspace", "--bin", "cellblock-monitor"]);
        BUILT.call_once(|| drop(build.timeout(BUILD_TIMEOUT).run().unwrap()));
    }
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("cellblock-monitor")
}

/// The backend, when it can work here; in CI it must.
pub(crate) fn open(settings: &Settings) -> Option<Arc<dyn Runtime>> {
    match runtime::open(settings.clone()) {
        Ok(runtime) if can_run(&runtime) => return Some(runtime),
        Ok(_) => {}
        Err(error) => println!("skipped: {}", host::chain(&error)),
    }
    assert!(std::env::var_os("CI").is_none(), "nothing may be skipped in CI");
    None
}

fn can_run(runtime: &Arc<dyn Runtime>) -> bool {
    let missing: Vec<_> = runtime.needs().into_iter().filter(|need| need.required && !need.holds()).collect();
    if missing.is_empty() {
        return true;
    }
    for need in &missing {
        println!("skipped: {}: {}: {}", need.name, need.found, need.remedy.clone().unwrap_or_default());
    }
    false
}

fn libraries(program: &str) -> Vec<PathBuf> {
    let output = Tool::new("ldd").args([program]).run().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(|word| PathBuf::from(word.trim_end_matches(':'))).filter(|path| path != Path::new(program)).collect()
}

pub(crate) fn make_rootfs(directory: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let root = directory.join(format!("root-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    let mut files: Vec<PathBuf> = PROGRAMS.iter().map(PathBuf::from).collect();
    files.extend(PROGRAMS.iter().flat_map(|program| libraries(program)));
    files.extend(Path::new(LOADER).exists().then(|| PathBuf::from(LOADER)));
    for file in files {
        let target = root.join(file.strip_prefix("/").unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, &target).unwrap();
    }
    root
}

/// Takes something from a pod that it cannot be without, as an administrator's hand does: its jail, or the pin of its network.
#[allow(dead_code, reason = "only the conformance suite does")]
pub(crate) fn lose(settings: &Settings, pod: &PodId) {
    let tool = if cfg!(target_os = "freebsd") {
        Tool::new("jail").args(["-R", &format!("{}{}", settings.prefix, pod.short())])
    } else {
        let pods = settings.state.canonicalize().unwrap().join("pods");
        Tool::new("umount").args([pods.join(pod.short()).join("net")])
    };
    tool.run().unwrap();
}

/// Truncates the backend's record of a container.
#[allow(dead_code, reason = "only the conformance suite does")]
pub(crate) fn damage(settings: &Settings, container: &ContainerId) {
    let record = if cfg!(target_os = "freebsd") { "freebsd.json" } else { "launch.json" };
    let path = settings.state.join("containers").join(container.short()).join(record);
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
}
