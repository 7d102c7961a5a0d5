//! Admin's PullWithProgress: pulls an image, tells of each layer, and ends with the image. A client that goes away cancels the pull.

use std::sync::Arc;

use image::{Credentials, Observer, Phase, Progress};
use proto::admin::{LayerPhase, LayerProgress, PullWithProgressRequest, PullWithProgressResponse};
use tokio::sync::mpsc;
use tonic::Status;
use tracing::info;

use super::{Parts, received};
use crate::error::Error;
use crate::state::node::Node;
use crate::translate::answer::image::admin_image;

/// Messages that wait for the client. One that reads slowly misses some of the progress, never the end.
const WAITING: usize = 1024;

pub(crate) fn call(
    node: &Arc<Node>,
    request: PullWithProgressRequest,
) -> Result<Parts<PullWithProgressResponse>, Error> {
    let PullWithProgressRequest { image, username, password } = request;
    if image.is_empty() {
        return Err(Error::missing("image"));
    }
    let credentials = (!username.is_empty()).then(|| Credentials { username, password, ..Credentials::default() });
    let (sender, receiver) = mpsc::channel(WAITING);
    let told = sender.clone();
    let observer = Observer::new(move |progress| drop(told.try_send(Ok(layer(&progress)))));
    let node = node.clone();
    tokio::spawn(async move {
        let pulled = tokio::select! {
            pulled = node.images.pull_observed(&image, credentials, observer) => pulled,
            () = sender.closed() => return,
        };
        let last = match pulled {
            Ok(pulled) => {
                info!(id = %pulled.id, "pulled {image}");
                Ok(PullWithProgressResponse { layer: None, image: Some(admin_image(&pulled)) })
            }
            Err(error) => Err(Status::from(Error::from(error))),
        };
        // A client that is gone needs no answer.
        drop(sender.send(last).await);
    });
    Ok(received(receiver))
}

fn layer(progress: &Progress) -> PullWithProgressResponse {
    let phase = match progress.phase {
        Phase::Waiting => LayerPhase::Waiting,
        Phase::Downloading => LayerPhase::Downloading,
        Phase::Unpacking => LayerPhase::Unpacking,
        Phase::Complete => LayerPhase::Complete,
    };
    let layer = LayerProgress {
        digest: progress.layer.to_string(),
        phase: phase.into(),
        done: progress.done,
        total: progress.total,
    };
    PullWithProgressResponse { layer: Some(layer), image: None }
}
