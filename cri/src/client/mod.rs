//! The commands that ask a running server: by CRI what CRI has, by `cellblock.admin.v1` the rest.

pub mod image;
mod outcome;
pub mod ps;
pub mod root;
pub mod roots;
pub mod snapshots;
pub mod stop_pods;
mod table;
mod transfer;

use std::error::Error as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use proto::admin::admin_client::AdminClient;
use proto::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

use crate::config::Config;
use crate::rpc::MESSAGE_LIMIT;
use crate::server::admin;

/// Connects to the admin service of the server that has this state directory.
async fn connect_admin(state: &Path) -> anyhow::Result<AdminClient<Channel>> {
    Ok(AdminClient::new(connect(&admin::socket(state)).await?))
}

/// Connects to the runtime service of the server with this configuration.
async fn connect_runtime(config: &Config) -> anyhow::Result<RuntimeServiceClient<Channel>> {
    Ok(RuntimeServiceClient::new(connect(&config.socket()?).await?).max_decoding_message_size(MESSAGE_LIMIT))
}

/// All parts of a streamed list.
async fn parts<T>(outcome: Result<Response<Streaming<T>>, Status>) -> anyhow::Result<Vec<T>> {
    let mut stream = answer(outcome)?;
    let mut all = Vec::new();
    while let Some(part) = stream.message().await.map_err(refused)? {
        all.push(part);
    }
    Ok(all)
}

async fn connect(socket: &Path) -> anyhow::Result<Channel> {
    let channel = Endpoint::from_shared(format!("unix:{}", socket.display()))?.connect().await;
    channel.with_context(|| format!("no server answers on {}", socket.display()))
}

/// Runs a command to its end, on this thread.
fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// The message of an answer; the text of a refusal.
fn answer<T>(outcome: Result<Response<T>, Status>) -> anyhow::Result<T> {
    outcome.map(Response::into_inner).map_err(refused)
}

fn refused(status: Status) -> anyhow::Error {
    // A server's refusal arrives as a code and a text. Only a status that tonic makes of a connection's error has a source: a
    // chain whose links repeat each other, and whose last link is the reason.
    let causes = std::iter::successors(status.source(), |&error| error.source());
    match causes.last() {
        Some(reason) => anyhow!("the connection to the server broke: {reason}"),
        None => anyhow!("{}", status.message()),
    }
}
