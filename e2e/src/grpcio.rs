//! A client on gRPC's C core: Python's grpcio, whose requests name the socket's path as their authority.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::checks::Checks;
use crate::process::Program;
use crate::server::Site;
use crate::tools::Tools;

/// The packages, from PyPI.
const PACKAGES: [&str; 2] = ["grpcio==1.85.3", "typing-extensions==4.16.0"];
/// Asks for the version and the list of pods, without Python's classes of the messages; prints the first answer.
const CLIENT: &str = "
import sys, grpc
channel = grpc.insecure_channel('unix://' + sys.argv[1])
for method in ['Version', 'ListPodSandbox', 'Version']:
    answer = channel.unary_unary('/runtime.v1.RuntimeService/' + method)(b'', timeout=20)
print(answer.decode('utf-8', 'replace'))
";

/// Asks the site's server.
pub fn check(site: &Site, tools: &Tools, checks: &mut Checks) {
    let name = "a client on gRPC's C core (grpcio)";
    match packages(tools) {
        Ok(packages) => drop(checks.check(name, || ask(site, &packages))),
        Err(error) => checks.skip(name, &format!("{error:#}")),
    }
}

/// Fetches the packages into the cache, once.
fn packages(tools: &Tools) -> Result<std::path::PathBuf> {
    tools.cached("grpcio-1.85.3", |partial| {
        let into = partial.to_str().context("the cache's path is UTF-8")?;
        let options = ["-m", "pip", "install", "-q", "--no-deps", "--only-binary", ":all:", "--target", into];
        Program::new("python3", options.into_iter().chain(PACKAGES)).run().map(drop)
    })
}

fn ask(site: &Site, packages: &Path) -> Result<()> {
    let socket = site.address().replace("unix://", "");
    let client = Program::new("python3", ["-c", CLIENT, &socket]).env("PYTHONPATH", packages);
    let answer = client.run()?;
    ensure!(answer.contains("cellblock"), "it answers {answer:?}");
    Ok(())
}
