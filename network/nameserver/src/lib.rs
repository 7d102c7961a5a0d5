//! Answers for the names of pods on the gateways' addresses, where there is no cluster DNS: `POD.NAMESPACE.DOMAIN` has the pod's
//! addresses, and its addresses lead back to the name. All else is asked of the node's own resolvers.
//!
//! The server owns the records. The name server is a process of its own (`cellblock nameserver DIRECTORY`): it parses what pods
//! send, so it has no right of root's, no file, and no way to another program. It outlives the server and goes on answering what
//! it was told last. Each message of the server is the whole list, so that nothing can be lost between the two.
//!
//! ```text
//! cri ── Nameserver::ensure ─► nameserver.lock, .pid   is there one, and with these settings?
//!     ── Told ───────────────► control (unix socket)   the list, whenever it changes
//! pod ── port 53 ────────────► Answers ─┬─ zones       the pods, and their networks' reverse zones
//!                                       └─ forward     everything else
//! ```

mod answers;
mod process;
mod records;
mod reply;
mod resolvers;
mod serve;
mod slots;
mod sockets;
mod supervise;
mod zones;

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

pub use process::main;
pub use records::{Pod, Record, Selected, check_domain, is_label, select};
pub use resolvers::{RESOLV_CONF, resolvers};
pub use supervise::{Error, Nameserver};

/// The worker's name.
pub const WORKER: &str = "nameserver";
/// The port of DNS.
pub const PORT: u16 = 53;

/// What a name server is started with. Other settings need another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The domain of the pods' names.
    pub domain: String,
    /// Where it answers: the gateways.
    pub addresses: Vec<IpAddr>,
    /// [`PORT`]; tests take another.
    pub port: u16,
    /// Whom it answers, and whose reverse zones it has: the pod networks.
    pub networks: Vec<IpNetwork>,
}

/// What the server tells it, as one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Told {
    /// All names.
    pub records: Vec<Record>,
    /// Whom to ask for other names, in this order.
    pub resolvers: Vec<SocketAddr>,
}

impl Told {
    /// The message.
    ///
    /// # Panics
    /// Never: it has string keys only.
    #[must_use]
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("string keys only") + "\n"
    }
}
