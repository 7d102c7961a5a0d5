//! The stock kubelet: its configuration and its start, with all files below the run's directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::certificates::Certificates;
use super::kubectl::Kubectl;
use super::machine::Machine;
use super::programs::Programs;
use super::{KUBELET_PORT, NODE};
use crate::process::{Background, Program};
use crate::server::Site;

/// The time-out of its start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The kubelet of the run's node.
#[derive(Debug)]
pub(crate) struct Kubelet {
    program: PathBuf,
    dir: PathBuf,
    config: Value,
    /// Its kubeconfig; None: standalone.
    kubeconfig: Option<String>,
    address: String,
    client: Kubectl,
    running: Option<Background>,
}

impl Kubelet {
    /// Configures one in the directory `kubelet` of the site, without starting it.
    pub(crate) fn new(
        site: &Site,
        machine: &Machine,
        programs: &Programs,
        certificates: &Certificates,
        kubeconfig: Option<String>,
    ) -> Result<Self> {
        let dir = site.dir().join("kubelet");
        std::fs::create_dir_all(dir.join("static"))?;
        std::fs::write(dir.join("resolv.conf"), "nameserver 192.0.2.53\n")?;
        certificates.program("kubelet", &format!("/O=system:nodes/CN=system:node:{NODE}"))?;
        let config = configuration(site, machine, certificates, &dir, kubeconfig.is_none());
        let client = certificates.client("kubelet-client", "/O=system:masters/CN=kubelet-client", KUBELET_PORT)?;
        Ok(Self {
            program: programs.path("kubelet"),
            config,
            kubeconfig,
            address: machine.address().to_owned(),
            client: Kubectl::new(programs.path("kubectl"), client, &dir),
            dir,
            running: None,
        })
    }

    /// Changes one setting, for the next start.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.config[key] = value;
    }

    /// Starts it and waits until it is healthy.
    pub(crate) fn start(&mut self) -> Result<()> {
        let config = self.dir.join("config.json");
        std::fs::write(&config, serde_json::to_vec_pretty(&self.config)?)?;
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let mut args = vec![
            flag("config", &config),
            flag("root-dir", &self.dir.join("root")),
            flag("cert-dir", &self.dir.join("pki")),
            format!("--hostname-override={NODE}"),
            format!("--node-ip={}", self.address),
            "--v=2".to_owned(),
        ];
        args.extend(self.kubeconfig.iter().map(|path| format!("--kubeconfig={path}")));
        let mut kubelet = Program::new(&self.program, args).background(&self.log())?;
        kubelet.until(START_TIMEOUT, || self.client.raw("/healthz").is_ok_and(|answer| answer == "ok"))?;
        self.running = Some(kubelet);
        Ok(())
    }

    /// Stops it by SIGTERM.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), Background::stop)
    }

    /// Kills it by SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.running.take().context("kubelet does not run")?.kill()
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("kubelet.log")
    }

    /// The directory of static pods.
    pub(crate) fn static_pods(&self) -> PathBuf {
        self.dir.join("static")
    }

    /// Its own measurements, as Prometheus reads them.
    pub(crate) fn metrics(&self) -> Result<String> {
        self.client.raw("/metrics")
    }

    /// The pods that it reports.
    pub(crate) fn pods(&self) -> Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&self.client.raw("/pods")?)?;
        let pods = list["items"].as_array().cloned();
        ensure!(list["kind"] == "PodList", "not a list of pods: {list}");
        Ok(pods.unwrap_or_default())
    }
}

/// The settings that differ from the defaults: paths below the run's directory, the node's address, shorter times, and those of
/// this machine.
fn configuration(site: &Site, machine: &Machine, certificates: &Certificates, dir: &Path, alone: bool) -> Value {
    let authority = certificates.certificate("authority");
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": site.address(),
        "address": machine.address(),
        "port": KUBELET_PORT,
        "healthzPort": 0,
        "tlsCertFile": certificates.certificate("kubelet"),
        "tlsPrivateKeyFile": certificates.key("kubelet"),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": !alone},
            "x509": {"clientCAFile": authority},
        },
        "authorization": {"mode": if alone { "AlwaysAllow" } else { "Webhook" }},
        "staticPodPath": dir.join("static"),
        "podLogsDir": dir.join("logs"),
        "volumePluginDir": dir.join("volume-plugins"),
        "resolvConf": dir.join("resolv.conf"),
        "cgroupRoot": machine.cgroup(),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "localStorageCapacityIsolation": true,
        "syncFrequency": "10s",
        "fileCheckFrequency": "1s",
        "nodeStatusUpdateFrequency": "5s",
        "volumeStatsAggPeriod": "10s",
        "serializeImagePulls": false,
        // Other users of a shared machine must not cause evictions.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageMinimumGCAge": "1s",
        "containerLogMaxSize": "64Ki",
        "containerLogMaxFiles": 3,
        "containerLogMonitorInterval": "3s",
    })
}
