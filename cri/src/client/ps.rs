//! `cellblock ps`: the pods and containers with what the system's own tools call them. Pods, containers and their usage come by CRI,
//! jails and addresses by `cellblock.admin.v1`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use proto::admin::{KernelObject, ListKernelObjectsRequest};
use proto::v1::{
    Container, ContainerState, ContainerStats, PodSandbox, PodSandboxState, StreamContainerStatsRequest,
    StreamContainersRequest, StreamPodSandboxesRequest,
};
use serde_json::{Value, json};

use super::outcome::{Outcome, STDOUT_FAILED};
use super::table::{aligned, bytes};
use super::{answer, block_on, connect_admin, connect_runtime, parts};
use crate::config::Config;
use crate::state::names;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Moves the cursor to the first line and clears everything after it (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[J";
/// What a cell without a value has: every line has as many words.
const NONE: &str = "-";

/// What is shown, and how often.
#[derive(Debug, Args)]
pub struct Options {
    /// Show stopped pods and containers that do not run, too.
    #[arg(long, short)]
    all: bool,
    /// Look again every second until interrupted: a terminal is redrawn, other output appended.
    #[arg(long, short)]
    watch: bool,
    /// Print one JSON document; with --watch one a line.
    #[arg(long)]
    json: bool,
}

/// The words for what the kernel has.
struct Words {
    name: &'static str,
    number: &'static str,
}

const JAILS: Words = Words { name: "jail", number: "jid" };
const PROCESSES: Words = Words { name: "name", number: "pid" };

/// Writes the pods to `out`, which may be a terminal.
///
/// # Errors
/// No server answers, its refusal, or `out`.
pub fn run(options: &Options, config: &Config, out: &mut impl Write, terminal: bool) -> anyhow::Result<()> {
    let words = if std::env::consts::OS == "freebsd" { JAILS } else { PROCESSES };
    block_on(async {
        let mut first = true;
        loop {
            let shown = show(&Listed::read(config).await?, options.all, &words);
            if !options.watch {
                return shown.write(options.json, out);
            }
            let text = match (options.json, terminal, first) {
                (true, ..) => format!("{}\n", shown.json),
                (false, true, _) => format!("{CLEAR}{}", shown.text),
                (false, false, true) => shown.text,
                (false, false, false) => format!("\n{}", shown.text),
            };
            match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                // Who reads it has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written.context(STDOUT_FAILED)?,
            }
            first = false;
            tokio::time::sleep(INTERVAL).await;
        }
    })
}

/// What the server answers.
#[derive(Debug, Default)]
struct Listed {
    pods: Vec<PodSandbox>,
    containers: Vec<Container>,
    stats: BTreeMap<String, ContainerStats>,
    objects: BTreeMap<String, KernelObject>,
}

impl Listed {
    async fn read(config: &Config) -> anyhow::Result<Self> {
        let (mut cri, mut admin) = (connect_runtime(config).await?, connect_admin(&config.state).await?);
        let pods = parts(cri.stream_pod_sandboxes(StreamPodSandboxesRequest::default()).await).await?;
        let containers = parts(cri.stream_containers(StreamContainersRequest::default()).await).await?;
        let stats = parts(cri.stream_container_stats(StreamContainerStatsRequest::default()).await).await?;
        let objects = answer(admin.list_kernel_objects(ListKernelObjectsRequest {}).await)?.objects;
        let id = |stats: &ContainerStats| stats.attributes.as_ref().map(|of| of.id.clone()).unwrap_or_default();
        let stats = stats.into_iter().flat_map(|part| part.container_stats);
        Ok(Self {
            pods: pods.into_iter().flat_map(|part| part.pod_sandboxes).collect(),
            containers: containers.into_iter().flat_map(|part| part.containers).collect(),
            stats: stats.map(|stats| (id(&stats), stats)).collect(),
            objects: objects.into_iter().map(|object| (object.id.clone(), object)).collect(),
        })
    }

    /// CPU in billionths of a CPU, memory in bytes.
    fn usage(&self, id: &str) -> (Option<u64>, Option<u64>) {
        let Some(stats) = self.stats.get(id) else { return (None, None) };
        let cpu = stats.cpu.as_ref().and_then(|cpu| cpu.usage_nano_cores);
        let memory = stats.memory.as_ref().and_then(|memory| memory.working_set_bytes);
        (cpu.map(|cpu| cpu.value), memory.map(|memory| memory.value))
    }
}

/// A line of the table.
struct Row {
    pod: String,
    container: Option<String>,
    state: &'static str,
    usage: (Option<u64>, Option<u64>),
    object: KernelObject,
}

/// A line for each pod and, below it, for each of its containers.
fn show(listed: &Listed, all: bool, words: &Words) -> Outcome {
    let mut pods: Vec<(String, &PodSandbox)> = listed.pods.iter().map(|pod| (title(pod), pod)).collect();
    pods.sort_by(|(a, pod), (b, other)| (a, pod.created_at).cmp(&(b, other.created_at)));
    pods.retain(|(_, pod)| all || pod.state() == PodSandboxState::SandboxReady);
    let headings = ["POD", "CONTAINER", "STATE", "CPU", "MEMORY", "ADDRESSES"].map(str::to_owned);
    let [pod, container, state, cpu, memory, addresses] = headings;
    let heading =
        [pod, container, state, cpu, memory, addresses, words.name.to_uppercase(), words.number.to_uppercase()];
    let (mut rows, mut documents) = (vec![heading], Vec::new());
    for (title, pod) in pods {
        let mut inside: Vec<&Container> = listed.containers.iter().filter(|one| one.pod_sandbox_id == pod.id).collect();
        inside.retain(|one| all || one.state() == ContainerState::ContainerRunning);
        inside.sort_by_key(|one| (name(one), one.created_at));
        let of = |id: &str| listed.objects.get(id).cloned().unwrap_or_default();
        let inside: Vec<(&Container, Row)> = inside
            .into_iter()
            .map(|one| {
                let (container, usage) = (Some(name(one).to_owned()), listed.usage(&one.id));
                (one, Row { pod: title.clone(), container, state: state_of(one), usage, object: of(&one.id) })
            })
            .collect();
        let sum = |of: fn(&Row) -> Option<u64>| inside.iter().filter_map(|(_, row)| of(row)).reduce(|a, b| a + b);
        let usage = (sum(|row| row.usage.0), sum(|row| row.usage.1));
        let state = if pod.state() == PodSandboxState::SandboxReady { "ready" } else { "not-ready" };
        let row = Row { pod: title, container: None, state, usage, object: of(&pod.id) };
        documents.push(document(pod, &row, &inside, words));
        rows.push(row.cells());
        rows.extend(inside.iter().map(|(_, row)| row.cells()));
    }
    Outcome { text: aligned(&rows), json: json!({ "pods": documents }) }
}

impl Row {
    fn cells(&self) -> [String; 8] {
        let or_none = |text: String| if text.is_empty() { NONE.to_owned() } else { text };
        let number = if self.object.number == 0 { String::new() } else { self.object.number.to_string() };
        let cells = [
            self.pod.clone(),
            self.container.clone().unwrap_or_default(),
            self.state.to_owned(),
            self.usage.0.map(percent).unwrap_or_default(),
            self.usage.1.map(|memory| bytes(memory).replace(' ', "")).unwrap_or_default(),
            self.object.addresses.join(","),
            self.object.name.clone(),
            number,
        ];
        cells.map(or_none)
    }

    /// The part that pods and containers have in common.
    fn document(&self, id: &str, words: &Words) -> Value {
        let (cpu, memory) = self.usage;
        let mut document = json!({ "id": id, "state": self.state, "cpuNanoCores": cpu, "memoryBytes": memory });
        let number = Some(self.object.number).filter(|number| *number != 0);
        document[words.name] = Some(&self.object.name).filter(|name| !name.is_empty()).cloned().into();
        document[words.number] = number.into();
        document
    }
}

/// A pod with its containers. The names are below `metadata`, as in `crictl pods -o json`: `name` is the kernel's on Linux.
fn document(pod: &PodSandbox, row: &Row, inside: &[(&Container, Row)], words: &Words) -> Value {
    let containers = inside.iter().map(|(container, row)| {
        let mut document = row.document(&container.id, words);
        document["metadata"] = json!({ "name": name(container), "attempt": attempt(container) });
        document
    });
    let mut document = row.document(&pod.id, words);
    document["containers"] = containers.collect();
    document["addresses"] = json!(row.object.addresses);
    document["metadata"] = json!(pod.metadata);
    document
}

fn title(pod: &PodSandbox) -> String {
    pod.metadata.as_ref().map(names::namespaced).unwrap_or_default()
}

fn name(container: &Container) -> &str {
    names::own(container.metadata.as_ref())
}

fn attempt(container: &Container) -> u32 {
    container.metadata.as_ref().map(|metadata| metadata.attempt).unwrap_or_default()
}

fn state_of(container: &Container) -> &'static str {
    match container.state() {
        ContainerState::ContainerCreated => "created",
        ContainerState::ContainerRunning => "running",
        ContainerState::ContainerExited => "exited",
        ContainerState::ContainerUnknown => "unknown",
    }
}

/// Billionths of a CPU as top(1) shows them.
fn percent(nano_cores: u64) -> String {
    let tenths = nano_cores / 1_000_000;
    format!("{}.{}%", tenths / 10, tenths % 10)
}
