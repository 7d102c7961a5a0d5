//! The FreeBSD machine: its files, Cellblock and kubelet on it, all by ssh(1).

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{NODE, Plan};
use crate::kubernetes::certificates::Certificates;
use crate::kubernetes::{API_PORT, KUBELET_PORT};
use crate::process::Program;
use crate::wait::until;

/// The configuration that docs/kubernetes.md tells people to use.
const SAMPLE: &str = include_str!("../../../../packaging/kubelet/kubelet.yaml.sample");
/// Where the sample's part for a stand-alone node begins, and the part for one of a cluster.
const ALONE: &str = "# A stand-alone node";
const JOINED: &str = "# A node of a cluster";
/// The time-out of a start of the server, of kubelet, and of the machine, under emulation.
const SERVER_START: Duration = Duration::from_secs(60);
const KUBELET_START: Duration = Duration::from_secs(120);
const BOOT: Duration = Duration::from_secs(600);

/// Programs that run on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Cellblock,
    Kubelet,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Cellblock => "cellblock",
            Self::Kubelet => "kubelet",
        }
    }
}

/// The machine, with the files that `e2e/freebsd/run.sh` put into its directory: cellblock, kubelet, crictl, certs.d.
#[derive(Debug)]
pub(super) struct Remote {
    ssh: Vec<String>,
    dir: String,
    /// Its address, as pods, kubelet's clients and the other node see it.
    pub(super) address: String,
    /// This machine's address, as it sees it.
    gateway: String,
    /// The control plane's address.
    plane: String,
}

impl Remote {
    pub(super) fn new(plan: &Plan, plane: &str) -> Result<Self> {
        let ssh: Vec<String> = plan.ssh.split_whitespace().map(str::to_owned).collect();
        ensure!(!ssh.is_empty(), "--ssh is empty");
        let (dir, address, gateway) = (plan.dir.clone(), plan.address.clone(), plan.gateway.clone());
        Ok(Self { ssh, dir, address, gateway, plane: plane.to_owned() })
    }

    /// Runs a shell script there and returns its output.
    pub(super) fn run(&self, script: &str) -> Result<String> {
        self.shell(script, Vec::new()).run()
    }

    fn shell(&self, script: &str, input: Vec<u8>) -> Program {
        let script = format!("cd {} && {{ {script}\n}}", self.dir);
        Program::new(&self.ssh[0], self.ssh[1..].iter().chain([&script])).stdin(input)
    }

    fn put(&self, name: &str, contents: impl Into<Vec<u8>>) -> Result<()> {
        self.shell(&format!("umask 077; cat >{name}"), contents.into()).run().map(drop)
    }

    /// crictl there.
    pub(super) fn crictl(&self, args: &str) -> Result<String> {
        self.run(&format!(
            "CRI_CONFIG_FILE=/dev/null ./crictl --runtime-endpoint {0} --image-endpoint {0} -t 120s {args}",
            self.socket()
        ))
    }

    fn socket(&self) -> String {
        format!("unix://{}/node/state/cellblock.sock", self.dir)
    }

