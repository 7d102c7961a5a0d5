//! Admin's ExportImages: streams images as one archive. The export ends when the client goes away.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use proto::admin::{ExportImagesRequest, ExportImagesResponse};
use tokio::sync::mpsc;
use tonic::Status;

use super::{Parts, received};
use crate::error::Error;
use crate::state::node::Node;

/// Bytes of a message, and messages that wait for the client.
const CHUNK: usize = 256 << 10;
const WAITING: usize = 8;

pub(crate) fn call(node: &Arc<Node>, request: ExportImagesRequest) -> Result<Parts<ExportImagesResponse>, Error> {
    if request.images.is_empty() {
        return Err(Error::missing("images"));
    }
    for name in &request.images {
        node.images.find(name)?.ok_or_else(|| Error::NotFound { what: format!("image {name:?}") })?;
    }
    let (sender, receiver) = mpsc::channel(WAITING);
    let node = node.clone();
    tokio::spawn(async move {
        let writer = Chunks(sender.clone());
        let exported = node
            .block(move |node| {
                let mut writer = BufWriter::with_capacity(CHUNK, writer);
                node.images.export(&request.images, &mut writer)?;
                writer.flush().map_err(image::Error::io("cannot send an archive"))
            })
            .await;
        if let Err(error) = exported {
            // A client that is gone needs no reason.
            drop(sender.send(Err(Status::from(Error::from(error)))).await);
        }
    });
    Ok(received(receiver))
}

/// Sends what is written as messages.
struct Chunks(mpsc::Sender<Result<ExportImagesResponse, Status>>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(CHUNK)];
        let message = ExportImagesResponse { chunk: bytes.to_vec() };
        self.0.blocking_send(Ok(message)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
