//! The metrics of ListPodSandboxMetrics, with cAdvisor's names, which dashboards look for: the same as containerd's, as far as the
//! kernel counts them. [`CONTAINER`] and [`POD`] hold a line each: name, type, text, and how it is read.

use network::Counters;
use nix::sys::statvfs::Statvfs;
use proto::v1::{DoubleValue, LinuxContainerResources, Metric, MetricType, UInt64Value};
use runtime::{Details, DeviceUsage, Usage};

use self::Read::{Many, One};
use crate::state::samples::Written;
use MetricType::{Counter, Gauge};

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;
/// The kernel's defaults where a container has none: a period in microseconds, and the weight of one CPU.
const CPU_PERIOD: i64 = 100_000;
const CPU_SHARES: i64 = 1024;
/// containerd's labels of a container in its order, for readers of its metrics.
const LABELS: &[&str] = &["pod", "namespace", "container", "id", "image"];
const DEVICE: &[&str] = &["device"];
const INTERFACE: &[&str] = &["interface"];

/// What the metrics of a container are read from.
pub(crate) struct Container {
    pub(crate) usage: Usage,
    pub(crate) details: Details,
    pub(crate) resources: LinuxContainerResources,
    /// What it has written to its root.
    pub(crate) written: Option<Written>,
    /// The file system of its root, and where that is mounted.
    pub(crate) disk: Option<Statvfs>,
    pub(crate) mountpoint: String,
    /// In nanoseconds since 1970.
    pub(crate) started_at: i64,
    pub(crate) now: i64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    Whole(u64),
    /// A time in nanoseconds, which is told in seconds.
    Seconds(u64),
}

use Value::{Seconds, Whole};

/// Values with those of their own labels.
type Values = Vec<(Vec<String>, Value)>;

enum Read<T> {
    One(fn(&T) -> Option<Value>),
    /// With labels of its own, after the common ones.
    Many(&'static [&'static str], fn(&T) -> Values),
}

/// A metric's name, meaning, labels and value.
pub(crate) struct Descriptor<T> {
    pub(crate) name: &'static str,
    kind: MetricType,
    pub(crate) help: &'static str,
    read: Read<T>,
    /// The time of a value that was read before the call, in nanoseconds since 1970. None: it is read by the call.
    at: fn(&T) -> Option<i64>,
}

impl<T> Descriptor<T> {
    /// Gives its values a time of their own.
    const fn read_at(self, at: fn(&T) -> Option<i64>) -> Self {
        Self { at, ..self }
    }

    pub(crate) fn labels(&self) -> Vec<String> {
        let own: &[&str] = if let Many(own, _) = &self.read { own } else { &[] };
        LABELS.iter().chain(own).map(|label| (*label).to_owned()).collect()
    }
}

/// The metrics of a reading at `timestamp`; what the kernel does not count is left out. `labels` has the values of the common labels.
pub(crate) fn metrics<T>(
    all: &[Descriptor<T>],
    of: &T,
    labels: &[String; LABELS.len()],
    timestamp: i64,
) -> Vec<Metric> {
    let mut metrics = Vec::new();
    for descriptor in all {
        let values = match &descriptor.read {
            One(read) => read(of).map(|value| (Vec::new(), value)).into_iter().collect(),
            Many(_, read) => read(of),
        };
        metrics.extend(values.into_iter().map(|(own, value)| Metric {
            name: descriptor.name.to_owned(),
            timestamp: (descriptor.at)(of).unwrap_or(timestamp),
            metric_type: descriptor.kind.into(),
            label_values: labels.iter().cloned().chain(own).collect(),
            value: Some(UInt64Value { value: value.whole() }),
            double_value: value.fractional(),
        }));
    }
    metrics
}

impl Value {
    /// What a client reads that does not know fractional values.
    fn whole(self) -> u64 {
        match self {
            Whole(value) => value,
            Seconds(nanoseconds) => nanoseconds / NANOSECONDS_PER_SECOND,
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a double holds 100 days in nanoseconds, and more of them less precisely"
    )]
    fn fractional(self) -> Option<DoubleValue> {
        match self {
            Whole(_) => None,
            Seconds(nanoseconds) => Some(DoubleValue { value: nanoseconds as f64 / NANOSECONDS_PER_SECOND as f64 }),
        }
    }
}

const fn row<T>(name: &'static str, kind: MetricType, help: &'static str, read: Read<T>) -> Descriptor<T> {
    Descriptor { name, kind, help, read, at: |_| None }
}

