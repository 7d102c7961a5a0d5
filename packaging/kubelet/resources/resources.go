// Package resources turns the requests and limits of pods and containers into the numbers of the CRI and back. FreeBSD has no
// cgroups; a runtime for jails takes the same numbers (a quota becomes rctl's pcpu), so the arithmetic is that of the CRI's
// LinuxContainerResources (cri-api, api.proto): shares of 1024 a CPU, a quota in microseconds of a period.
package resources

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helper "k8s.io/component-helpers/resource"
)

// Bounds that the API of Kubernetes knows of Linux's scheduler; kubelet rounds what it reports by them.
const (
	MinShares     = 2
	MaxShares     = 262144
	SharesPerCPU  = 1024
	MilliPerCPU   = 1000
	QuotaPeriod   = 100000
	MinQuota      = 1000
	MinMilliLimit = MinQuota * MilliPerCPU / QuotaPeriod
	// NoLimit stands for no limit in a quota, and in a pod's memory.
	NoLimit = -1
)

// Limits are the numbers of the CRI.
type Limits struct {
	CPUShares uint64 `json:"cpuShares"`
	// CPUQuota is in microseconds of each CPUPeriod; NoLimit without a limit.
	CPUQuota  int64  `json:"cpuQuota"`
	CPUPeriod uint64 `json:"cpuPeriod"`
	// Memory is in bytes; NoLimit without a limit.
	Memory int64 `json:"memory"`
}

// Shares turns thousandths of a CPU into shares.
func Shares(milli int64) uint64 {
	return uint64(min(max(milli*SharesPerCPU/MilliPerCPU, MinShares), MaxShares))
}

// MilliOfShares is the reverse, rounded up; 0 when nothing was requested.
func MilliOfShares(shares int64) int64 {
	if shares < MinShares {
		return 0
	}
	return (shares*MilliPerCPU + SharesPerCPU - 1) / SharesPerCPU
}

// Quota turns thousandths of a CPU into microseconds of a period; 0 is no limit.
func Quota(milli, period int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*period/MilliPerCPU, MinQuota)
}

// MilliOfQuota is the reverse; 0 when there is no limit.
func MilliOfQuota(quota, period int64) int64 {
	if quota <= 0 || period <= 0 {
		return 0
	}
	return quota * MilliPerCPU / period
}

// OfPod returns what all containers of a pod may have together. A sum of limits limits only when every container has one.
func OfPod(pod *v1.Pod, enforceCPU bool, period uint64, options helper.PodResourcesOptions) Limits {
	requests, limits := helper.PodRequests(pod, options), helper.PodLimits(pod, options)
	result := Limits{
		CPUShares: Shares(requests.Cpu().MilliValue()), CPUQuota: NoLimit, CPUPeriod: period, Memory: NoLimit,
	}
	if enforceCPU && limited(pod, v1.ResourceCPU, options) {
		result.CPUQuota = Quota(limits.Cpu().MilliValue(), int64(period))
	}
	if limited(pod, v1.ResourceMemory, options) {
		result.Memory = limits.Memory().Value()
	}
	return result
}

// limited says whether the pod itself or each of its containers has a limit on a resource.
func limited(pod *v1.Pod, name v1.ResourceName, options helper.PodResourcesOptions) bool {
	if !options.SkipPodLevelResources && pod.Spec.Resources != nil && has(pod.Spec.Resources.Limits, name) {
		return true
	}
	for _, containers := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if !has(containers[i].Resources.Limits, name) {
				return false
			}
		}
	}
	return len(pod.Spec.Containers) > 0
}

func has(list v1.ResourceList, name v1.ResourceName) bool {
	quantity, ok := list[name]
	return ok && !quantity.IsZero()
}

// OfContainer returns what one container may have. Without a limit of its own it has the pod's; without a request its
// request is its limit. CPUQuota and Memory are 0 without a limit: the CRI's "not set".
func OfContainer(pod *v1.Pod, container *v1.Container, enforceCPU bool, period uint64, podLevel bool) Limits {
	cpu, memory := limitOf(pod, container, v1.ResourceCPU, podLevel), limitOf(pod, container, v1.ResourceMemory, podLevel)
	request := cpu
	if requested, ok := container.Resources.Requests[v1.ResourceCPU]; ok {
		request = requested
	}
	result := Limits{CPUShares: Shares(request.MilliValue()), Memory: memory.Value()}
	if enforceCPU {
		result.CPUPeriod = period
		result.CPUQuota = Quota(cpu.MilliValue(), int64(period))
	}
	return result
}

func limitOf(pod *v1.Pod, container *v1.Container, name v1.ResourceName, podLevel bool) resource.Quantity {
	if podLevel && pod.Spec.Resources != nil && !has(container.Resources.Limits, name) {
		return pod.Spec.Resources.Limits[name]
	}
	return container.Resources.Limits[name]
}
