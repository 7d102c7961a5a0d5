//! The RPCs, one file each. Each is a function of the node and the request; [`crate::server::service`] calls it and turns its error
//! into a status.

pub(crate) mod attach;
pub(crate) mod capture;
mod chunks;
pub(crate) mod container_stats;
pub(crate) mod container_status;
pub(crate) mod create_container;
pub(crate) mod exec;
pub(crate) mod exec_sync;
pub(crate) mod export_images;
pub(crate) mod export_root;
pub(crate) mod extensions;
pub(crate) mod find_root;
pub(crate) mod get_container_events;
pub(crate) mod image_fs_info;
pub(crate) mod image_status;
pub(crate) mod import_images;
pub(crate) mod import_root;
pub(crate) mod list_container_stats;
pub(crate) mod list_containers;
pub(crate) mod list_images;
pub(crate) mod list_kernel_objects;
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

use std::num::NonZero;
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

/// The most threads that read one listing.
const READERS: usize = 4;
/// The fewest items that are worth a thread: reading one takes about a tenth of a millisecond.
const WORTH_A_THREAD: usize = 16;

/// A streamed answer.
pub(crate) type Parts<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The messages of a task as a stream; it ends when the task has dropped its senders.
fn received<T: Send + 'static>(mut receiver: mpsc::Receiver<Result<T, Status>>) -> Parts<T> {
    Box::pin(futures::stream::poll_fn(move |context| receiver.poll_recv(context)))
}

/// Reads the usage of each of many, on several CPUs, and keeps their order. Blocking.
fn read_each<T: Sync, R: Send>(items: &[T], read: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let readers = std::thread::available_parallelism().map_or(1, NonZero::get).min(READERS);
    let share = items.len().div_ceil(readers).max(WORTH_A_THREAD);
    let read_all = &|items: &[T]| items.iter().map(&read).collect::<Vec<R>>();
    let (first, others) = items.split_at(share.min(items.len()));
    std::thread::scope(|scope| {
        let start = |items| (items, std::thread::Builder::new().spawn_scoped(scope, move || read_all(items)));
        let started: Vec<_> = others.chunks(share).map(start).collect();
        let mut all = read_all(first);
        for (items, thread) in started {
            all.extend(match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // No thread is left: it takes longer.
                Err(_) => read_all(items),
            });
        }
        all
    })
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

#[cfg(test)]
mod tests {
    use super::read_each;

    #[test]
    fn each_is_read_once_and_in_order() {
        for count in [0, 1, 16, 17, 100, 1000] {
            let items: Vec<usize> = (0..count).collect();
            assert_eq!(read_each(&items, |item| item + 1), (1..=count).collect::<Vec<_>>());
        }
    }
}
