//! RuntimeConfig: what kubelet must agree on.

use proto::v1::{CgroupDriver, LinuxRuntimeConfiguration, RuntimeConfigRequest, RuntimeConfigResponse};

use crate::error::Error;

/// Answers. The backends put containers into cgroups themselves, by path, so on Linux it is cgroupfs; a kubelet on FreeBSD
/// has no use for the answer.
pub(crate) fn call(_request: RuntimeConfigRequest) -> Result<RuntimeConfigResponse, Error> {
    let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() };
    Ok(RuntimeConfigResponse { linux: Some(linux) })
}
