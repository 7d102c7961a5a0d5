//! System V shared memory segments, made by the program `shm` of the test images, and their view from the host.

use anyhow::Result;

use crate::process::Program;

/// A System V shared memory segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    /// The requested key.
    pub(super) key: i32,
    pub(super) id: i32,
    /// Whether other containers find it by its key, or by its id only.
    pub(super) known_by_key: bool,
}

impl Segment {
    /// The command that prints its text in another container.
    pub(super) fn read(&self) -> String {
        if self.known_by_key { format!("shm read {}", self.key) } else { format!("shm read-id {}", self.id) }
    }

    /// Whether the host lists it: ipcs(1) prints keys in decimal or in hexadecimal.
    pub(super) fn is_on_host(&self) -> Result<bool> {
        let list = Program::new("ipcs", ["-m"]).run()?;
        let spellings = if self.known_by_key {
            vec![self.key.to_string(), format!("{:#010x}", self.key)]
        } else {
            vec![self.id.to_string()]
        };
        Ok(list.split_whitespace().any(|word| spellings.iter().any(|spelling| word == spelling)))
    }

    /// Removes it.
    pub(super) fn remove_from_host(&self) -> Result<()> {
        let (option, name) = if self.known_by_key { ("-M", self.key) } else { ("-m", self.id) };
        Program::new("ipcrm", [option, &name.to_string()]).run().map(drop)
    }
}
