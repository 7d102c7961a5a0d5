//! The memory of pf(4) per pod: each vnet has its own hash tables, with and without rules.

/// Bytes of a slot: a list head and a mutex (`struct pf_keyhash` in net/pfvar.h, 64-bit kernel).
const SLOT: u64 = 40;
/// Two tables hold states: by key and by id.
const STATE_TABLES: u64 = 2;
/// The limit per pod, in bytes: 200 pods at it hold a gigabyte.
const RECOMMENDED_LIMIT: u64 = 5 << 20;

/// The sizes of pf's tables, in slots; 0 if the kernel lacks the table.
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
    /// Returns their size in each vnet, in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        let slots = self.states.saturating_mul(STATE_TABLES).saturating_add(self.source_nodes);
        slots.saturating_add(self.udp_endpoints).saturating_mul(SLOT)
    }

    /// Returns the description, and the lines for loader.conf(5) if above the limit.
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
        // Measured on 15.1: 14.9 and 2.4 MiB per pod, with all else in a vnet.
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