pub(crate) const CONTAINER: &[Descriptor<Container>] = &[
    row(
        "container_cpu_usage_seconds_total",
        Counter,
        "CPU time, in seconds",
        One(|c| c.usage.cpu_nanoseconds.map(Seconds)),
    ),
    row(
        "container_cpu_user_seconds_total",
        Counter,
        "CPU time of its programs, in seconds",
        One(|c| c.details.user_nanoseconds.map(Seconds)),
    ),
    row(
        "container_cpu_system_seconds_total",
        Counter,
        "CPU time of the kernel for it, in seconds",
        One(|c| c.details.system_nanoseconds.map(Seconds)),
    ),
    row(
        "container_cpu_cfs_periods_total",
        Counter,
        "Periods of its CPU quota that have passed",
        One(|c| c.details.periods.map(Whole)),
    ),
    row(
        "container_cpu_cfs_throttled_periods_total",
        Counter,
        "Periods in which its CPU quota was used up",
        One(|c| c.details.throttled_periods.map(Whole)),
    ),
    row(
        "container_cpu_cfs_throttled_seconds_total",
        Counter,
        "Time without a CPU for want of quota, in seconds",
        One(|c| c.details.throttled_nanoseconds.map(Seconds)),
    ),
    row("container_memory_usage_bytes", Gauge, "Memory in use, in bytes", One(|c| c.usage.memory_bytes.map(Whole))),
    row(
        "container_memory_working_set_bytes",
        Gauge,
        "Memory that cannot be reclaimed, in bytes",
        One(|c| c.usage.working_set_bytes.map(Whole)),
    ),
    row(
        "container_memory_max_usage_bytes",
        Gauge,
        "The most memory in use at once, in bytes",
        One(|c| c.details.peak_bytes.map(Whole)),
    ),
    row("container_memory_rss", Gauge, "Resident memory, in bytes", One(|c| c.usage.rss_bytes.map(Whole))),
    row("container_memory_cache", Gauge, "Page cache, in bytes", One(|c| c.details.cache_bytes.map(Whole))),
    row(
        "container_memory_mapped_file",
        Gauge,
        "Mapped files, in bytes",
        One(|c| c.details.mapped_file_bytes.map(Whole)),
    ),
    row(
        "container_memory_total_active_file_bytes",
        Gauge,
        "Page cache used lately, in bytes",
        One(|c| c.details.active_file_bytes.map(Whole)),
    ),
    row(
        "container_memory_total_inactive_file_bytes",
        Gauge,
        "Page cache not used lately, in bytes",
        One(|c| c.details.inactive_file_bytes.map(Whole)),
    ),
    row(
        "container_memory_kernel_usage",
        Gauge,
        "Memory of the kernel, in bytes",
        One(|c| c.details.kernel_bytes.map(Whole)),
    ),
    row("container_memory_swap", Gauge, "Swap in use, in bytes", One(|c| c.usage.swap_bytes.map(Whole))),
    row(
        "container_memory_failcnt",
        Counter,
        "How often the limit on memory was met",
        One(|c| c.details.limit_hits.map(Whole)),
    ),
    row(
        "container_memory_failures_total",
        Counter,
        "Page faults (pgfault), and those that had to read (pgmajfault)",
        Many(&["failure_type", "scope"], faults),
    ),
    row(
        "container_oom_events_total",
        Counter,
        "Processes killed for want of memory",
        One(|c| c.details.memory_kills.map(Whole)),
    ),
    row("container_processes", Gauge, "Processes", One(|c| c.usage.processes.map(Whole))),
    row("container_threads", Gauge, "Threads", One(|c| c.details.threads.map(Whole))),
    row("container_threads_max", Gauge, "The limit on threads; 0: none", One(|c| c.details.threads_limit.map(Whole))),
    row("container_file_descriptors", Gauge, "Open descriptors", One(|c| c.details.descriptors.map(Whole))),
    row("container_sockets", Gauge, "Open sockets", One(|c| c.details.sockets.map(Whole))),
    row(
        "container_fs_usage_bytes",
        Gauge,
        "Bytes that it has written to its root",
        Many(DEVICE, |c| disk(c, |c| Some(c.written?.usage.bytes))),
    )
    .read_at(|c| Some(c.written?.at)),
    row(
        "container_fs_limit_bytes",
        Gauge,
        "The size of its root's file system, in bytes",
        Many(DEVICE, |c| disk(c, |c| c.disk.map(|disk| disk.blocks() * disk.fragment_size()))),
    ),
    row(
        "container_fs_inodes_total",
        Gauge,
        "Inodes of its root's file system",
        Many(DEVICE, |c| disk(c, |c| c.disk.map(|disk| disk.files()))),
    ),
    row(
        "container_fs_inodes_free",
        Gauge,
        "Free inodes of its root's file system",
        Many(DEVICE, |c| disk(c, |c| c.disk.map(|disk| disk.files_free()))),
    ),
    row(
        "container_fs_reads_bytes_total",
        Counter,
        "Bytes read from a device",
        Many(DEVICE, |c| devices(c, |device| device.read_bytes)),
    ),
    row(
        "container_fs_reads_total",
        Counter,
        "Reads from a device",
        Many(DEVICE, |c| devices(c, |device| device.reads)),
    ),
    row(
        "container_fs_writes_bytes_total",
        Counter,
        "Bytes written to a device",
        Many(DEVICE, |c| devices(c, |device| device.written_bytes)),
    ),
    row(
        "container_fs_writes_total",
        Counter,
        "Writes to a device",
        Many(DEVICE, |c| devices(c, |device| device.writes)),
    ),
    row(
        "container_blkio_device_usage_total",
        Counter,
        "Bytes to and from a device",
        Many(&["device", "major", "minor", "operation"], block_devices),
    ),
    row(
        "container_spec_cpu_period",
        Gauge,
        "The period of the CPU quota, in microseconds",
        One(|c| limit(c.resources.cpu_period, CPU_PERIOD)),
    ),
    row(
        "container_spec_cpu_quota",
        Gauge,
        "The CPU quota in a period, in microseconds",
        One(|c| limit(c.resources.cpu_quota, 0).filter(|quota| *quota != Whole(0))),
    ),
    row(
        "container_spec_cpu_shares",
        Gauge,
        "The weight for CPU time; 1024 is one CPU",
        One(|c| limit(c.resources.cpu_shares, CPU_SHARES)),
    ),
    row(
        "container_spec_memory_limit_bytes",
        Gauge,
        "The limit on memory, in bytes; 0: none",
        One(|c| Some(Whole(c.usage.memory_limit_bytes.unwrap_or(0)))),
    ),
    row(
        "container_spec_memory_swap_limit_bytes",
        Gauge,
        "The limit on memory and swap, in bytes; 0: none",
        One(|c| limit(c.resources.memory_swap_limit_in_bytes, 0)),
    ),
    row(
        "container_start_time_seconds",
        Gauge,
        "Its start, in seconds since 1970",
        One(|c| u64::try_from(c.started_at).ok().map(Seconds)),
    ),
    row(
        "container_last_seen",
        Gauge,
        "The time of the reading, in seconds since 1970",
        One(|c| u64::try_from(c.now).ok().map(Seconds)),
    ),
];

