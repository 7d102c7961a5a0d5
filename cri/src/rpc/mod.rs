//! The RPCs, one file each. Each is a function of the node and the request; [`crate::server::service`] calls it and turns its error
//! into a status.

pub(crate) mod attach;
pub(crate) mod capture;
pub(crate) mod container_stats;
pub(crate) mod container_status;
pub(crate) mod create_container;
pub(crate) mod exec;
pub(crate) mod exec_sync;
pub(crate) mod export_images;
pub(crate) mod extensions;
pub(crate) mod get_container_events;
pub(crate) mod image_fs_info;
pub(crate) mod image_status;
pub(crate) mod import_images;
pub(crate) mod list_container_stats;
pub(crate) mod list_containers;
pub(crate) mod list_images;
pub(crate) mod list_metric_descriptors;
pub(crate) mod list_pod_sandbox;
pub(crate) mod list_pod_sandbox_metrics;
pub(crate) mod list_pod_sandbox_stats;
pub(crate) mod list_snapshots;
pub(crate) mod metrics;
pub(crate) mod pod_sandbox_stats;
pub(crate) mod pod_sandbox_status;
pub(crate) mod port_forward;
pub(crate) mod prune_images;
pub(crate) mod pull_image;
pub(crate) mod pull_with_progress;
pub(crate) mod remove_container;
pub(crate) mod remove_image;
pub(crate) mod remove_pod_sandbox;
pub(crate) mod reopen_container_log;
pub(crate) mod rollback;
pub(crate) mod run_pod_sandbox;
pub(crate) mod runtime_config;
pub(crate) mod snapshot;
pub(crate) mod start_container;
pub(crate) mod status;
pub(crate) mod stop_container;
pub(crate) mod stop_pod_sandbox;
pub(crate) mod stream_container_stats;
pub(crate) mod stream_containers;
pub(crate) mod stream_images;
pub(crate) mod stream_pod_sandbox_metrics;
pub(crate) mod stream_pod_sandbox_stats;
pub(crate) mod stream_pod_sandboxes;
pub(crate) mod update_container_resources;
pub(crate) mod update_pod_sandbox_resources;
pub(crate) mod update_runtime_config;
pub(crate) mod version;

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;

use crate::error::Error;
use crate::state::node::Node;
use crate::state::record::{ContainerPhase, ContainerRecord};

/// The largest message either way, in bytes: the limit of kubelet and crictl.
pub const MESSAGE_LIMIT: usize = 16 << 20;
/// The most items in a part of a streamed list.
const PART: usize = 128;
/// A part ends with the item that exceeds this size, in bytes. An item with its labels and annotations has at most about a
/// megabyte, so a part stays far below [`MESSAGE_LIMIT`].
const PART_SIZE: usize = 4 << 20;

/// A streamed answer.
pub(crate) type Parts<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The messages of a task as a stream; it ends when the task has dropped its senders.
fn received<T: Send + 'static>(mut receiver: mpsc::Receiver<Result<T, Status>>) -> Parts<T> {
    Box::pin(futures::stream::poll_fn(move |context| receiver.poll_recv(context)))
}

fn split<I, T>(items: Vec<I>, part: impl Fn(Vec<I>) -> T + Send + 'static) -> Parts<T>
where
    I: Message + 'static,
    T: 'static,
{
    let mut items = items.into_iter();
    Box::pin(futures::stream::iter(std::iter::from_fn(move || {
        let (mut next, mut size) = (Vec::new(), 0);
        while next.len() < PART && size < PART_SIZE {
            let Some(item) = items.next() else { break };
            size += item.encoded_len();
            next.push(item);
        }
        if next.is_empty() { None } else { Some(Ok(part(next))) }
    })))
}

/// The answer to an RPC that no backend can serve yet; docs/coverage.md says why.
pub(crate) fn unsupported<T>(rpc: &str) -> Result<T, Error> {
    Err(Error::Unsupported { what: rpc.to_owned() })
}

/// Refuses an answer that exceeds one message, which its client would refuse without advice. `instead` is the RPC that streams it.
fn limit<M: Message>(answer: M, instead: &str) -> Result<M, Error> {
    let size = answer.encoded_len();
    if size <= MESSAGE_LIMIT {
        return Ok(answer);
    }
    let what = format!("the answer has {size} bytes, one message at most {MESSAGE_LIMIT}: use a filter, or {instead}");
    Err(Error::Exhausted { what })
}

fn find_running(node: &Arc<Node>, id: &str) -> Result<Arc<ContainerRecord>, Error> {
    let container = node.store.find_container(id)?;
    if matches!(container.phase, ContainerPhase::Running { .. }) {
        return Ok(container);
    }
    let state = crate::translate::answer::container::state(&container).as_str_name();
    Err(Error::State { what: format!("container {} is in {state} state", container.id.short()) })
}
