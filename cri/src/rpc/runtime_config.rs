//! RuntimeConfig: the settings that kubelet and the server must share.

use proto::v1::{CgroupDriver, LinuxRuntimeConfiguration, RuntimeConfigRequest, RuntimeConfigResponse};

use crate::error::Error;

/// The Linux backend puts containers into cgroups by path: cgroupfs. A kubelet on FreeBSD ignores the answer.
pub(crate) fn call(_request: RuntimeConfigRequest) -> Result<RuntimeConfigResponse, Error> {
    let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() };
    Ok(RuntimeConfigResponse { linux: Some(linux) })
}
