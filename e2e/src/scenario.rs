//! The life of a pod through crictl: pull, run, create, start, all inspections, and removal; then errors for bad input; then a
//! server that is killed and restarted under a running container.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::checks::Checks;
use crate::dns::{DOMAIN, lookup};
use crate::images::{BUSYBOX, HTTPD, NGINX};
use crate::process::Background;
use crate::server::Site;
use crate::wait::until;

/// The host port of the web server.
const HOST_PORT: u16 = 18_411;
const FORWARDED_PORT: u16 = 18_412;
/// The time-out of anything asynchronous.
const PATIENCE: Duration = Duration::from_secs(15);

/// Writes configurations of pods and containers for crictl.
pub(crate) struct Files<'a> {
    pub(crate) site: &'a Site,
}

impl Files<'_> {
    pub(crate) fn write(&self, name: &str, value: &Value) -> Result<String> {
        let path = self.site.dir().join(format!("{name}.json"));
        std::fs::write(&path, serde_json::to_vec_pretty(value)?)?;
        path.into_os_string().into_string().ok().context("the site's directory is UTF-8")
    }

    fn logs(&self) -> PathBuf {
        self.site.dir().join("logs")
    }

    /// A pod with a host port to its web server.
    fn pod(&self, name: &str) -> Result<String> {
        self.write(&format!("pod-{name}"), &self.pod_value(name))
    }

    pub(crate) fn pod_value(&self, name: &str) -> Value {
        json!({
            "metadata": {"name": name, "uid": format!("uid-{name}"), "namespace": "default", "attempt": 1},
            "hostname": name,
            "log_directory": self.logs(),
            "labels": {"app": name, "io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "default"},
            "annotations": {"note": "kept"},
            "dns_config": {"servers": ["10.10.10.10"], "searches": ["example.org"]},
            "port_mappings": [{"container_port": 80, "host_port": HOST_PORT}],
            "linux": {},
        })
    }

    fn container(&self, name: &str, image: &str, command: &[&str]) -> Result<String> {
        self.write(&format!("container-{name}"), &self.container_value(name, image, command))
    }

    pub(crate) fn container_value(&self, name: &str, image: &str, command: &[&str]) -> Value {
        json!({
            "metadata": {"name": name},
            "image": {"image": image},
            "command": command,
            "log_path": format!("{name}.log"),
            "labels": {"io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "default"},
            "envs": [{"key": "GREETING", "value": "hello"}],
            "mounts": [{"container_path": "/logs", "host_path": self.logs(), "readonly": true}],
            "linux": {"resources": {"memory_limit_in_bytes": 64 << 20}},
        })
    }
}

/// Runs it on a running server. The pod is removed at the end; after a failure the caller removes it.
pub fn run(site: &Site, checks: &mut Checks) -> Result<()> {
    std::fs::create_dir_all(site.dir().join("logs"))?;
    checks.check("version and info", || versions(site));
    if checks.check("pull and images", || images(site)).is_none() {
        return Ok(());
    }
    let files = Files { site };
    let pod_file = files.pod("web")?;
    let Some(pod) = checks.check("runp, pods, inspectp", || run_pod(site, &pod_file)) else { return Ok(()) };
    if let Some(web) = checks.check("create, start, ps, inspect", || web_server(&files, &pod, &pod_file)) {
        checks.check("exec -s", || exec_sync(site, &web));
        checks.check("exec", || exec(site, &web));
        checks.check("stats, statsp, imagefsinfo", || stats(site, &pod, &web));
        checks.check("fetch from the pod and from the host port", || fetch_page(site, &pod));
        checks.check("port-forward", || port_forward(site, &pod));
        checks.check("stop, rm", || stop_and_remove(site, &web));
    }
    checks.check("logs, exit code", || short_life(&files, &pod, &pod_file));
    checks.check("attach", || attach(&files, &pod, &pod_file));
    checks.check("the host port from everywhere", || host_port(&files, &pod, &pod_file));
    checks.check("bad input", || bad_input(&files, &pod, &pod_file));
    checks.check("stopp, rmp, rmi", || remove_all(site, &pod));
    Ok(())
}

fn versions(site: &Site) -> Result<()> {
    let version = site.run(["version"])?;
    for line in ["RuntimeName:  cellblock", "RuntimeApiVersion:  v1"] {
        ensure!(version.contains(line), "no {line:?} in {version}");
    }
    let info = site.json(["info"])?;
    let conditions = info["status"]["conditions"].as_array().context("no conditions")?;
    for name in ["RuntimeReady", "NetworkReady"] {
        let ready = conditions.iter().any(|condition| condition["type"] == name && condition["status"] == true);
        ensure!(ready, "{name} is not true: {conditions:?}");
    }
    Ok(())
}

fn images(site: &Site) -> Result<()> {
    for image in [BUSYBOX, NGINX, HTTPD] {
        let said = site.run(["pull", image])?;
        ensure!(said.starts_with("Image is up to date for sha256:"), "pull {image}: {said}");
        let inspected = site.json(["inspecti", image])?;
        ensure!(inspected["status"]["repoTags"] == json!([image]), "{image}: {inspected}");
    }
    let list = site.run(["images"])?;
    let row =
        list.lines().find(|line| line.starts_with("registry.k8s.io/e2e-test-images/busybox")).context("not listed")?;
    let columns: Vec<&str> = row.split_whitespace().collect();
    ensure!(columns.len() == 4 && columns[1] == "1.29-2" && columns[3].ends_with('B'), "images: {row}");
    Ok(())
}

fn run_pod(site: &Site, pod_file: &str) -> Result<String> {
    let pod = site.run(["runp", pod_file])?.trim().to_owned();
    ensure!(pod.len() == 64 && pod.bytes().all(|byte| byte.is_ascii_hexdigit()), "runp printed {pod:?}");
    let list = site.run(["pods"])?;
    let row = list.lines().find(|line| line.starts_with(&pod[..13])).context("pods does not list it")?;
    for word in ["Ready", "web", "default"] {
        ensure!(row.split_whitespace().any(|column| column == word), "pods: no {word} in {row}");
    }
    let status = site.json(["inspectp", &pod])?;
    ensure!(status["status"]["state"] == "SANDBOX_READY", "inspectp: {}", status["status"]);
    ensure!(status["status"]["annotations"]["note"] == "kept", "inspectp: {}", status["status"]);
    ensure!(pod_address(site, &pod)?.starts_with("10."), "inspectp: {}", status["status"]["network"]);
    let again = site.run(["runp", pod_file]);
    ensure!(again.as_ref().map_or(true, |id| id.trim() == pod), "the same pod twice: {again:?}");
    Ok(pod)
}

fn pod_address(site: &Site, pod: &str) -> Result<String> {
    let status = site.json(["inspectp", pod])?;
    Ok(status["status"]["network"]["ip"].as_str().context("the pod has no address")?.to_owned())
}

fn web_server(files: &Files<'_>, pod: &str, pod_file: &str) -> Result<String> {
    let site = files.site;
    let web = site.run(["create", pod, &files.container("nginx", NGINX, &[])?, pod_file])?.trim().to_owned();
    ensure!(
        site.json(["inspect", &web])?["status"]["state"] == "CONTAINER_CREATED",
        "a created container is not CREATED"
    );
    site.run(["start", &web])?;
    let list = site.run(["ps"])?;
    let row = list.lines().find(|line| line.starts_with(&web[..13])).context("ps does not list it")?;
    for word in [NGINX, "Running", "nginx", &pod[..13]] {
        ensure!(row.split_whitespace().any(|column| column == word), "ps: no {word} in {row}");
    }
    let status = site.json(["inspect", &web])?["status"].clone();
    ensure!(status["state"] == "CONTAINER_RUNNING" && status["startedAt"].is_string(), "inspect: {status}");
    ensure!(
        status["mounts"][0]["containerPath"] == "/logs" && status["mounts"][0]["readonly"] == true,
        "inspect: {status}"
    );
    ensure!(status["image"]["image"] == NGINX, "inspect: {status}");
    Ok(web)
}

fn exec_sync(site: &Site, web: &str) -> Result<()> {
    let script = "echo $GREETING; hostname; grep -c . /etc/resolv.conf; cat /etc/resolv.conf; echo oops >&2";
    let output = site.crictl(["exec", "-s", web, "sh", "-c", script]).output()?;
    for wanted in ["hello\nweb\n", "nameserver 10.10.10.10", "search example.org"] {
        ensure!(output.stdout.contains(wanted), "no {wanted:?} in {output:?}");
    }
    let refused = site.refused(["exec", "-s", web, "sh", "-c", "exit 7"])?;
    ensure!(refused.stderr.contains("exited with 7"), "{refused:?}");
    let missing = site.refused(["exec", "-s", web, "no-such-program"])?;
    ensure!(missing.stderr.contains("no-such-program"), "{missing:?}");
    let start = Instant::now();
    let late = site.refused(["exec", "-s", "--timeout", "1", web, "sh", "-c", "sleep 4321 & sleep 4321"])?;
    ensure!(late.stderr.contains("timed out") && start.elapsed() < PATIENCE, "{late:?}");
    let left = site.run(["exec", "-s", web, "sh", "-c", "pidof sleep || true"])?;
    ensure!(left.trim().is_empty(), "the time-out left processes: {left}");
    background(site, web)
}

/// Background processes of a command outlive it, as in containerd, whether they hold the command's output or not.
fn background(site: &Site, web: &str) -> Result<()> {
    for (sync, script) in [("true", "sleep 4321 & echo begun"), ("false", "sleep 4321 >/dev/null 2>&1 & echo begun")] {
        let args = ["exec", &format!("--sync={sync}"), web, "sh", "-c", script];
        ensure!(site.run(args)?.trim() == "begun", "{script}: it prints something else");
        // Longer than the server waits for the output of an exited command.
        std::thread::sleep(Duration::from_secs(2));
        let goes_on = ["exec", "-s", web, "sh", "-c", "pidof sleep && kill $(pidof sleep)"];
        site.run(goes_on).with_context(|| format!("{script}: it does not go on"))?;
    }
    Ok(())
}

fn exec(site: &Site, web: &str) -> Result<()> {
    let output = site.crictl(["exec", web, "sh", "-c", "echo out; echo err >&2; exit 4"]).output()?;
    ensure!(output.stdout.contains("out\n") && output.stderr.contains("err"), "{output:?}");
    ensure!(output.stderr.contains("exit code 4"), "{output:?}");
    let echoed = site.crictl(["exec", "-i", web, "cat"]).stdin("through and back").output()?;
    ensure!(echoed.stdout == "through and back", "{echoed:?}");
    Ok(())
}

fn stats(site: &Site, pod: &str, web: &str) -> Result<()> {
    let number = |value: &Value| value["value"].as_str().and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let stats = site.json(["stats", "-o", "json", web])?;
    let first = &stats["stats"][0];
    ensure!(first["attributes"]["id"] == *web, "stats: {stats}");
    ensure!(number(&first["memory"]["workingSetBytes"]) > 0, "no working set: {first}");
    ensure!(number(&first["cpu"]["usageCoreNanoSeconds"]) > 0, "no CPU time: {first}");
    let pods = site.json(["statsp", "-o", "json", pod])?;
    ensure!(pods["stats"][0]["attributes"]["id"] == *pod, "statsp: {pods}");
    let table = site.run(["stats", "--seconds", "1", web])?;
    ensure!(table.contains(&web[..13]) && table.contains("nginx"), "stats: {table}");
    let usage = site.json(["imagefsinfo"])?;
    ensure!(number(&usage["status"]["imageFilesystems"][0]["usedBytes"]) > 1 << 20, "imagefsinfo: {usage}");
    Ok(())
}

/// Fetches the page from the pod's address and from the host port on loopback.
fn fetch_page(site: &Site, pod: &str) -> Result<()> {
    let address = pod_address(site, pod)?;
    for from in [format!("{address}:80"), format!("127.0.0.1:{HOST_PORT}")] {
        let page = get(&from).with_context(|| format!("http://{from}/"))?;
        ensure!(page.contains("Welcome to nginx!"), "http://{from}/: {page}");
    }
    Ok(())
}

/// Fetches a page from a web server, which may still be starting.
pub(crate) fn get(address: &str) -> Result<String> {
    let mut stream = until(PATIENCE, || Ok(TcpStream::connect(address)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

fn port_forward(site: &Site, pod: &str) -> Result<()> {
    let ports = format!("{FORWARDED_PORT}:80");
    let forward = site.crictl(["port-forward", pod, &ports]).background(&site.dir().join("port-forward.log"))?;
    // Two concurrent connections, each with its own streams.
    let pages: Vec<Result<String>> = std::thread::scope(|scope| {
        let fetch = || get(&format!("127.0.0.1:{FORWARDED_PORT}"));
        let threads = [scope.spawn(fetch), scope.spawn(fetch)];
        threads.into_iter().map(|thread| thread.join().expect("get does not panic")).collect()
    });
    forward.kill()?;
    for page in pages {
        let page = page?;
        ensure!(page.contains("Welcome to nginx!"), "through port-forward: {page}");
    }
    Ok(())
}

fn attach(files: &Files<'_>, pod: &str, pod_file: &str) -> Result<()> {
    let site = files.site;
    let mut value = files.container_value("attached", BUSYBOX, &["sh", "-c", "read word; echo got $word; exit 5"]);
    value["stdin"] = json!(true);
    let file = files.write("container-attached", &value)?;
    let id = site.run(["create", pod, &file, pod_file])?.trim().to_owned();
    site.run(["start", &id])?;
    let output = site.crictl(["attach", "-i", &id]).stdin("hello\n").output()?;
    ensure!(output.stdout.contains("got hello\n"), "attach: {output:?}");
    ensure!(until_exited(site, &id)?["exitCode"] == 5, "the exit code is not 5");
    ensure!(site.run(["logs", &id])?.contains("got hello"), "what an attached client saw is not in the log");
    site.run(["rm", &id]).map(drop)
}

/// The host port serves on the node's loopback and own addresses, from another pod, and from the pod itself.
fn host_port(files: &Files<'_>, pod: &str, pod_file: &str) -> Result<()> {
    let site = files.site;
    let web = site.run(["create", pod, &files.container("httpd", HTTPD, &[])?, pod_file])?.trim().to_owned();
    site.run(["start", &web])?;
    let mut other = files.pod_value("other");
    other["port_mappings"] = json!([]);
    let other_file = files.write("pod-other", &other)?;
    let other = site.run(["runp", &other_file])?.trim().to_owned();
    let file = files.container("client", BUSYBOX, &["sleep", "1000"])?;
    let client = site.run(["create", &other, &file, &other_file])?.trim().to_owned();
    site.run(["start", &client])?;
    let route = site.run(["exec", "-s", &client, "ip", "route"])?;
    let node =
        route.split_whitespace().skip_while(|word| *word != "via").nth(1).context("no default route")?.to_owned();
    for from in ["127.0.0.1".to_owned(), "[::1]".to_owned(), node.clone()] {
        let page = get(&format!("{from}:{HOST_PORT}")).with_context(|| format!("from the node, at {from}"))?;
        ensure!(page.contains("It works!"), "from the node, at {from}: {page}");
    }
    for (from, id) in [("the pod itself", &web), ("another pod", &client)] {
        let url = format!("http://{node}:{HOST_PORT}/");
        let page = site.run(["exec", "-s", id, "timeout", "5", "wget", "-q", "-O", "-", &url]);
        let page = page.with_context(|| format!("from {from}"))?;
        ensure!(page.contains("It works!"), "from {from}: {page}");
    }
    site.run(["rmp", "-f", &other])?;
    site.run(["rm", "-f", &web]).map(drop)
}

fn stop_and_remove(site: &Site, web: &str) -> Result<()> {
    let refused = site.refused(["rm", web])?;
    ensure!(refused.stderr.contains("running"), "rm of a running container: {refused:?}");
    site.run(["stop", web])?;
    let list = site.run(["ps", "-a"])?;
    let row = list.lines().find(|line| line.starts_with(&web[..13])).context("ps -a does not list it")?;
    ensure!(row.contains("Exited"), "ps -a: {row}");
    site.run(["rm", web])?;
    let gone = site.refused(["inspect", web])?;
    ensure!(gone.stderr.contains("NotFound"), "inspect of a removed container: {gone:?}");
    Ok(())
}

fn short_life(files: &Files<'_>, pod: &str, pod_file: &str) -> Result<()> {
    let site = files.site;
    let script = "echo out; echo err >&2; exit 3";
    let file = files.container("short", BUSYBOX, &["sh", "-c", script])?;
    let id = site.run(["create", pod, &file, pod_file])?.trim().to_owned();
    site.run(["start", &id])?;
    let status = until_exited(site, &id)?;
    ensure!(status["exitCode"] == 3 && status["reason"] == "Error", "inspect: {status}");
    let logs = site.crictl(["logs", &id]).output()?;
    ensure!(logs.stdout == "out\n" && logs.stderr == "err\n", "logs: {logs:?}");
    let text = std::fs::read_to_string(files.logs().join("short.log"))?;
    let form = |line: &str| {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        words.len() == 4 && words[0].contains('T') && ["stdout", "stderr"].contains(&words[1]) && words[2] == "F"
    };
    ensure!(text.lines().count() == 2 && text.lines().all(form), "the log is not in CRI's form: {text}");
    site.run(["rm", &id]).map(drop)
}

pub(crate) fn until_exited(site: &Site, id: &str) -> Result<Value> {
    until(PATIENCE, || {
        let status = site.json(["inspect", id])?["status"].clone();
        ensure!(status["state"] == "CONTAINER_EXITED", "{id} has not exited: {status}");
        Ok(status)
    })
}

/// Bad input gets an error with the gRPC code and the name of the thing.
fn bad_input(files: &Files<'_>, pod: &str, pod_file: &str) -> Result<()> {
    let site = files.site;
    let says = |args: &[&str], wanted: &[&str]| -> Result<()> {
        let output = site.refused(args.iter().copied())?;
        let missing: Vec<_> = wanted.iter().filter(|text| !output.stderr.contains(**text)).collect();
        ensure!(missing.is_empty(), "crictl {args:?}: no {missing:?} in {}", output.stderr);
        Ok(())
    };
    says(&["pull", "registry.k8s.io/nothing:1"], &["NotFound", "registry.k8s.io/nothing:1"])?;
    says(&["pull", "registry.k8s.io/UPPER:1"], &["UPPER"])?;
    says(&["pull", "127.0.0.1:1/x:1"], &["127.0.0.1:1"])?;
    says(&["inspect", "0123456789abcdef"], &["NotFound", "0123456789abcdef"])?;
    says(&["inspectp", "0123456789abcdef"], &["NotFound"])?;
    says(&["start", "0123456789abcdef"], &["NotFound", "0123456789abcdef"])?;
    let created = |name: &str, change: &dyn Fn(&mut Value)| -> Result<String> {
        let mut value = files.container_value(name, BUSYBOX, &["sleep", "1000"]);
        change(&mut value);
        files.write(&format!("container-{name}"), &value)
    };
    let file = created("no-source", &|value| value["mounts"][0]["host_path"] = json!("/etc/passwd/source"))?;
    says(&["create", pod, &file, pod_file], &["/etc/passwd/source"])?;
    let file = created("no-image", &|value| value["image"]["image"] = json!("registry.k8s.io/nothing:1"))?;
    says(&["create", pod, &file, pod_file], &["NotFound", "registry.k8s.io/nothing:1"])?;
    let file =
        created("no-user", &|value| value["linux"]["security_context"] = json!({"run_as_username": "nosuchuser"}))?;
    says(&["create", pod, &file, pod_file], &["nosuchuser"])?;
    let file = created("no-command", &|value| value["command"] = json!(["no-such-program"]))?;
    let id = site.run(["create", pod, &file, pod_file])?.trim().to_owned();
    says(&["start", &id], &["no-such-program"])?;
    site.run(["rm", &id])?;
    let file = created("file-for-a-directory", &|value| value["working_dir"] = json!("/bin/busybox"))?;
    let id = site.run(["create", pod, &file, pod_file])?.trim().to_owned();
    says(&["start", &id], &["/bin/busybox"])?;
    let status = site.json(["inspect", &id])?["status"].clone();
    ensure!(
        status["state"] == "CONTAINER_EXITED" && status["exitCode"] == 128 && status["reason"] == "StartError",
        "a container that cannot be started has not ended: {status}"
    );
    site.run(["rm", &id]).map(drop)
}

fn remove_all(site: &Site, pod: &str) -> Result<()> {
    site.run(["stopp", pod])?;
    let list = site.run(["pods"])?;
    let row = list.lines().find(|line| line.starts_with(&pod[..13])).context("pods does not list it")?;
    ensure!(row.contains("NotReady"), "pods: {row}");
    site.run(["rmp", pod])?;
    for image in [BUSYBOX, NGINX, HTTPD] {
        ensure!(site.run(["rmi", image])?.contains(image), "rmi says nothing of {image}");
    }
    ensure!(
        site.run(["images", "-q"])?.trim().is_empty() && site.run(["pods", "-q"])?.trim().is_empty(),
        "something is left"
    );
    Ok(())
}

/// Kills and restarts the server under a running container; returns the new one.
pub fn restart(site: &Site, server: Background, checks: &mut Checks) -> Result<Option<Background>> {
    let files = Files { site };
    let pod_file = files.pod("web")?;
    let made = checks.check("a pod and a container before the server is killed", || {
        site.run(["pull", BUSYBOX])?;
        let pod = site.run(["runp", &pod_file])?.trim().to_owned();
        let script = "trap '' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done";
        let file = files.container("ticks", BUSYBOX, &["sh", "-c", script])?;
        let id = site.run(["create", &pod, &file, &pod_file])?.trim().to_owned();
        site.run(["start", &id])?;
        Ok((pod, id))
    });
    let Some((pod, id)) = made else { return Ok(Some(server)) };
    let exec = checks.check("an exec that runs when the server is killed", || {
        let output = site.dir().join("exec.log");
        let args = ["exec", "--transport", "websocket", &id, "sh", "-c", "echo begun; exec sleep 1000"];
        let mut exec = site.crictl(args).background(&output)?;
        exec.until(PATIENCE, || std::fs::read_to_string(&output).is_ok_and(|text| text.contains("begun")))?;
        Ok(exec)
    });
    server.kill()?;
    if let Some(exec) = exec {
        // By SPDY it does not: client-go takes a lost connection for success (docs/coverage.md).
        checks.check("an exec by WebSocket fails with its server", || {
            let status = exec.ended(PATIENCE)?;
            ensure!(!status.success(), "crictl exec: {status}");
            Ok(())
        });
    }
    checks.check("names of pods are answered without the server", || {
        let gateway: IpAddr = format!("10.{}.0.1", site.network()).parse()?;
        let found = lookup(gateway, &format!("web.default.{DOMAIN}"))?;
        ensure!(found.is_some(), "there is no such name");
        Ok(())
    });
    std::thread::sleep(Duration::from_secs(1));
    let Some(server) = checks.check("start again after kill -9", || site.serve()) else { return Ok(None) };
    checks.check("the container lives through it, and its log has no gap", || {
        let status = site.json(["inspect", &id])?["status"].clone();
        ensure!(status["state"] == "CONTAINER_RUNNING", "inspect: {status}");
        ensure!(site.run(["exec", "-s", &id, "echo", "there"])?.contains("there"), "exec -s says nothing");
        site.run(["stop", "--timeout", "1", &id])?;
        let code = site.json(["inspect", &id])?["status"]["exitCode"].clone();
        ensure!(code == 137, "it ignores SIGTERM and is killed, but its exit code is {code}");
        let logs = site.run(["logs", &id])?;
        let numbers: Vec<usize> = logs.lines().map(str::parse).collect::<Result<_, _>>()?;
        ensure!(
            numbers.len() > 5 && numbers.iter().enumerate().all(|(at, number)| at == *number),
            "the log: {numbers:?}"
        );
        Ok(())
    });
    checks.check("everything can be removed after it", || {
        site.run(["rmp", "-f", &pod])?;
        site.run(["rmi", BUSYBOX]).map(drop)
    });
    Ok(Some(server))
}
