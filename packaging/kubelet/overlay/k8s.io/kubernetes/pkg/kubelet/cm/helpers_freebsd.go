//go:build freebsd

// The numbers of the CRI. Upstream's are all 0 on other systems than Linux: kubelet would report no requests and no limits,
// and refuse a resize for want of a pod's configuration. Rests on cellblock/kubelet/resources.
//
//overlay:replaces helpers_unsupported.go

package cm

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/klog/v2"
	kubefeatures "k8s.io/kubernetes/pkg/features"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"

	"cellblock/kubelet/resources"
)

// The bounds of the CRI's numbers.
const (
	MinShares        = resources.MinShares
	MaxShares        = resources.MaxShares
	SharesPerCPU     = resources.SharesPerCPU
	MilliCPUToCPU    = resources.MilliPerCPU
	QuotaPeriod      = resources.QuotaPeriod
	MinQuotaPeriod   = resources.MinQuota
	MinMilliCPULimit = resources.MinMilliLimit
)

// There are no cgroups. These names stand for what would be one: kubelet finds the statistics of all pods and of each by them.
const (
	nodeName = "/"
	podsName = "kubepods"
)

// MilliCPUToQuota turns thousandths of a CPU into microseconds of a period.
func MilliCPUToQuota(milliCPU, period int64) int64 {
	return resources.Quota(milliCPU, period)
}

// MilliCPUToShares turns thousandths of a CPU into shares.
func MilliCPUToShares(milliCPU int64) uint64 {
	return resources.Shares(milliCPU)
}

// ResourceConfigForPod returns what all containers of a pod may have together. FreeBSD reserves no memory for anybody.
func ResourceConfigForPod(pod *v1.Pod, enforceCPULimit bool, cpuPeriod uint64, _ bool, _ kubeletconfig.MemoryReservationPolicy) *ResourceConfig {
	return configOf(limitsForPod(pod, enforceCPULimit, cpuPeriod))
}

func limitsForPod(pod *v1.Pod, enforceCPULimit bool, cpuPeriod uint64) resources.Limits {
	return resources.OfPod(pod, enforceCPULimit, cpuPeriod, resourcehelper.PodResourcesOptions{
		ExcludeOverhead:       true,
		SkipPodLevelResources: !utilfeature.DefaultFeatureGate.Enabled(kubefeatures.PodLevelResources),
	})
}

func configOf(limits resources.Limits) *ResourceConfig {
	return &ResourceConfig{
		CPUShares: &limits.CPUShares,
		CPUQuota:  &limits.CPUQuota,
		CPUPeriod: &limits.CPUPeriod,
		Memory:    &limits.Memory,
	}
}

// GetCgroupSubsystems returns none.
func GetCgroupSubsystems() (*CgroupSubsystems, error) {
	return &CgroupSubsystems{}, nil
}

func getCgroupProcs(dir string) ([]int, error) {
	return nil, errNotSupported
}

// GetPodCgroupNameSuffix returns the last part of a pod's name.
func GetPodCgroupNameSuffix(podUID types.UID) string {
	return podNamePrefix + string(podUID)
}

// NodeAllocatableRoot returns the name of all pods.
func NodeAllocatableRoot(_ string, _ bool, _ string) string {
	return nodeName + podsName
}

// GetKubeletContainer returns no name: kubelet's own usage is not counted.
func GetKubeletContainer(logger klog.Logger, kubeletCgroups string) (string, error) {
	return "", nil
}

// CPURequestsFromConfig returns a pod's CPU request, nil when there is none.
func CPURequestsFromConfig(podConfig *ResourceConfig) *resource.Quantity {
	if podConfig == nil || podConfig.CPUShares == nil {
		return nil
	}
	return milli(resources.MilliOfShares(int64(*podConfig.CPUShares)))
}

// CPUSharesEqualAfterV2RoundTrip says whether two numbers of shares are the same: they are not converted on their way here.
func CPUSharesEqualAfterV2RoundTrip(allocatedShares, readbackShares uint64) bool {
	return allocatedShares == readbackShares
}

// CPULimitsFromConfig returns a pod's CPU limit, nil when there is none.
func CPULimitsFromConfig(podConfig *ResourceConfig) *resource.Quantity {
	if podConfig == nil || podConfig.CPUQuota == nil || podConfig.CPUPeriod == nil {
		return nil
	}
	return milli(resources.MilliOfQuota(*podConfig.CPUQuota, int64(*podConfig.CPUPeriod)))
}

// MemoryLimitsFromConfig returns a pod's memory limit, nil when there is none.
func MemoryLimitsFromConfig(podConfig *ResourceConfig) *resource.Quantity {
	if podConfig == nil || podConfig.Memory == nil || *podConfig.Memory <= 0 {
		return nil
	}
	return resource.NewQuantity(*podConfig.Memory, resource.BinarySI)
}

func milli(value int64) *resource.Quantity {
	if value <= 0 {
		return nil
	}
	return resource.NewMilliQuantity(value, resource.DecimalSI)
}
