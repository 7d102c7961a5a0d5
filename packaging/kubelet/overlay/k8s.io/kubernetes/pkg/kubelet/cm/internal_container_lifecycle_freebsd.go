//go:build freebsd

// The processors that the CPU manager's static policy gives to a container: upstream passes them on on Linux only. Rests on
// cpuset_cpus of the CRI, which a runtime sets on the jail (cpuset(2)).
//
//overlay:replaces internal_container_lifecycle_unsupported.go

package cm

import (
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

func (i *internalContainerLifecycleImpl) PreCreateContainer(logger klog.Logger, pod *v1.Pod, container *v1.Container, containerConfig *runtimeapi.ContainerConfig) error {
	if cpus := i.cpuManager.GetCPUAffinity(string(pod.UID), container.Name); !cpus.IsEmpty() {
		containerConfig.Linux.Resources.CpusetCpus = cpus.String()
	}
	return nil
}
