//! Version: the server's name and version.

use proto::v1::{VersionRequest, VersionResponse};

use crate::error::Error;

/// The version of the kubelet runtime API, which has never changed.
const KUBELET_API_VERSION: &str = "0.1.0";
pub(crate) const RUNTIME_NAME: &str = "cellblock";
const CRI_VERSION: &str = "v1";

pub(crate) fn call(_request: VersionRequest) -> Result<VersionResponse, Error> {
    Ok(VersionResponse {
        version: KUBELET_API_VERSION.to_owned(),
        runtime_name: RUNTIME_NAME.to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: CRI_VERSION.to_owned(),
    })
}