pub(crate) const POD: &[Descriptor<Counters>] = &[
    row(
        "container_network_receive_bytes_total",
        Counter,
        "Bytes received",
        Many(INTERFACE, |c| interface(c, c.rx_bytes)),
    ),
    row(
        "container_network_receive_packets_total",
        Counter,
        "Packets received",
        Many(INTERFACE, |c| interface(c, c.rx_packets)),
    ),
    row(
        "container_network_receive_errors_total",
        Counter,
        "Packets received in error",
        Many(INTERFACE, |c| interface(c, c.rx_errors)),
    ),
    row(
        "container_network_receive_packets_dropped_total",
        Counter,
        "Received packets dropped",
        Many(INTERFACE, |c| interface(c, c.rx_dropped)),
    ),
    row("container_network_transmit_bytes_total", Counter, "Bytes sent", Many(INTERFACE, |c| interface(c, c.tx_bytes))),
    row(
        "container_network_transmit_packets_total",
        Counter,
        "Packets sent",
        Many(INTERFACE, |c| interface(c, c.tx_packets)),
    ),
    row(
        "container_network_transmit_errors_total",
        Counter,
        "Packets that could not be sent",
        Many(INTERFACE, |c| interface(c, c.tx_errors)),
    ),
    row(
        "container_network_transmit_packets_dropped_total",
        Counter,
        "Packets dropped before they were sent",
        Many(INTERFACE, |c| interface(c, c.tx_dropped)),
    ),
];

/// A limit; CRI's 0, and a negative number, mean none.
fn limit(value: i64, otherwise: i64) -> Option<Value> {
    let value = if value > 0 { value } else { otherwise };
    u64::try_from(value).ok().map(Whole)
}

fn faults(container: &Container) -> Values {
    let of = |kind: &str, value: Option<u64>| Some((vec![kind.to_owned(), "container".to_owned()], Whole(value?)));
    let usage = &container.usage;
    [of("pgfault", usage.page_faults), of("pgmajfault", usage.major_page_faults)].into_iter().flatten().collect()
}

fn disk(container: &Container, value: fn(&Container) -> Option<u64>) -> Values {
    value(container).map(|value| (vec![container.mountpoint.clone()], Whole(value))).into_iter().collect()
}

fn devices(container: &Container, value: fn(&DeviceUsage) -> u64) -> Values {
    container.details.devices.iter().map(|device| (vec![device.name.clone()], Whole(value(device)))).collect()
}

fn block_devices(container: &Container) -> Values {
    let of = |device: &DeviceUsage| {
        let labels = |operation: &str| {
            vec![device.name.clone(), device.major.to_string(), device.minor.to_string(), operation.to_owned()]
        };
        [(labels("Read"), Whole(device.read_bytes)), (labels("Write"), Whole(device.written_bytes))]
    };
    container.details.devices.iter().flat_map(of).collect()
}

fn interface(counters: &Counters, value: u64) -> Values {
    vec![(vec![counters.interface.clone()], Whole(value))]
}
