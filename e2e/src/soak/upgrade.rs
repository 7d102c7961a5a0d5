//! An upgrade under running pods: a server of an older commit runs five pods with host ports, logs and an attached client, and
//! this one takes its place. Every pod and container is found as it was, logs go on without a gap, and exec, attach and host
//! ports work; so does the removal of all that the older server made.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use proto::v1::*;

use super::many::{Picture, picture, unchanged};
use super::pod::{COUNTER, STOPPED, container, counted, pod};
use super::{PATIENCE, POLL, await_served, socket, start};
use crate::client::Client;
use crate::images::{BUSYBOX, HTTPD};
use crate::inventory::Inventory;
use crate::process::{Background, Program};
use crate::scenario::get;
use crate::server::Site;
use crate::tools::Tools;
use crate::wait::until;

/// The commit that is upgraded from: the last one with four executables and fork servers.
pub const FROM: &str = "f92836fb0108fe844561fde90f55ad4a835062eb";
/// Pods that run through the upgrade.
const PODS: u16 = 5;
/// The host port of the first pod; the others' follow.
const FIRST_PORT: u16 = 18_441;
/// Echoes each line of its standard input.
const ECHO: &str = "while read word; do echo got $word; done";
/// Time that a container has between SIGTERM and SIGKILL, in seconds.
const GRACE_S: i64 = 60;

/// What is upgraded, and where.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Plan {
    /// The directory of the older executables, instead of building them.
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Roots are on ZFS, below this dataset, which exists.
    #[arg(long, value_name = "DATASET")]
    pub zfs: Option<String>,
}

/// A pod that the older server made.
struct Old {
    pod: String,
    counter: String,
    echo: String,
    log: PathBuf,
    port: u16,
}

/// Builds the executables of the older commit, once, and returns their directory.
///
/// # Errors
/// The repository lacks the commit (a shallow clone), or it does not build.
pub fn build(tools: &Tools) -> Result<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("e2e is in a workspace")?;
    let built = tools.cached(&format!("cellblock-{}", &FROM[..7]), |partial| {
        let (source, archive) = (partial.join("source"), partial.join("source.tar"));
        std::fs::create_dir_all(&source)?;
        let args = ["archive".as_ref(), "-o".as_ref(), archive.as_os_str(), FROM.as_ref()];
        Program::new("git", args).dir(repository).run().context("the repository needs its whole history")?;
        Program::new("tar", ["-xf".as_ref(), archive.as_os_str()]).dir(&source).run()?;
        // Not this commit's target directory: cargo tells crates of a workspace apart by their paths inside it.
        let target = partial.join("target");
        let args = ["build", "--locked", "--bins", "-p", "cri", "-p", "runtime", "-p", "network", "--target-dir"];
        let args = args.into_iter().map(AsRef::as_ref).chain([target.as_os_str()]);
        let cargo = Program::new("cargo", args).dir(&source).env("CARGO_PROFILE_DEV_DEBUG", "0");
        cargo.timeout(crate::tools::BUILD_TIMEOUT).run()?;
        for program in ["cellblock", "cellblock-monitor", "cellblock-hostport", "cellblock-vnet"] {
            std::fs::rename(target.join("debug").join(program), partial.join(program))?;
        }
        [source, target].iter().try_for_each(std::fs::remove_dir_all)?;
        Ok(std::fs::remove_file(archive)?)
    })?;
    Ok(built)
}

/// Runs it on a site that has no server now, from the executables in this directory to those beside this program.
///
/// # Errors
/// Something is lost, changed or left behind.
pub fn run(site: &Site, from: &Path) -> Result<()> {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let client = Client::new(tokio.handle(), socket(site));
    site.suit_older_server()?;
    let mut before = Inventory::take(site)?;
    let server = await_served(&client, || site.start_from(from))?.0;
    before.add_directories(site);
    let (upgraded, server) = match upgrade(site, &client, server) {
        Ok(server) => (Ok(()), server),
        // The servers of the upgrade were killed with it; another removes the pods.
        Err(error) => (Err(error), start(site, &client)?.0),
    };
    let removed = client.pods()?.iter().try_for_each(|pod| client.remove_pod(pod));
    server.stop()?;
    upgraded?;
    removed?;
    Inventory::unchanged_since(&before, site)
}

