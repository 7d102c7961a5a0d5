//go:build freebsd

// The `linux` section of containers and pods. Upstream fills it in on Linux only: runAsUser, a read-only root, privileges,
// limits and resizes would be dropped in silence. A runtime for jails reads the section for want of one of FreeBSD's own. What
// there is nothing of on FreeBSD (huge pages, cgroup v2's unified settings, swap limits) stays unset. Rests on the CRI's
// LinuxContainerConfig (cri-api, api.proto) and on cellblock/kubelet/resources.
//
//overlay:replaces kuberuntime_container_unsupported.go

package kuberuntime

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/kubernetes/pkg/kubelet/cm"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/pkg/kubelet/qos"
	"k8s.io/kubernetes/pkg/kubelet/types"

	"cellblock/kubelet/resources"
)

func (m *kubeGenericRuntimeManager) applyPlatformSpecificContainerConfig(ctx context.Context, config *runtimeapi.ContainerConfig, container *v1.Container, pod *v1.Pod, uid *int64, username string, nsTarget *kubecontainer.ContainerID) error {
	security, err := m.determineEffectiveSecurityContext(ctx, pod, container, uid, username)
	if err != nil {
		return err
	}
	// An ephemeral container that shares another one's processes: the runtime says whether it can.
	if nsTarget != nil && security.NamespaceOptions.Pid == runtimeapi.NamespaceMode_CONTAINER {
		security.NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
		security.NamespaceOptions.TargetId = nsTarget.ID
	}
	config.Linux = &runtimeapi.LinuxContainerConfig{
		Resources:       m.containerResources(ctx, pod, container),
		SecurityContext: security,
	}
	return nil
}

func (m *kubeGenericRuntimeManager) generateContainerResources(ctx context.Context, pod *v1.Pod, container *v1.Container) *runtimeapi.ContainerResources {
	return &runtimeapi.ContainerResources{Linux: m.containerResources(ctx, pod, container)}
}

func (m *kubeGenericRuntimeManager) containerResources(ctx context.Context, pod *v1.Pod, container *v1.Container) *runtimeapi.LinuxContainerResources {
	podLevel := utilfeature.DefaultFeatureGate.Enabled(features.PodLevelResources)
	limits := resources.OfContainer(pod, container, m.cpuCFSQuota, m.cpuPeriod(), podLevel)
	exclusive := utilfeature.DefaultFeatureGate.Enabled(features.DisableCPUQuotaWithExclusiveCPUs) &&
		m.containerManager.ContainerHasExclusiveCPUs(klog.FromContext(ctx), pod, container)
	if exclusive {
		limits.CPUQuota = resources.NoLimit
	}
	return &runtimeapi.LinuxContainerResources{
		CpuShares:          int64(limits.CPUShares),
		CpuQuota:           limits.CPUQuota,
		CpuPeriod:          int64(limits.CPUPeriod),
		MemoryLimitInBytes: limits.Memory,
		OomScoreAdj:        int64(qos.GetContainerOOMScoreAdjust(pod, container, int64(m.machineInfo.MemoryCapacity))),
	}
}

// cpuPeriod is in microseconds.
func (m *kubeGenericRuntimeManager) cpuPeriod() uint64 {
	if period := uint64(m.cpuCFSQuotaPeriod.Duration / time.Microsecond); period > 0 {
		return period
	}
	return resources.QuotaPeriod
}

// generateUpdatePodSandboxResourcesRequest tells the runtime what a pod may have from now on.
func (m *kubeGenericRuntimeManager) generateUpdatePodSandboxResourcesRequest(sandboxID string, pod *v1.Pod, podResources *cm.ResourceConfig) *runtimeapi.UpdatePodSandboxResourcesRequest {
	return &runtimeapi.UpdatePodSandboxResourcesRequest{
		PodSandboxId: sandboxID,
		Overhead:     &runtimeapi.LinuxContainerResources{},
		Resources:    sandboxResources(podResources),
	}
}

// sandboxResources spells a pod's limits as the CRI does, where no limit on memory is 0.
func sandboxResources(config *cm.ResourceConfig) *runtimeapi.LinuxContainerResources {
	result := convertResourceConfigToLinuxContainerResources(config)
	if result != nil && result.MemoryLimitInBytes < 0 {
		result.MemoryLimitInBytes = 0
	}
	return result
}

func toKubeContainerResources(statusResources *runtimeapi.ContainerResources) *kubecontainer.ContainerResources {
	status := statusResources.GetLinux()
	if status == nil {
		return nil
	}
	result := &kubecontainer.ContainerResources{}
	if milli := resources.MilliOfQuota(status.CpuQuota, status.CpuPeriod); milli > 0 {
		result.CPULimit = resource.NewMilliQuantity(milli, resource.DecimalSI)
	}
	if milli := resources.MilliOfShares(status.CpuShares); milli > 0 {
		result.CPURequest = resource.NewMilliQuantity(milli, resource.DecimalSI)
	}
	if status.MemoryLimitInBytes > 0 {
		result.MemoryLimit = resource.NewQuantity(status.MemoryLimitInBytes, resource.BinarySI)
	}
	if *result == (kubecontainer.ContainerResources{}) {
		return nil
	}
	return result
}

func toKubeContainerUser(statusUser *runtimeapi.ContainerUser) *kubecontainer.ContainerUser {
	user := statusUser.GetLinux()
	if user == nil {
		return nil
	}
	return &kubecontainer.ContainerUser{Linux: &kubecontainer.LinuxContainerUser{
		UID: user.GetUid(), GID: user.GetGid(), SupplementalGroups: user.GetSupplementalGroups(),
	}}
}

// GetContainerSwapBehavior is NoSwap: FreeBSD can neither limit nor forbid a jail's swap.
func (m *kubeGenericRuntimeManager) GetContainerSwapBehavior(pod *v1.Pod, container *v1.Container) types.SwapBehavior {
	return types.NoSwap
}

func initSwapControllerAvailabilityCheck(ctx context.Context) func() bool {
	return func() bool { return false }
}

func (m *kubeGenericRuntimeManager) isMemoryQoSEnforced() bool {
	return false
}

func (m *kubeGenericRuntimeManager) applyPodLevelMemoryHigh(_ *v1.Pod, _ *cm.ResourceConfig) {
}
