//go:build freebsd

// What all containers of a pod may have together. Upstream gives it on Linux only, where it is a hint, since kubelet sets the
// pod's cgroup itself; here the runtime is the one who enforces it. So a sum of limits is given only when every container has
// one: it would limit the others too. A pod's overhead is in none of it, since a jail costs nothing that counts as the pod's.
//
//overlay:replaces kuberuntime_sandbox_unsupported.go

package kuberuntime

import (
	"context"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/kubelet/cm"
)

func (m *kubeGenericRuntimeManager) applySandboxResources(ctx context.Context, pod *v1.Pod, config *runtimeapi.PodSandboxConfig) error {
	if config.Linux != nil {
		limits := cm.ResourceConfigForPod(pod, m.cpuCFSQuota, m.cpuPeriod(), false, m.memoryReservationPolicy)
		config.Linux.Resources = sandboxResources(limits)
	}
	return nil
}
