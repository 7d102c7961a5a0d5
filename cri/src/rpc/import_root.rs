//! Admin's ImportRoot: keeps what the client sends under a name that pods can ask for by annotation. If the client breaks off or goes
//! away before its end, nothing stays.

use std::sync::Arc;

use futures::Stream;
use proto::admin::{ImportRootRequest, ImportRootResponse};
use tonic::{Request, Status};
use tracing::info;

use super::chunks;
use crate::error::Error;
use crate::state::node::Node;

pub(crate) async fn call<S>(node: &Arc<Node>, request: Request<S>) -> Result<ImportRootResponse, Error>
where
    S: Stream<Item = Result<ImportRootRequest, Status>> + Unpin,
{
    let intake = async |name: String, mut stream| {
        node.block(move |node| node.images.import_root(&name, &mut stream).map(|()| name)).await.map_err(Error::from)
    };
    let name = chunks::receive(request, |message| (message.name, message.chunk), intake).await?;
    info!(name, "imported a root");
    Ok(ImportRootResponse {})
}
