//! A control plane on the node's address: the stock etcd, API server, controller manager and scheduler; and the node's
//! kube-proxy.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::certificates::Certificates;
use super::kubectl::Kubectl;
use super::machine::Machine;
use super::programs::Programs;
use super::{API_PORT, NODE};
use crate::process::{Background, Program};
use crate::server::Site;

/// The time-out of the API server's start with empty storage, on two busy cores.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A running control plane; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Plane {
    /// The programs, in the order of their start.
    programs: Vec<Background>,
    /// kube-proxy, which can remove its rules from the kernel, and its arguments.
    proxy: (PathBuf, Vec<String>),
    dir: PathBuf,
    /// An administrator's kubectl.
    pub(crate) kubectl: Kubectl,
    /// kubelet's kubeconfig.
    pub(crate) node: String,
}

impl Plane {
    /// Starts one in the directory `plane` of the site.
    pub(crate) fn start(
        site: &Site,
        machine: &Machine,
        programs: &Programs,
        certificates: &Certificates,
    ) -> Result<Self> {
        let dir = site.dir().join("plane");
        std::fs::create_dir_all(&dir)?;
        let client = |name: &str, subject: &str| certificates.client(name, subject, API_PORT);
        let controllers = client("controllers", "/CN=system:kube-controller-manager")?;
        let scheduler = client("scheduler", "/CN=system:kube-scheduler")?;
        let node = client("node", &format!("/O=system:nodes/CN=system:node:{NODE}"))?;
        let admin = client("admin", "/O=system:masters/CN=admin")?;
        certificates.program("api-server", "/CN=kube-apiserver")?;
        certificates.program("api-server-client", "/O=system:masters/CN=kube-apiserver")?;
        let kubectl = Kubectl::new(programs.path("kubectl"), admin, &dir);

        let address = machine.address();
        let args = proxy(site, address, &client("proxy", "/CN=system:kube-proxy")?);
        let proxy = (programs.path("kube-proxy"), args);
        let mut plane = Self { programs: Vec::new(), proxy, dir: dir.clone(), kubectl, node };
        plane.add("etcd".as_ref(), &dir, etcd(address, &dir)).context("etcd is Debian's etcd-server: make deps")?;
        plane.add(&programs.path("kube-apiserver"), &dir, api_server(site, address, certificates))?;
        plane.ready()?;
        let args = controller_manager(site, address, certificates, &controllers);
        plane.add(&programs.path("kube-controller-manager"), &dir, args)?;
        plane.add(&programs.path("kube-scheduler"), &dir, own_config(address, &scheduler))?;
        Ok(plane)
    }

    /// Starts kube-proxy, once its node is there: it waits for the node's address for half a minute, and ends when it learns another.
    pub(crate) fn start_proxy(&mut self) -> Result<()> {
        let (program, args) = self.proxy.clone();
        self.add(&program, &self.dir.clone(), args)
    }

    /// Waits until the API server is ready; fails if it exits.
    fn ready(&mut self) -> Result<()> {
        let Self { programs, kubectl, .. } = self;
        let server = programs.last_mut().context("the API server was started")?;
        server.until(START_TIMEOUT, || kubectl.raw("/readyz").is_ok())
    }

    fn add(&mut self, program: &Path, dir: &Path, args: Vec<String>) -> Result<()> {
        let name = program.file_name().context("a program has a name")?.to_string_lossy();
        self.programs.push(Program::new(program, args).background(&dir.join(format!("{name}.log")))?);
        Ok(())
    }

    /// Stops all programs; an earlier exit of one is an error.
    pub(crate) fn stop(self) -> Result<()> {
        let mut programs = self.programs;
        programs.iter_mut().try_for_each(Background::check)?;
        // They have no state to save.
        programs.into_iter().rev().try_for_each(Background::kill)?;
        Program::new(&self.proxy.0, ["--cleanup"]).run().map(drop)
    }
}

fn etcd(address: &str, dir: &Path) -> Vec<String> {
    let (clients, peers) = (format!("http://{address}:2379"), format!("http://{address}:2380"));
    vec![
        format!("--data-dir={}", dir.join("etcd").display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
    ]
}

fn api_server(site: &Site, address: &str, certificates: &Certificates) -> Vec<String> {
    let (key, certificate) = (|name| certificates.key(name), |name| certificates.certificate(name));
    vec![
        format!("--etcd-servers=http://{address}:2379"),
        format!("--bind-address={address}"),
        format!("--advertise-address={address}"),
        format!("--secure-port={API_PORT}"),
        format!("--service-cluster-ip-range={}", services(site)),
        format!("--client-ca-file={}", certificate("authority")),
        format!("--tls-cert-file={}", certificate("api-server")),
        format!("--tls-private-key-file={}", key("api-server")),
        format!("--kubelet-certificate-authority={}", certificate("authority")),
        format!("--kubelet-client-certificate={}", certificate("api-server-client")),
        format!("--kubelet-client-key={}", key("api-server-client")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", certificate("accounts")),
        format!("--service-account-signing-key-file={}", key("accounts")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
    ]
}

fn controller_manager(site: &Site, address: &str, certificates: &Certificates, kubeconfig: &str) -> Vec<String> {
    let mut args = own_config(address, kubeconfig);
    args.extend([
        format!("--service-account-private-key-file={}", certificates.key("accounts")),
        format!("--root-ca-file={}", certificates.certificate("authority")),
        "--use-service-account-credentials=true".to_owned(),
        "--allocate-node-cidrs=true".to_owned(),
        format!("--cluster-cidr=10.{}.0.0/16", site.network()),
        format!("--service-cluster-ip-range={}", services(site)),
    ]);
    args
}

/// The options of a client of the API server.
fn own_config(address: &str, kubeconfig: &str) -> Vec<String> {
    let kubeconfigs = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"];
    let mut args: Vec<String> = kubeconfigs.iter().map(|flag| format!("--{flag}={kubeconfig}")).collect();
    args.extend([format!("--bind-address={address}"), "--leader-elect=false".to_owned()]);
    args
}

fn proxy(site: &Site, address: &str, kubeconfig: &str) -> Vec<String> {
    let mut args = vec![
        format!("--kubeconfig={kubeconfig}"),
        "--proxy-mode=nftables".to_owned(),
        format!("--hostname-override={NODE}"),
        format!("--cluster-cidr=10.{}.0.0/16", site.network()),
        format!("--healthz-bind-address={address}"),
        format!("--metrics-bind-address={address}"),
    ];
    // Leaves the machine's settings of connection tracking unchanged.
    let conntrack = ["max-per-core", "tcp-timeout-established", "tcp-timeout-close-wait"];
    args.extend(conntrack.iter().map(|name| format!("--conntrack-{name}=0")));
    args
}

/// The addresses of Services, also from the range for benchmarks.
fn services(site: &Site) -> String {
    format!("198.19.{}.0/24", site.network())
}
