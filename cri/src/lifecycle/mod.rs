//! What happens to pods and containers beside the requests: recovery, exits, tear-down, spares, events.

pub mod events;
pub mod exits;
pub mod reconcile;
pub mod recover;
pub mod spares;
pub mod teardown;
