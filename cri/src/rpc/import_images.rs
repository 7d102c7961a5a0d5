//! Admin's ImportImages: imports the images of an archive that the client sends, all or none. If the client goes away or breaks off,
//! nothing stays.

use std::io::{self, Cursor, Read};
use std::sync::Arc;

use futures::{Stream, StreamExt};
use proto::admin::{ImportImagesRequest, ImportImagesResponse};
use tokio::sync::mpsc;
use tonic::{Request, Status};
use tracing::info;

use super::extensions::gone;
use crate::error::Error;
use crate::state::node::Node;
use crate::translate::answer::image::admin_image;

/// Messages that wait for the disk.
const WAITING: usize = 8;

pub(crate) async fn call<S>(node: &Arc<Node>, request: Request<S>) -> Result<ImportImagesResponse, Error>
where
    S: Stream<Item = Result<ImportImagesRequest, Status>> + Unpin,
{
    let gone = gone(&request);
    let mut messages = request.into_inner();
    let first = messages.next().await.transpose().map_err(|status| broken(&status))?.unwrap_or_default();
    let name = Some(first.name).filter(|name| !name.is_empty());
    let (sender, received) = mpsc::channel(WAITING);
    let feed = async {
        let mut chunk = Some(first.chunk);
        loop {
            let last = chunk.is_none();
            // If nobody reads any more, the import has ended and says why.
            if sender.send(chunk).await.is_err() || last {
                return std::future::pending().await;
            }
            match messages.next().await.transpose() {
                Ok(next) => chunk = next.map(|next| next.chunk),
                Err(status) => return broken(&status),
            }
        }
    };
    let archive = Archive { received, chunk: Cursor::default(), ended: false };
    let imported = tokio::select! {
        imported = node.images.import(archive, name) => imported?,
        error = feed => return Err(error),
        () = gone.cancelled() => return Err(broken(&Status::cancelled("the client went away"))),
    };
    for image in &imported {
        info!(id = %image.id, names = ?image.repo_tags, "imported an image");
    }
    Ok(ImportImagesResponse { images: imported.iter().map(admin_image).collect() })
}

fn broken(status: &Status) -> Error {
    Error::State { what: format!("the archive broke off: {}", status.message()) }
}

/// The bytes of the archive for a thread that may block.
struct Archive {
    /// None: the client has sent all.
    received: mpsc::Receiver<Option<Vec<u8>>>,
    chunk: Cursor<Vec<u8>>,
    ended: bool,
}

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.chunk.read(buffer)?;
            if read > 0 || self.ended || buffer.is_empty() {
                return Ok(read);
            }
            match self.received.blocking_recv() {
                Some(Some(chunk)) => self.chunk = Cursor::new(chunk),
                Some(None) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the client broke off")),
            }
        }
    }
}
