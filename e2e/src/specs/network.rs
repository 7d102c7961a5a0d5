//! The network of a pod: its own or the host's, shared by its containers, and its kernel parameters.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::v1::{ContainerConfig, NamespaceMode, PodSandboxConfig, PortMapping};

use super::Spec;
use super::pod::{Pod, namespaces};
use super::stage::{PATIENCE, Stage};
use crate::ports::free_port;
use crate::process::Program;
use crate::wait::eventually;

pub(super) const SPECS: &[Spec] = &[
    Spec { name: "network NODE: the host's interfaces and services", run: host_network },
    Spec { name: "network NODE: the host reaches what listens in the pod", run: host_reaches_pod },
    Spec { name: "network POD: an address of its own, and not the host's services", run: pod_network },
    Spec { name: "port-forward into a pod on the host's network", run: port_forward },
    Spec { name: "two containers of a pod share its network and have a log each", run: two_containers },
    Spec { name: "a pod's firewall, by annotation", run: firewall },
    Spec { name: "a pod's own pf, by annotation", run: own_filter },
    Spec { name: "a sysctl of the pod's own is set, and for it only", run: own_parameter },
    Spec { name: "a sysctl of the whole machine is refused by its name", run: machines_parameter },
    Spec { name: "a sysctl of the network in a pod on the host's is refused", run: parameter_of_host_network },
];

/// Files of rules for pods' own pf, in the directory that the server's configuration names: one closes [`PORT`] from outside, one is
/// wrong in its second line.
const FILTERS: [(&str, &str); 2] = [
    ("closed.conf", "set skip on lo0\npass all\nblock drop in quick on eth0 proto tcp from any to any port 8080\n"),
    ("wrong.conf", "pass all\nnonsense\n"),
];
/// The response of a server.
const HELLO: &str = "hello-from-a-spec";
/// The request to it.
const REQUEST: &str = "GET / HTTP/1.0\r\n\r\n";
/// A port of a pod's own network.
const PORT: u16 = 8080;

/// Sends a hello to the first client of a port of the host's 127.0.0.1.
struct HostServer {
    port: u16,
    thread: JoinHandle<std::io::Result<()>>,
}

impl HostServer {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            writeln!(stream, "{HELLO}")
        });
        Ok(Self { port, thread })
    }

    /// Ends it by a connection, in case there was none.
    fn stop(self) -> Result<()> {
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        // The client may have hung up; the spec checks its data.
        let _ = self.thread.join();
        Ok(())
    }
}

fn on_the_host(config: &mut PodSandboxConfig) {
    namespaces(config).set_network(NamespaceMode::Node);
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn host_network(stage: &Stage<'_>) -> Result<()> {
    let container = stage.pod_with(on_the_host)?.container(|_| ())?;
    let script = stage.system.interfaces;
    let interfaces = || Program::new("sh", ["-c", script]).run().map(|text| words(&text));
    // Interfaces of others come and go: compare with those that exist before and after.
    let (before, seen, after) = (interfaces()?, words(&container.exec(script)?), interfaces()?);
    let missing: Vec<_> = before.intersection(&after).filter(|name| !seen.contains(*name)).collect();
    ensure!(!before.is_empty() && missing.is_empty(), "the pod does not see {missing:?} of the host's interfaces");
    let server = HostServer::start()?;
    let heard = container.exec(&format!("nc 127.0.0.1 {} </dev/null", server.port));
    server.stop()?;
    let heard = heard?;
    ensure!(heard == HELLO, "the host's server says {heard:?}");
    Ok(())
}

fn host_reaches_pod(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod_with(on_the_host)?;
    let port = free_port()?;
    let _server = serve(stage, &pod, port)?;
    hear(port).map(drop)
}

fn pod_network(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let address = pod.status()?.network.context("the pod has no network")?.ip;
    let container = pod.container(|_| ())?;
    let shown = container.exec("ifconfig")?;
    ensure!(!address.is_empty() && shown.contains(&address), "no address {address:?} inside: {shown}");
    let server = HostServer::start()?;
    let refused = container.fails(&format!("nc 127.0.0.1 {} </dev/null", server.port));
    server.stop()?;
    refused
}

fn port_forward(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod_with(on_the_host)?;
    let (from, to) = (free_port()?, free_port()?);
    let _server = serve(stage, &pod, to)?;
    hear(to)?;
    let forward = stage.forward(&pod.id, from, to)?;
    let heard = hear(from);
    forward.kill()?;
    heard
}

/// Starts a container that sends a hello on a port of 127.0.0.1.
fn serve<'a>(stage: &Stage<'_>, pod: &Pod<'a>, port: u16) -> Result<super::pod::Container<'a>> {
    let script = stage.system.serve(HELLO, port);
    pod.container(|config| config.command = ["sh", "-c", &script].map(str::to_owned).to_vec())
}

/// Waits for a hello from a port of the host's 127.0.0.1.
fn hear(port: u16) -> Result<()> {
    eventually(PATIENCE, &format!("a hello on port {port}"), || {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return Ok(None) };
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut text = String::new();
        // Retries after a broken connection.
        let _ = stream.write_all(REQUEST.as_bytes()).and_then(|()| stream.read_to_string(&mut text));
        Ok(text.trim_end().ends_with(HELLO).then_some(()))
    })
}

