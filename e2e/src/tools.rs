//! The clients and programs that the tests use, built or fetched once into a cache: crictl and critest from the Go module
//! proxy (whose checksum database vouches for the module; its hash is pinned here too), Kubernetes' own (`kubernetes`), containerd
//! (`containerd`), BusyBox and nginx from Debian's packages, and
//! two small programs of the test images. What Debian installs ready to run (runc, nft, docker-registry …) comes from `make
//! deps`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use testimage::ARCHITECTURE;

use crate::process::Program;

const MODULE: &str = "sigs.k8s.io/cri-tools";
const VERSION: &str = "v1.37.0";
const CRI_TOOLS: Pinned =
    Pinned { path: MODULE, version: VERSION, sum: "h1:BmTImEoTX3KPXCLwmIU9mfCC8umUqF4R8WibY9eVU9Y=" };
/// The Go that the module's go.mod asks for.
const TOOLCHAIN: &str = "1.26.6";
/// The image that critest pulls by digest, as its source has it.
const PINNED: &str = "test-image-digest@sha256:9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf";
/// The time-out of a build from nothing, with downloads, on two busy cores.
pub(crate) const BUILD_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// A Go module and its hash in the checksum database.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pinned {
    pub(crate) path: &'static str,
    pub(crate) version: &'static str,
    pub(crate) sum: &'static str,
}

/// The cache of tools.
#[derive(Debug)]
pub struct Tools {
    cache: PathBuf,
    os: Os,
}

/// The target of crictl and critest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Os {
    /// This machine.
    Linux,
    /// The machine of `e2e/freebsd`, of the same architecture.
    Freebsd,
}

