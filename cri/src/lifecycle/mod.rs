//! What changes pods and containers, on request or by itself: creation, tear-down, recovery, exits, spares, events.

pub(crate) mod create;
pub(crate) mod events;
pub(crate) mod exits;
pub(crate) mod nameserver;
pub(crate) mod needs;
pub(crate) mod network;
pub(crate) mod reconcile;
pub(crate) mod recover;
pub(crate) mod spares;
pub(crate) mod teardown;
pub(crate) mod written;
