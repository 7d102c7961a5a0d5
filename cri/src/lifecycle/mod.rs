//! What happens to pods and containers beside the requests: recovery, exits, tear-down, spares, events.

pub(crate) mod create;
pub(crate) mod events;
pub(crate) mod exits;
pub(crate) mod reconcile;
pub(crate) mod recover;
pub(crate) mod spares;
pub(crate) mod teardown;
