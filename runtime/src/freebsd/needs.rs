//! What this backend needs of the node.

use host::Need;

use super::sys::sysctl;
use super::{kernel, patches, rc_conf, rulesets};

/// The oldest kernel that the binary runs on (`__FreeBSD_version`): nullfs mounts single files since 14.0.
const OLDEST: u64 = 1_400_000;
/// File systems for containers' mounts; the kernel loads their modules at the first mount.
const FILE_SYSTEMS: [&str; 4] = ["nullfs", "tmpfs", "fdescfs", "devfs"];
/// The brand of unbranded programs, and Linux' brand (`ELFOSABI_LINUX`, sys/elf_common.h).
const FALLBACK_BRAND: &str = "kern.elf64.fallback_brand";
const BRAND_LINUX: u64 = 3;
/// The number of free devfs rulesets that a full node needs.
const RULESETS: usize = 1_000;

/// The needs. Every question is a sysctl, a list in the kernel's memory or a small file.
pub(super) fn needs() -> Vec<Need> {
    let all = [version(), patches(), rights(), vimage(), file_systems(), accounting(), rulesets(), jails()];
    all.into_iter().chain(kernel::runs_linux().then(brand)).collect()
}

fn need(name: &str, found: String, remedy: Option<String>) -> Need {
    Need { name: name.to_owned(), found, required: true, remedy }
}

fn version() -> Need {
    let release = kernel::release();
    let version = sysctl::number("kern.osreldate").unwrap_or(0);
    let remedy = (version < OLDEST).then(|| "run FreeBSD 14.0 or newer".to_owned());
    need("FreeBSD", format!("{release} ({version})"), remedy)
}

/// Optional: programs run on such a kernel.
fn patches() -> Need {
    let release = kernel::release();
    let known = patches::known(&release);
    let found = known.as_ref().map_or("nothing is known against it", |known| &known.flaw).to_owned();
    let update = |known: patches::Known| {
        format!(
            "update to {} (freebsd-update fetch install, or pkg upgrade -r FreeBSD-base), and restart",
            known.update
        )
    };
    Need { required: false, ..need("security of the kernel", found, known.map(update)) }
}

fn rights() -> Need {
    let root = nix::unistd::geteuid().is_root();
    let jailed = sysctl::number("security.jail.jailed").unwrap_or(0) != 0;
    let found = if root { "root" } else { "not root" };
    let found = if jailed { format!("{found}, in a jail") } else { found.to_owned() };
    need("rights", found, (!root || jailed).then(|| "run it as root, outside of jails".to_owned()))
}

fn vimage() -> Need {
    let has = sysctl::number("kern.features.vimage").unwrap_or(0) != 0;
    let found = if has { "in the kernel" } else { "not in the kernel" };
    need("VIMAGE", found.to_owned(), (!has).then(|| "run a kernel with `options VIMAGE` (GENERIC has it)".to_owned()))
}

fn file_systems() -> Need {
    let known = sysctl::text("vfs.conflist").unwrap_or_default();
    let loaded = |name: &&str| sysctl::exists(&format!("vfs.{name}")) || known.contains(*name);
    let missing: Vec<&str> = FILE_SYSTEMS.into_iter().filter(|name| !loaded(name) && !module_exists(name)).collect();
    if missing.is_empty() {
        return need("file systems", FILE_SYSTEMS.join(" "), None);
    }
    let line = missing.iter().map(|name| format!("{name}_load=\"YES\"")).collect::<Vec<_>>().join(" ");
    need("file systems", format!("no {}", missing.join(" ")), Some(format!("/boot/loader.conf: {line}")))
}

/// Whether the kernel can load a file system's module at its first mount.
fn module_exists(name: &str) -> bool {
    ["/boot/kernel", "/boot/modules"]
        .iter()
        .any(|place| std::path::Path::new(place).join(format!("{name}.ko")).exists())
}

/// Optional: containers run without it.
fn accounting() -> Need {
    let on = kernel::accounting();
    let found =
        if on { "on" } else { "off: limits on CPU and processes do not hold, memory is watched in the process table" };
    let remedy = (!on).then(|| "/boot/loader.conf: kern.racct.enable=1, and restart".to_owned());
    Need { required: false, ..need("resource accounting", found.to_owned(), remedy) }
}

/// Optional: whether the linuxulator takes an unbranded program for Linux's, such as a static one of Go's (brandelf(1)).
fn brand() -> Need {
    let linux = sysctl::number(FALLBACK_BRAND).is_ok_and(|brand| brand == BRAND_LINUX);
    let found =
        if linux { "Linux programs run" } else { "Linux programs run, but not static ones without a brand (Go's)" };
    let remedy =
        (!linux).then(|| format!("/etc/sysctl.conf: {FALLBACK_BRAND}={BRAND_LINUX}, and service sysctl restart"));
    Need { required: false, ..need("linuxulator", found.to_owned(), remedy) }
}

/// Optional: rc.d/jail of 14.3 and 15.1 stops every jail of the machine where jail_list is empty, pods too.
fn jails() -> Need {
    let rc = rc_conf::read();
    let names_none = rc.get("jail_list").is_none_or(|list| list.trim().is_empty());
    let stops_all = rc_conf::is_yes(rc.get("jail_enable")) && names_none;
    let found =
        if stops_all { "service jail stop and restart end all pods: jail_list is empty" } else { "leaves pods alone" };
    let remedy = "run: sysrc jail_list=\"NAMES\", with the jails of /etc/jail.conf that the service is for";
    let remedy = stops_all.then(|| remedy.to_owned());
    Need { required: false, ..need("service jail", found.to_owned(), remedy) }
}

fn rulesets() -> Need {
    let name = "devfs rulesets";
    match rulesets::free() {
        Ok(free) => {
            let remedy =
                (free < RULESETS).then(|| "remove rulesets that nothing uses (devfs rule -s N delset)".to_owned());
            need(name, format!("{free} numbers free"), remedy)
        }
        Err(error) => need(name, error.to_string(), Some("run it as root on a system with devfs on /dev".to_owned())),
    }
}
