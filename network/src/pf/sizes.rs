//! The memory that a pod's vnet takes for pf(4): each vnet gets hash tables of its own, with and without rules.

/// The bytes of a slot (the head of a list and a mutex, struct `pf_keyhash` in net/pfvar.h) of a 64-bit kernel.
const SLOT: u64 = 40;
/// States are in two tables of the same size: by their key and by their number.
const STATE_TABLES: u64 = 2;
/// What is too much for a pod, in bytes: 200 of them would hold a gigabyte.
const RECOMMENDED_LIMIT: u64 = 5 << 20;

/// The sizes of pf's tables, in slots; of one that this kernel does not have, 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// `net.pf.states_hashsize`.
    pub states: u64,
    /// `net.pf.source_nodes_hashsize`.
    pub source_nodes: u64,
    /// `net.pf.udpendpoint_hashsize`.
    pub udp_endpoints: u64,
}

impl Sizes {
    /// What they take in each vnet, in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        let slots = self.states.saturating_mul(STATE_TABLES).saturating_add(self.source_nodes);
        slots.saturating_add(self.udp_endpoints).saturating_mul(SLOT)
    }

    /// What is found, and the lines for loader.conf(5) where it is much.
    #[must_use]
    pub fn report(self) -> (String, Option<String>) {
        let bytes = self.bytes();
        let tenths = bytes.saturating_mul(10) >> 20;
        let found = format!(
            "{}.{} MiB of the kernel's memory for each pod ({} states, {} source nodes, {} UDP endpoints)",
            tenths / 10,
            tenths % 10,
            self.states,
            self.source_nodes,
            self.udp_endpoints
        );
        let lines = "/boot/loader.conf, and restart (the node's own pf gets these too):\nnet.pf.states_hashsize=1024\n\
            net.pf.source_nodes_hashsize=256\nnet.pf.udpendpoint_hashsize=256";
        (found, (bytes > RECOMMENDED_LIMIT).then(|| lines.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::Sizes;

    #[test]
    fn the_default_sizes_are_much_and_small_ones_are_not() {
        let sizes = |states, others| Sizes { states, source_nodes: others, udp_endpoints: others };
        // Seen on 15.1: 14.9 and 2.4 MiB for a pod, all else that a vnet has included.
        let (found, lines) = sizes(131_072, 32_768).report();
        assert!(
            found.starts_with("12.5 MiB") && lines.is_some_and(|lines| lines.contains("states_hashsize=1024")),
            "{found}"
        );
        let (found, lines) = sizes(1024, 256).report();
        assert!(found.starts_with("0.0 MiB") && lines.is_none(), "{found}");
        assert_eq!(Sizes::default().bytes(), 0);
    }
}
