//! Attach: a URL for the streams of a running container's first process.

use std::sync::Arc;

use proto::v1::{AttachRequest, AttachResponse};
use streaming::Command;

use super::find_running;
use crate::error::Error;
use crate::state::node::Node;

pub(crate) fn call(node: &Arc<Node>, request: &AttachRequest) -> Result<AttachResponse, Error> {
    let container = find_running(node, &request.container_id)?;
    let command = Command {
        container: container.id.clone(),
        args: None,
        tty: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    };
    Ok(AttachResponse { url: node.streaming.command_url(command)? })
}
