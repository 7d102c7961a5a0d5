//! The stock programs of Kubernetes, built once for each version into the cache of tools, from the Go module that
//! `e2e/kubernetes/go.mod` pins (and `go.sum` its hash and those of all that it needs).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::tools::Tools;

const GO_MOD: &str = include_str!("../../kubernetes/go.mod");
const GO_SUM: &str = include_str!("../../kubernetes/go.sum");

/// The directory of the programs.
#[derive(Debug)]
pub(crate) struct Programs(PathBuf);

impl Programs {
    /// Builds the tools of go.mod, unless the cache has them. Takes about ten minutes on two idle cores.
    pub(crate) fn build(tools: &Tools) -> Result<Self> {
        let version = version()?;
        let digest = hex::encode(Sha256::digest([GO_MOD, GO_SUM].concat()));
        let dir = tools.cached(&format!("kubernetes-{version}-{}", &digest[..12]), |partial| {
            std::fs::create_dir_all(partial)?;
            std::fs::write(partial.join("go.mod"), GO_MOD)?;
            std::fs::write(partial.join("go.sum"), GO_SUM)?;
            let flags = version_flags(version)?;
            tools.go(partial, &["build", "-trimpath", "-ldflags", &flags, "-o", "./", "tool"]).map(drop)
        })?;
        Ok(Self(dir))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// The version of Kubernetes that go.mod requires.
pub(crate) fn version() -> Result<&'static str> {
    let mut required = GO_MOD.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word == "require");
        (words.next() == Some("k8s.io/kubernetes")).then(|| words.next()).flatten()
    });
    required.next().context("e2e/kubernetes/go.mod does not require k8s.io/kubernetes")
}

/// The linker's flags: no symbols, and the version, which the programs compare.
fn version_flags(version: &str) -> Result<String> {
    let numbers: Vec<&str> = version.trim_start_matches('v').split('.').collect();
    ensure!(numbers.len() == 3, "{version} is not v1.X.Y");
    let (major, minor) = (numbers[0], numbers[1]);
    let of = |package: &str| {
        format!(" -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}")
    };
    Ok(format!("-s -w{}{}", of("k8s.io/component-base/version"), of("k8s.io/client-go/pkg/version")))
}

#[test]
fn every_module_of_kubernetes_has_its_version() {
    let version = version().expect("go.mod is ours");
    assert!(version_flags(version).expect("v1.X.Y").contains(&format!("version.gitVersion={version} ")));
    let staging = version.replacen("v1", "v0", 1);
    let (_, replaced) = GO_MOD.split_once("replace (").expect("the staging modules are replaced");
    for line in replaced.lines().filter(|line| line.contains("=>")) {
        assert!(line.ends_with(&staging), "{line}");
    }
}
