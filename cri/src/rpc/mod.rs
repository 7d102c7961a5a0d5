//! The RPCs, one file each. Each is a function of the node and the request; [`crate::server::service`] calls it and turns its error
//! into a status.

pub mod attach;
pub mod capture;
pub mod checkpoint_container;
pub mod container_stats;
pub mod container_status;
pub mod create_container;
pub mod exec;
pub mod exec_sync;
pub mod get_container_events;
pub mod image_fs_info;
pub mod image_status;
pub mod list_container_stats;
pub mod list_containers;
pub mod list_images;
pub mod list_metric_descriptors;
pub mod list_pod_sandbox;
pub mod list_pod_sandbox_metrics;
pub mod list_pod_sandbox_stats;
pub mod list_snapshots;
pub mod metrics;
pub mod pod_sandbox_stats;
pub mod pod_sandbox_status;
pub mod port_forward;
pub mod pull_image;
pub mod remove_container;
pub mod remove_image;
pub mod remove_pod_sandbox;
pub mod reopen_container_log;
pub mod rollback;
pub mod run_pod_sandbox;
pub mod runtime_config;
pub mod snapshot;
pub mod start_container;
pub mod status;
pub mod stop_container;
pub mod stop_pod_sandbox;
pub mod stream_container_stats;
pub mod stream_containers;
pub mod stream_images;
pub mod stream_pod_sandbox_metrics;
pub mod stream_pod_sandbox_stats;
pub mod stream_pod_sandboxes;
pub mod update_container_resources;
pub mod update_pod_sandbox_resources;
pub mod update_runtime_config;
pub mod version;

use std::pin::Pin;
use std::sync::Arc;

use prost::Message;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use crate::error::Error;
use crate::server::daemon::MESSAGE_LIMIT;
use crate::server::deliver::{Deadline, Delivery, Gone};
use crate::state::node::Node;
use crate::state::record::{ContainerPhase, ContainerRecord};

/// How many items a part of a streamed list has at most.
const PART: usize = 128;
/// A part ends with the item that makes it so large, in bytes: far below the 16 MiB of one message, since an item with all its
/// labels and annotations has about a megabyte at most.
const PART_SIZE: usize = 4 << 20;

/// A list in parts.
pub type Parts<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Cuts a list into parts.
fn parts<I, T>(items: Vec<I>, part: impl Fn(Vec<I>) -> T + Send + 'static) -> Parts<T>
where
    I: Message + 'static,
    T: 'static,
{
    let mut items = items.into_iter();
    Box::pin(tokio_stream::iter(std::iter::from_fn(move || {
        let (mut next, mut size) = (Vec::new(), 0);
        while next.len() < PART && size < PART_SIZE {
            let Some(item) = items.next() else { break };
            size += item.encoded_len();
            next.push(item);
        }
        if next.is_empty() { None } else { Some(Ok(part(next))) }
    })))
}

/// An answer in one message, if it fits into one: a client would refuse a larger one without saying what to do. `instead` is
/// the RPC that has it in parts.
fn whole<M: Message>(answer: M, instead: &str) -> Result<M, Error> {
    let size = answer.encoded_len();
    if size <= MESSAGE_LIMIT {
        return Ok(answer);
    }
    let what = format!("the answer has {size} bytes, one message at most {MESSAGE_LIMIT}: use a filter, or {instead}");
    Err(Error::Exhausted { what })
}

/// Whether the answer to this request reaches its client.
fn delivery<T>(request: &Request<T>) -> Delivery {
    request.extensions().get::<Delivery>().cloned().unwrap_or_default()
}

/// Tells when this request's client has gone away.
fn gone<T>(request: &Request<T>) -> CancellationToken {
    request.extensions().get::<Gone>().cloned().unwrap_or_default().0
}

/// When this request's client stops waiting.
fn deadline<T>(request: &Request<T>) -> Deadline {
    request.extensions().get::<Deadline>().copied().unwrap_or_default()
}

/// A container that runs.
fn running(node: &Arc<Node>, id: &str) -> Result<Arc<ContainerRecord>, Error> {
    let container = node.store.find_container(id)?;
    if matches!(container.phase, ContainerPhase::Running { .. }) {
        return Ok(container);
    }
    let state = crate::translate::answer::container::state(&container).as_str_name();
    Err(Error::State { what: format!("container {} is in {state} state", container.id.short()) })
}