fn two_containers(stage: &Stage<'_>) -> Result<()> {
    let (pod, other) = (stage.pod()?, stage.pod()?);
    let script = format!("echo this is the server; {}", stage.system.serve(HELLO, PORT));
    let server = pod.container(|config| config.command = ["sh", "-c", &script].map(str::to_owned).to_vec())?;
    let client = pod.container(|config| {
        config.command = ["sh", "-c", "echo this is the client; tail -f /dev/null"].map(str::to_owned).to_vec();
    })?;
    let stranger = other.container(|_| ())?;
    let ask = format!("printf '{}' | nc 127.0.0.1 {PORT} || true", REQUEST.escape_default());
    eventually(PATIENCE, "an answer from the other container", || {
        Ok(client.exec(&ask)?.ends_with(HELLO).then_some(()))
    })?;
    let heard = stranger.exec(&ask)?;
    ensure!(heard.is_empty(), "another pod hears {heard:?} on its own 127.0.0.1");
    for (container, line) in [(&server, "this is the server"), (&client, "this is the client")] {
        let log = eventually(PATIENCE, "a log", || Ok(Some(container.log()?).filter(|log| !log.is_empty())))?;
        ensure!(log == line, "the log of one container: {log:?}, not {line:?}");
    }
    Ok(())
}

fn firewall(stage: &Stage<'_>) -> Result<()> {
    let annotation = "network.cellblock/firewall";
    let set = |value: &str, ports: &[i32]| {
        let annotations = [(annotation.to_owned(), value.to_owned())];
        let ports = ports.iter().map(|port| PortMapping { container_port: *port, ..PortMapping::default() }).collect();
        move |config: &mut PodSandboxConfig| {
            config.annotations.extend(annotations.clone());
            config.port_mappings = Vec::clone(&ports);
        }
    };
    let stranger = stage.pod()?;
    let stranger = stranger.container(|_| ())?;
    let declared = i32::from(PORT);
    for (value, ports, open) in [
        ("open", &[][..], true),
        ("ports", &[declared], true),
        ("ports", &[declared + 1], false),
        ("isolated", &[], false),
    ] {
        let pod = stage.pod_with(set(value, ports))?;
        let address = pod.status()?.network.context("the pod has no network")?.ip;
        let script = stage.system.serve(HELLO, PORT).replace("127.0.0.1", &address);
        let server = pod.container(|config| config.command = ["sh", "-c", &script].map(str::to_owned).to_vec())?;
        let ask = format!("printf '{}' | nc -w 3 {address} {PORT} || true", REQUEST.escape_default());
        eventually(PATIENCE, "an answer in the pod itself", || Ok(server.exec(&ask)?.ends_with(HELLO).then_some(())))?;
        if open {
            let heard = || Ok(stranger.exec(&ask)?.ends_with(HELLO).then_some(()));
            eventually(PATIENCE, &format!("{value}: an answer from another pod"), heard)?;
        } else {
            let heard = stranger.exec(&ask)?;
            ensure!(heard.is_empty(), "{value}: another pod hears {heard:?}");
        }
    }
    stage.pod_refused(annotation, set("closed", &[]))?;
    stage.pod_refused(annotation, |config| {
        on_the_host(config);
        set("isolated", &[])(config);
    })
}

