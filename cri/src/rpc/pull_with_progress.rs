//! Admin's PullWithProgress: pulls an image, tells of each layer, and ends with the image. A client that goes away cancels the pull.

use std::sync::Arc;

use image::{Credentials, Observer, Phase, Progress};
use proto::admin::{LayerPhase, LayerProgress, PullWithProgressRequest, PullWithProgressResponse};
use tokio::sync::mpsc;
use tonic::Status;
use tracing::{Instrument, Span, debug, info, warn};

use super::{Parts, received};
use crate::error::Error;
use crate::state::node::Node;
use crate::status;
use crate::translate::answer::image::admin_image;

/// Messages that wait for the client. One that reads slowly misses some of the progress, never the end.
const WAITING: usize = 1024;
/// The name of this RPC in the log.
const METHOD: &str = "PullWithProgress";

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
    let pull = async move {
        let pulled = tokio::select! {
            pulled = node.images.pull_observed(&image, credentials, observer) => pulled,
            () = sender.closed() => return,
        };
        let last = match pulled {
            Ok(pulled) => {
                info!(id = %pulled.id, "pulled {image}");
                Ok(PullWithProgressResponse { layer: None, image: Some(admin_image(&pulled)) })
            }
            Err(error) => {
                let status = Status::from(Error::from(error));
                log_failure(&status);
                Err(status)
            }
        };
        // A client that is gone needs no answer.
        drop(sender.send(last).await);
    };
    tokio::spawn(pull.instrument(Span::current()));
    Ok(received(receiver))
}

/// Logs a failed pull as PullImage's is. The layer around the calls does not see it: the call itself ends when the stream begins.
fn log_failure(status: &Status) {
    if status::is_routine(METHOD, status.code()) {
        debug!(code = ?status.code(), "{METHOD}: {}", status.message());
    } else {
        warn!(code = ?status.code(), "{METHOD}: {}", status.message());
    }
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
