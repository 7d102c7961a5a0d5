//! What the kernel counts of a container beyond [`crate::Usage`], for metrics: read when a client asks for metrics, not with
//! every statistic.

/// The details of a container's usage. None: the kernel does not count it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Details {
    /// CPU time of its programs since its start, in nanoseconds.
    pub user_nanoseconds: Option<u64>,
    /// CPU time of the kernel on their behalf, in nanoseconds.
    pub system_nanoseconds: Option<u64>,
    /// Periods of its CPU quota that have passed.
    pub periods: Option<u64>,
    /// Those in which it used its quota up.
    pub throttled_periods: Option<u64>,
    /// How long it was kept from a CPU by its quota, in nanoseconds.
    pub throttled_nanoseconds: Option<u64>,
    /// Page cache, in bytes.
    pub cache_bytes: Option<u64>,
    /// Mapped files, in bytes.
    pub mapped_file_bytes: Option<u64>,
    /// Page cache that was used lately, in bytes.
    pub active_file_bytes: Option<u64>,
    /// Page cache that can be dropped first, in bytes.
    pub inactive_file_bytes: Option<u64>,
    /// Memory of the kernel on its behalf, in bytes.
    pub kernel_bytes: Option<u64>,
    /// The most memory that was in use at once, in bytes.
    pub peak_bytes: Option<u64>,
    /// How often it met its limit on memory.
    pub limit_hits: Option<u64>,
    /// Processes that the kernel killed for want of memory.
    pub memory_kills: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// The limit on them; 0: none.
    pub threads_limit: Option<u64>,
    /// Open descriptors of all its processes.
    pub descriptors: Option<u64>,
    /// The sockets among them.
    pub sockets: Option<u64>,
    /// Its input and output, by block device.
    pub devices: Vec<DeviceUsage>,
}

/// Input and output on a block device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceUsage {
    /// Its node (`/dev/sda`), or its numbers where it has none.
    pub name: String,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}