fn own_filter(stage: &Stage<'_>) -> Result<()> {
    let set = |file: &'static str| {
        move |config: &mut PodSandboxConfig| {
            config.annotations.insert("network.cellblock/pf".to_owned(), file.to_owned());
        }
    };
    let directory = stage.ground.dir.join("filters");
    std::fs::create_dir_all(&directory)?;
    FILTERS.iter().try_for_each(|(name, rules)| std::fs::write(directory.join(name), rules))?;
    if stage.system.os == "linux" {
        return stage.pod_refused("own pf (closed.conf)", set("closed.conf"));
    }
    stage.pod_refused("wrong.conf:2", set("wrong.conf"))?;
    stage.pod_refused("missing.conf", set("missing.conf"))?;
    let stranger = stage.pod()?;
    let stranger = stranger.container(|_| ())?;
    let pod = stage.pod_with(set("closed.conf"))?;
    let address = pod.status()?.network.context("the pod has no network")?.ip;
    let ask = |port| format!("printf '{}' | nc -w 3 {address} {port} || true", REQUEST.escape_default());
    for port in [PORT + 1, PORT] {
        let script = stage.system.serve(HELLO, port).replace("127.0.0.1", &address);
        let server = pod.container(|config| config.command = ["sh", "-c", &script].map(str::to_owned).to_vec())?;
        let told = || Ok(server.exec(&ask(port))?.ends_with(HELLO).then_some(()));
        eventually(PATIENCE, "an answer in the pod itself", told)?;
    }
    let heard = || Ok(stranger.exec(&ask(PORT + 1))?.ends_with(HELLO).then_some(()));
    eventually(PATIENCE, "an answer from another pod", heard)?;
    let heard = stranger.exec(&ask(PORT))?;
    ensure!(heard.is_empty(), "another pod hears {heard:?} of a port that is closed");
    Ok(())
}

fn parameter(name: &str, value: &str) -> impl Fn(&mut PodSandboxConfig) {
    let sysctls = [(name.to_owned(), value.to_owned())];
    move |config| config.linux.get_or_insert_default().sysctls = sysctls.clone().into()
}

fn own_parameter(stage: &Stage<'_>) -> Result<()> {
    let (name, read) = stage.system.pods_parameter;
    let before = Program::new("sh", ["-c", read]).run()?;
    let (pod, other) = (stage.pod_with(parameter(name, "77"))?, stage.pod()?);
    let plain = |_: &mut ContainerConfig| ();
    let (set, unset) = (pod.container(plain)?.exec(read)?, other.container(plain)?.exec(read)?);
    ensure!(set == "77" && unset != "77", "{name} is {set} in the pod and {unset} in another");
    let after = Program::new("sh", ["-c", read]).run()?;
    ensure!(before == after, "{name} of the host went from {before} to {after}");
    stage.pod_refused(name, parameter(name, "many"))
}

fn machines_parameter(stage: &Stage<'_>) -> Result<()> {
    stage.system.hosts_parameters.iter().try_for_each(|name| stage.pod_refused(name, parameter(name, "1000")))
}

fn parameter_of_host_network(stage: &Stage<'_>) -> Result<()> {
    let (name, _) = stage.system.pods_parameter;
    let set = parameter(name, "77");
    stage.pod_refused(name, |config| {
        on_the_host(config);
        set(config);
    })
}