    /// Brings certificates and configurations there, and lets the machine forward.
    pub(super) fn configure(&self, certificates: &Certificates, zfs: Option<&str>) -> Result<()> {
        self.run("mkdir -p node/manifests node/certificates")?;
        let kubeconfig = certificates.client("freebsd", &format!("/O=system:nodes/CN=system:node:{NODE}"), API_PORT)?;
        certificates.program("freebsd-kubelet", &format!("/O=system:nodes/CN=system:node:{NODE}"))?;
        for path in [
            certificates.certificate("authority"),
            certificates.certificate("freebsd"),
            certificates.key("freebsd"),
            certificates.certificate("freebsd-kubelet"),
            certificates.key("freebsd-kubelet"),
        ] {
            self.put(&self.there(&path)?, std::fs::read(&path)?)?;
        }
        let local = Path::new(&kubeconfig).parent().context("a file has a directory")?.to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&kubeconfig)?;
        self.put("node/kubeconfig", text.replace(&local, &format!("{}/node/certificates", self.dir)))?;
        self.put("node/kubelet.yaml", self.kubelet_configuration())?;
        self.put("node/cellblock.toml", self.cellblock_configuration(zfs))?;
        self.prepare()
    }

    /// Modules, forwarding, pf and routes, which a restart of the machine ends.
    pub(super) fn prepare(&self) -> Result<()> {
        // A ruleset that exists is the operator's.
        self.run(&format!(
            "kldload -n pf if_bridge if_epair nullfs fdescfs; kldload -n tmpfs 2>/dev/null
             sysctl -q net.inet.ip.forwarding=1 net.inet6.ip6.forwarding=1 >/dev/null
             [ -n \"$(pfctl -q -sr 2>/dev/null)$(pfctl -q -sn 2>/dev/null)\" ] ||
                 printf 'nat-anchor \"cellblock/*\"\nrdr-anchor \"cellblock/*\"\npass all\nanchor \"cellblock/*\"\n' | pfctl -q -f -
             pfctl -q -e 2>/dev/null
             {}
             ./cellblock check --config node/cellblock.toml",
            self.route(&format!("{}/32", self.plane))
        ))
        .map(drop)
    }

    /// Adds a route by this machine.
    pub(super) fn add_route(&self, network: &str) -> Result<()> {
        self.run(&self.route(network)).map(drop)
    }

    fn route(&self, network: &str) -> String {
        format!("route -q delete -net {network} >/dev/null 2>&1; route -q add -net {network} {}", self.gateway)
    }

    fn there(&self, path: &str) -> Result<String> {
        let name = Path::new(path).file_name().context("a file has a name")?;
        Ok(format!("node/certificates/{}", name.to_string_lossy()))
    }

    fn cellblock_configuration(&self, zfs: Option<&str>) -> String {
        let dir = &self.dir;
        let rootfs = zfs
            .map_or("rootfs = \"copy\"".to_owned(), |dataset| format!("rootfs = \"zfs\"\nzfs_dataset = {dataset:?}"));
        format!(
            "root = \"{dir}/node/root\"\nstate = \"{dir}/node/state\"\naddress = \"{}\"\n\n[image]\n\
             registry_config = \"{dir}/certs.d\"\n{rootfs}\n\n[network]\nuntranslated = [\"10.0.0.0/8\"]\n\n\
             [streaming]\naddress = \"127.0.0.1:0\"\n",
            self.socket()
        )
    }

    /// The sample with its part for a cluster, the paths of this run, and shorter times.
    fn kubelet_configuration(&self) -> String {
        let dir = format!("{}/node", self.dir);
        let (before, rest) = SAMPLE.split_once(ALONE).unwrap_or((SAMPLE, ""));
        let (_, joined) = rest.split_once(JOINED).unwrap_or(("", ""));
        let mut text = before.to_owned();
        for line in joined.lines().filter_map(|line| line.strip_prefix('#')) {
            let _ = writeln!(text, "{line}");
        }
        text = text
            .replace("unix:///var/run/cellblock/cellblock.sock", &self.socket())
            .replace("/usr/local/etc/kubernetes/ca.crt", &format!("{dir}/certificates/authority.crt"))
            .replace("/usr/local/etc/kubernetes/manifests", &format!("{dir}/manifests"))
            .replace("/usr/local/libexec/kubernetes/volume-plugins", &format!("{dir}/volume-plugins"))
            // The run's certificates are made beforehand.
            .replace("rotateCertificates: true\n", "");
        let _ = write!(
            text,
            "tlsCertFile: {dir}/certificates/freebsd-kubelet.crt\ntlsPrivateKeyFile: {dir}/certificates/freebsd-kubelet.key\n\
             address: {}\nport: {KUBELET_PORT}\npodLogsDir: {dir}/logs\nsyncFrequency: 10s\nnodeStatusUpdateFrequency: 5s\n\
             volumeStatsAggPeriod: 10s\nserializeImagePulls: false\n\
             evictionHard: {{memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}}\n",
            self.address
        );
        text
    }

    /// Starts a program there and waits until it serves.
    pub(super) fn start(&self, service: Service) -> Result<()> {
        let (dir, name) = (format!("{}/node", self.dir), service.name());
        let daemon = format!("daemon -f -p {dir}/{name}.pid -o {dir}/{name}.log");
        match service {
            Service::Cellblock => {
                self.run(&format!("{daemon} ./cellblock serve --config node/cellblock.toml"))?;
                until(SERVER_START, || self.crictl("version")).map(drop)
            }
            Service::Kubelet => {
                self.run(&format!(
                    "{daemon} ./kubelet --config={dir}/kubelet.yaml --kubeconfig={dir}/kubeconfig --root-dir={dir}/kubelet \
                     --cert-dir={dir}/pki --hostname-override={NODE} --node-ip={} \
                     --register-with-taints=kubernetes.io/os=freebsd:NoSchedule --v=2",
                    self.address
                ))?;
                until(KUBELET_START, || self.run("fetch -q -o - http://127.0.0.1:10248/healthz")).map(drop)
            }
        }
        .with_context(|| format!("{name} does not start there; its log ends:\n{}", self.log(service)))
    }

    /// Ends a program there by a signal, and waits for its end.
    pub(super) fn signal(&self, service: Service, signal: &str) -> Result<()> {
        let name = service.name();
        self.run(&format!(
            "pid=$(cat node/{name}.pid) && kill -{signal} $pid && while kill -0 $pid 2>/dev/null; do sleep 0.2; done"
        ))
        .map(drop)
    }

    /// The end of a program's log.
    pub(super) fn log(&self, service: Service) -> String {
        self.run(&format!("tail -30 node/{}.log", service.name())).unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Cuts the network of its address for some seconds, without waiting.
    pub(super) fn cut(&self, seconds: u32) -> Result<()> {
        self.run(&format!(
            "nic=$(ifconfig -a inet | awk -v address={} '/^[a-z]/ {{sub(\":.*\", \"\"); nic = $0}} $2 == address {{print nic}}')
             test -n \"$nic\" && daemon -f sh -c \"ifconfig $nic down; sleep {seconds}; ifconfig $nic up\"",
            self.address
        ))
        .map(drop)
    }

    /// Restarts the machine and waits until it is back.
    pub(super) fn reboot(&self) -> Result<()> {
        let booted = || self.run("sysctl -n kern.boottime");
        let before = booted()?;
        // The connection may end before the answer.
        let _ = self.shell("shutdown -r now >/dev/null", Vec::new()).output();
        until(BOOT, || {
            let now = booted()?;
            ensure!(now != before, "it has not restarted");
            Ok(())
        })
    }

    /// Removes everything of the run there. The pods are gone already.
    pub(super) fn restore(&self, pods: Option<&str>) -> Result<()> {
        let routes = pods.into_iter().map(str::to_owned).chain([format!("{}/32", self.plane)]);
        for network in routes {
            self.run(&format!("route -q delete -net {network} {} >/dev/null 2>&1; true", self.gateway))?;
        }
        // After a failed run kubelet's volumes are still mounted.
        self.run(
            "mount -p | awk -v dir=\"$PWD/node/\" 'index($2, dir) == 1 {print $2}' | tail -r | xargs -n 1 umount -f
             ifconfig cbbr0 destroy 2>/dev/null; rm -rf node",
        )
        .map(drop)
    }
}
