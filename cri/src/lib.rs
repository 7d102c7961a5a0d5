//! The CRI server: answers the requests of kubelet and crictl with the pods and containers of the backends.
//!
//! The rooms, from the highest to the lowest:
//!
//! | room | what lies there |
//! |---|---|
//! | `client` | the commands that ask a running server |
//! | `server` | the process and its sockets: what starts, serves and stops |
//! | `rpc` | one file per RPC |
//! | `lifecycle` | what changes pods and containers, on request or by itself: creation, tear-down, recovery, exits, spares, names |
//! | `translate` | requests into specs, records into answers; pure |
//! | `state` | what the server knows: records, names, locks, addresses |
//! | `config`, `error`, `status` | what every room may use |
//!
//! A file uses its own room and lower ones, never a higher one, and no import cycle has more than two files: the test
//! `e2e/tests/tidy/imports.rs` reads the `use` lines. Only this file is public: a façade for the binary and the tests.

pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod error;
pub(crate) mod lifecycle;
pub(crate) mod rpc;
pub(crate) mod server;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod translate;

pub use client::{image, ps, root, roots, snapshots, stop_pods};
pub use config::{Config, MissingHostPath};
pub use rpc::MESSAGE_LIMIT;
pub use server::admin::socket as admin_socket;
pub use server::check::run as check;
pub use server::connections::CONNECTIONS;
pub use server::daemon::{ServeError, Server};
pub use server::locks::{Locks, lock};
pub use server::serve::run as serve;
pub use state::node::{Backends, Node, Opening};