impl Os {
    /// The suffix of file names; empty for this machine.
    fn suffix(self) -> &'static str {
        match self {
            Self::Linux => "",
            Self::Freebsd => "-freebsd",
        }
    }

    fn goos(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Freebsd => "freebsd",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Module {
    dir: PathBuf,
    sum: String,
}

impl Tools {
    /// The cache is `$CELLBLOCK_E2E_CACHE`, or `e2e-tools` in the target directory.
    pub fn open() -> Result<Self> {
        Self::open_for(Os::Linux)
    }

    /// The same, with crictl and critest for another system.
    pub fn open_for(os: Os) -> Result<Self> {
        let cache = match std::env::var_os("CELLBLOCK_E2E_CACHE") {
            Some(dir) => PathBuf::from(dir),
            None => beside()?.parent().context("the program is in no target directory")?.join("e2e-tools"),
        };
        std::fs::create_dir_all(&cache)?;
        Ok(Self { cache, os })
    }

    /// crictl.
    pub fn crictl(&self) -> Result<PathBuf> {
        let program = self.cache.join(format!("crictl-{VERSION}{}", self.os.suffix()));
        self.once(&program, |partial| {
            let source = self.cri_tools()?;
            self.go(&source, &["build", "-ldflags", &version_flag(), "-o", path(partial)?, "./cmd/crictl"]).map(drop)
        })?;
        Ok(program)
    }

    /// critest, with one constant of its source replaced: the digest of an image that cannot be reproduced becomes that of ours.
    pub fn critest(&self, digest: &str) -> Result<PathBuf> {
        let digest_start = &digest["sha256:".len()..][..12];
        let program = self.cache.join(format!("critest-{VERSION}-{digest_start}{}", self.os.suffix()));
        self.once(&program, |partial| {
            let source = self.cri_tools()?;
            let file = source.join("pkg/validate/consts.go");
            let text = std::fs::read_to_string(&file)?;
            ensure!(text.matches(PINNED).count() == 1, "{} is not what it was: no {PINNED}", file.display());
            // The copy stays as it is: another digest is built from the same source.
            let replaced = partial.with_extension("consts.go");
            std::fs::write(&replaced, text.replace(PINNED, &format!("test-image-digest@{digest}")))?;
            let overlay = partial.with_extension("overlay.json");
            std::fs::write(&overlay, serde_json::json!({ "Replace": { path(&file)?: path(&replaced)? } }).to_string())?;
            let args = ["test", "-c", "-overlay", path(&overlay)?, "-ldflags", &version_flag(), "-o", path(partial)?];
            self.go(&source, &[&args[..], &["./cmd/critest"]].concat())?;
            Ok([replaced, overlay].iter().try_for_each(std::fs::remove_file)?)
        })?;
        Ok(program)
    }

    /// The files of a Debian package, not installed: installing nginx would start it, and BusyBox would replace its static build.
    pub fn package(&self, name: &str) -> Result<PathBuf> {
        let root = self.cache.join(format!("debian-{name}"));
        self.once(&root, |partial| {
            std::fs::create_dir_all(partial)?;
            Program::new("apt-get", ["download", "-q", "-o", "APT::Sandbox::User=root", name]).dir(partial).run()?;
            let package = std::fs::read_dir(partial)?.next().context("apt-get downloaded nothing")??.path();
            Program::new("dpkg", ["-x".as_ref(), package.as_os_str(), partial.as_os_str()]).run()?;
            Ok(std::fs::remove_file(package)?)
        })?;
        Ok(root)
    }

    /// The program of the image `nonewprivs`, linked statically.
    pub fn set_user_id_program(&self) -> Result<PathBuf> {
        let program = self.cache.join("nonewprivs");
        self.once(&program, |partial| {
            let args =
                ["--edition", "2024", "--crate-name", "nonewprivs", "-O", "-C", "target-feature=+crt-static", "-o"];
            Program::new("rustc", args.into_iter().chain([path(partial)?, "-"]))
                .stdin(include_str!("../images/nonewprivs.rs"))
                .run()
                .map(drop)
        })?;
        Ok(program)
    }

    /// The program `shm` of the test images, linked statically.
    pub fn shared_memory_program(&self) -> Result<PathBuf> {
        let source = include_str!("../images/shm.c");
        // Its source may change.
        let program = self.cache.join(format!("shm-{}", &hex::encode(Sha256::digest(source))[..12]));
        self.once(&program, |partial| {
            Program::new("cc", ["-static", "-O2", "-x", "c", "-o", path(partial)?, "-"]).stdin(source).run().map(drop)
        })?;
        Ok(program)
    }

    /// Makes a file of the cache, once.
    pub(crate) fn cached(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let target = self.cache.join(name);
        self.once(&target, make)?;
        Ok(target)
    }

    /// Runs Go in the version that the module requires. Go 1.21 and later fetches it by itself; Debian 12's can only download it as
    /// a module.
    pub(crate) fn go(&self, source: &Path, args: &[&str]) -> Result<String> {
        let installed = Program::new("go", ["version"])
            .run()
            .context("crictl, critest, kubelet and containerd are built with Go: make deps")?;
        let program = if version_parts(&installed).first().is_some_and(|minor| *minor >= 21) {
            PathBuf::from("go")
        } else {
            let module =
                download(&self.cache, &format!("golang.org/toolchain@v0.0.1-go{TOOLCHAIN}.linux-{ARCHITECTURE}"))?;
            // A module's files are not executable; the toolchain's own download sets the same bits.
            Program::new("chmod", ["-R".as_ref(), "u+wx".as_ref(), module.dir.as_os_str()]).run()?;
            module.dir.join("bin/go")
        };
        let go = Program::new(program, args).dir(source).env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "auto");
        let go = go.env("GOOS", self.os.goos()).env("GOARCH", ARCHITECTURE);
        go.timeout(BUILD_TIMEOUT).run()
    }

    /// The read-only source of a module.
    pub(crate) fn module(&self, Pinned { path, version, sum }: Pinned) -> Result<PathBuf> {
        let module = download(&self.cache, &format!("{path}@{version}"))?;
        ensure!(module.sum == sum, "{path} {version} is not what it was: {} instead of {sum}", module.sum);
        Ok(module.dir)
    }

    /// A copy of the module's source: Go replaces no file of its own cache.
    fn cri_tools(&self) -> Result<PathBuf> {
        let source = self.cache.join(format!("cri-tools-{VERSION}{}", self.os.suffix()));
        self.once(&source, |partial| {
            let module = self.module(CRI_TOOLS)?;
            Program::new("cp", ["-R".as_ref(), module.as_os_str(), partial.as_os_str()]).run()?;
            Program::new("chmod", ["-R".as_ref(), "u+w".as_ref(), partial.as_os_str()]).run().map(drop)
        })?;
        Ok(source)
    }

    /// Makes `target` unless it exists; removes an unfinished one first.
    fn once(&self, target: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        if target.exists() {
            return Ok(());
        }
        let partial = self.cache.join("partial");
        let partial = partial.join(target.file_name().context("every target has a name")?);
        if partial.is_dir() {
            std::fs::remove_dir_all(&partial)?;
        }
        std::fs::create_dir_all(self.cache.join("partial"))?;
        println!("making {}", target.display());
        make(&partial).with_context(|| format!("cannot create {}", target.display()))?;
        Ok(std::fs::rename(partial, target)?)
    }
}

/// A module out of the proxy, checked against the checksum database.
fn download(dir: &Path, module: &str) -> Result<Module> {
    let go = Program::new("go", ["mod", "download", "-json", module]).dir(dir).timeout(BUILD_TIMEOUT);
    Ok(serde_json::from_str(&go.run().context("Go modules are downloaded with Go: make deps")?)?)
}

/// The directory of this program; `cellblock` is in it too.
pub fn beside() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.parent().context("a program is in a directory")?.to_owned())
}

fn version_parts(text: &str) -> Vec<u32> {
    let number = text.split_whitespace().find_map(|word| word.strip_prefix("go1.")).unwrap_or_default();
    number.split('.').map_while(|part| part.parse().ok()).collect()
}

fn version_flag() -> String {
    format!("-X {MODULE}/pkg/version.Version={}", &VERSION[1..])
}

pub(crate) fn path(of: &Path) -> Result<&str> {
    of.to_str().with_context(|| format!("{} is not UTF-8", of.display()))
}

#[test]
fn go_versions_are_read() {
    assert_eq!(version_parts("go version go1.26.8 linux/amd64"), [26, 8]);
    assert_eq!(version_parts("go version go1.19 linux/amd64"), [19]);
    assert!(version_parts("nothing").is_empty());
}
