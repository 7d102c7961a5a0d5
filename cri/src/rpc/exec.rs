//! Exec: a URL for a command in a running container.

use std::sync::Arc;

use proto::v1::{ExecRequest, ExecResponse};
use streaming::Command;

use super::find_running;
use crate::error::Error;
use crate::state::node::Node;

pub(crate) fn call(node: &Arc<Node>, request: ExecRequest) -> Result<ExecResponse, Error> {
    let container = find_running(node, &request.container_id)?;
    let command = Command {
        container: container.id.clone(),
        args: Some(request.cmd),
        tty: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    };
    Ok(ExecResponse { url: node.streaming.command_url(command)? })
}
