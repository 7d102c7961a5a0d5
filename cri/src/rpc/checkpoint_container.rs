//! CheckpointContainer: unsupported until a snapshot of the container serves it.

use proto::v1::{CheckpointContainerRequest, CheckpointContainerResponse};

use crate::error::Error;

pub(crate) fn call(_request: &CheckpointContainerRequest) -> Result<CheckpointContainerResponse, Error> {
    Err(Error::Unsupported { what: "CheckpointContainer".to_owned() })
}
