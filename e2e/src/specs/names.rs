//! Names of pods where there is no cluster DNS: the server has a domain for them, and these pods have no DNS configuration.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::v1::{DnsConfig, PodSandboxConfig, StatusRequest};

use super::Spec;
use super::pod::Pod;
use super::stage::{PATIENCE, Stage};
use crate::dns::{DOMAIN, lookup};
use crate::process::Program;
use crate::wait::eventually;

pub(super) const SPECS: &[Spec] = &[
    Spec { name: "a pod finds another by its name, until that is removed", run: found_by_name },
    Spec { name: "the name server comes back when it is killed", run: comes_back },
    Spec { name: "a pod with a DNS configuration keeps it", run: own_configuration },
];

/// The response of a server.
const HELLO: &str = "hello-from-a-name";
/// A port of a pod's own network.
const PORT: u16 = 8080;
/// How long a name may be there after its pod, or be missing.
const LAG: Duration = Duration::from_secs(10);

fn name(pod: &Pod<'_>) -> String {
    pod.config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default()
}

fn whole_name(pod: &Pod<'_>) -> String {
    format!("{}.specs.{DOMAIN}", name(pod))
}

/// The name servers that a pod without a DNS configuration has.
fn servers(text: &str) -> Result<Vec<IpAddr>> {
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver "));
    Ok(servers.map(str::parse).collect::<Result<_, _>>()?)
}

fn found_by_name(stage: &Stage<'_>) -> Result<()> {
    let server = stage.pod()?;
    let address = server.status()?.network.context("the pod has no network")?.ip;
    // BusyBox's nc tries no other address of a name than the first, which is of IPv6.
    let all = if stage.system.os == "linux" { "[::]" } else { &address };
    let script = stage.system.serve(HELLO, PORT).replace("127.0.0.1", all);
    server.container(|config| config.command = ["sh", "-c", &script].map(str::to_owned).to_vec())?;
    let isolated = |config: &mut PodSandboxConfig| {
        config.annotations.insert("network.cellblock/firewall".to_owned(), "isolated".to_owned());
    };
    for client in [stage.pod()?, stage.pod_with(isolated)?] {
        let client = client.container(|_| ())?;
        for host in [name(&server), format!("{}.specs", name(&server)), whole_name(&server)] {
            let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {host} {PORT} || true");
            eventually(PATIENCE, &format!("an answer of {host}"), || {
                Ok(client.exec(&ask)?.ends_with(HELLO).then_some(()))
            })?;
        }
        // Whole: otherwise the node's own resolvers are asked too, and may say nothing for long.
        client.fails(&format!("nc -w 5 no-such-pod.specs.{DOMAIN}. 8080 </dev/null"))?;
    }
    let client = stage.pod()?;
    let text = client.container(|_| ())?.exec("cat /etc/resolv.conf")?;
    ensure!(text.contains(&format!("search specs.{DOMAIN} {DOMAIN}")), "resolv.conf: {text}");
    let servers = servers(&text)?;
    ensure!(!servers.is_empty(), "no name server: {text}");
    for gateway in &servers {
        let found = lookup(*gateway, &whole_name(&server))?;
        ensure!(found.is_some_and(|found| found.to_string() == address), "{gateway} has {found:?}, not {address}");
    }
    let (gone, removed) = (whole_name(&server), Instant::now());
    stage.ground.client.remove_pod(&server.id)?;
    let ended = Instant::now();
    let told = || Ok(lookup(servers[0], &gone)?.is_none().then_some(()));
    eventually(PATIENCE, "the end of a name", told)?;
    let (took, after) = (removed.elapsed(), ended.elapsed());
    println!("  a name is gone {took:?} after the removal of its pod began, {after:?} after it ended");
    // The removal itself takes what it takes.
    ensure!(lookup(servers[0], &gone)?.is_none(), "{gone} came back");
    Ok(())
}

fn comes_back(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let text = pod.container(|_| ())?.exec("cat /etc/resolv.conf")?;
    let gateway = *servers(&text)?.first().context("no name server")?;
    let client = stage.ground.client;
    let status = client.call(client.runtime().status(StatusRequest { verbose: true }))?.into_inner();
    let config: serde_json::Value = serde_json::from_str(status.info.get("config").context("no configuration")?)?;
    let state = config["state"].as_str().context("no state directory")?;
    let pid_file = std::path::Path::new(state).join("nameserver/nameserver.pid");
    let pid = || -> Result<String> { Ok(std::fs::read_to_string(&pid_file)?.trim().to_owned()) };
    let first = pid()?;
    Program::new("kill", ["-9", &first]).run()?;
    let killed = Instant::now();
    let answered = || Ok(lookup(gateway, &whole_name(&pod)).ok().flatten());
    eventually(PATIENCE, "an answer of the next name server", answered)?;
    println!("  names are answered {:?} after their server was killed", killed.elapsed());
    ensure!(pid()? != first, "the killed name server answers");
    let other = stage.pod()?;
    let made = Instant::now();
    eventually(PATIENCE, "the name of a new pod", || lookup(gateway, &whole_name(&other)))?;
    let took = made.elapsed();
    println!("  a new pod has its name {took:?} after it was made");
    ensure!(took < LAG, "a new pod has its name after {took:?}");
    Ok(())
}

fn own_configuration(stage: &Stage<'_>) -> Result<()> {
    let config = DnsConfig { servers: vec!["192.0.2.53".to_owned()], ..DnsConfig::default() };
    let pod = stage.pod_with(|pod| pod.dns_config = Some(config))?;
    let text = pod.container(|_| ())?.exec("cat /etc/resolv.conf")?;
    ensure!(text == "nameserver 192.0.2.53", "resolv.conf: {text}");
    Ok(())
}