/// The upgrade itself; returns the new server.
fn upgrade(site: &Site, client: &Client, old: Background) -> Result<Background> {
    for image in [BUSYBOX, HTTPD] {
        client.pull(image).with_context(|| format!("cannot pull {image}"))?;
    }
    let pods = (0..PODS).map(|number| make(site, client, number)).collect::<Result<Vec<Old>>>()?;
    for pod in &pods {
        // The container has started; its program may not listen yet.
        until(PATIENCE, || serves_pages(pod.port)).context("before the upgrade")?;
    }
    let attached = site.dir().join("attached.out");
    let follower = site.crictl(["attach", &pods[0].counter]).background(&attached)?;
    comes_to(&attached, |text| text.lines().count() > 1).context("the attached client sees nothing")?;
    let then = picture(client)?;
    old.stop()?;
    let (server, _) = start(site, client)?;
    same(&then, &picture(client)?)?;
    for pod in &pods {
        works(site, client, pod).with_context(|| format!("pod {} after the upgrade", pod.pod))?;
    }
    // Its connection went with the older server.
    follower.kill()?;
    Ok(server)
}

/// The newer server says of each object what the older one said.
fn same(then: &Picture, now: &Picture) -> Result<()> {
    ensure!(
        then.pods.len() == usize::from(PODS) && then.containers.len() == 3 * usize::from(PODS),
        "not all were listed"
    );
    unchanged(then, now)
}

fn make(site: &Site, client: &Client, number: u16) -> Result<Old> {
    let (name, port) = (format!("upgrade-{number}"), FIRST_PORT + number);
    let mut config = pod(&name, &site.dir().join("logs"));
    let mapping = PortMapping { container_port: 80, host_port: port.into(), ..PortMapping::default() };
    config.port_mappings = vec![mapping];
    let request = RunPodSandboxRequest { config: Some(config.clone()), ..RunPodSandboxRequest::default() };
    let id = client.call(client.runtime().run_pod_sandbox(request))?.into_inner().pod_sandbox_id;
    let run = |config_of: ContainerConfig| -> Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(config_of),
            sandbox_config: Some(config.clone()),
        };
        let container_id = client.call(client.runtime().create_container(request))?.into_inner().container_id;
        client.call(client.runtime().start_container(StartContainerRequest { container_id: container_id.clone() }))?;
        Ok(container_id)
    };
    let counter = run(container(&format!("{name}-counter"), COUNTER, NamespaceMode::Container))?;
    let echo = ContainerConfig { stdin: true, ..container(&format!("{name}-echo"), ECHO, NamespaceMode::Container) };
    let echo = run(echo)?;
    let web = container(&format!("{name}-web"), "", NamespaceMode::Container);
    let image = Some(ImageSpec { image: HTTPD.to_owned(), ..ImageSpec::default() });
    run(ContainerConfig { image, command: Vec::new(), ..web })?;
    let log = PathBuf::from(&config.log_directory).join(format!("{name}-counter.log"));
    comes_to(&log, |text| counted(text).is_ok_and(|count| count > 0)).context("the counter does not count")?;
    Ok(Old { pod: id, counter, echo, log, port })
}

/// Waits until this holds for the text of a file.
fn comes_to(file: &Path, holds: impl Fn(&str) -> bool) -> Result<()> {
    let begin = Instant::now();
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if holds(&text) {
            return Ok(());
        }
        ensure!(begin.elapsed() < PATIENCE, "after {PATIENCE:?} {} holds {text:?}", file.display());
        std::thread::sleep(POLL);
    }
}

fn serves_pages(port: u16) -> Result<()> {
    for host in ["127.0.0.1", "[::1]"] {
        let page = get(&format!("{host}:{port}")).with_context(|| format!("{host}:{port}"))?;
        ensure!(page.starts_with("HTTP/1."), "{host}:{port} answers {page:?}");
    }
    Ok(())
}

/// What a pod must do under the newer server.
fn works(site: &Site, client: &Client, old: &Old) -> Result<()> {
    let first = counted(&std::fs::read_to_string(&old.log)?)?;
    comes_to(&old.log, |text| counted(text).is_ok_and(|count| count > first)).context("the log does not go on")?;
    serves_pages(old.port)?;
    let exec = site.run(["exec", "-s", &old.counter, "echo", "word"])?;
    ensure!(exec.trim_end() == "word", "exec prints {exec:?}");
    let output = site.dir().join(format!("attached-{}.out", old.port));
    let attached = site.crictl(["attach", "-i", &old.echo]).stdin("hello\n").background(&output)?;
    comes_to(&output, |text| text.contains("got hello")).context("an attached client gets no answer")?;
    attached.kill()?;
    let request = StopContainerRequest { container_id: old.counter.clone(), timeout: GRACE_S };
    client.call(client.runtime().stop_container(request))?;
    let code = client.container(&old.counter)?.exit_code;
    ensure!(code == STOPPED, "a stopped counter exits with {code} instead of {STOPPED}");
    Ok(())
}
