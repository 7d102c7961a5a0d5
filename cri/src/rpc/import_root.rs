//! Admin's ImportRoot: keeps what the client sends under a name that pods can ask for by annotation. If the client breaks off or goes
//! away before its end, nothing stays.

use std::sync::Arc;

use futures::{Stream, StreamExt};
use proto::admin::{ImportRootRequest, ImportRootResponse};
use tonic::{Request, Status};
use tracing::info;

use super::chunks;
use super::extensions::gone;
use crate::error::Error;
use crate::state::node::Node;

pub(crate) async fn call<S>(node: &Arc<Node>, request: Request<S>) -> Result<ImportRootResponse, Error>
where
    S: Stream<Item = Result<ImportRootRequest, Status>> + Unpin,
{
    let gone = gone(&request);
    let mut messages = request.into_inner();
    let first = messages.next().await.transpose().map_err(|status| chunks::broken(&status))?.unwrap_or_default();
    let name = first.name.clone();
    let intake =
        async |mut stream| Ok(node.block(move |node| node.images.import_root(&first.name, &mut stream)).await?);
    chunks::receive(messages, first.chunk, |message| message.chunk, gone, intake).await?;
    info!(name, "imported a root");
    Ok(ImportRootResponse {})
}
