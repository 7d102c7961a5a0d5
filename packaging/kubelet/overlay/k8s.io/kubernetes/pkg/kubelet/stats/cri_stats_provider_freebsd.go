//go:build freebsd

// Statistics of pods from the runtime alone (feature gate PodAndContainerStatsFromCRI). Upstream drops them all on other
// systems than Linux and Windows. A runtime for jails answers in the `linux` part of the CRI's PodSandboxStats.
//
//overlay:replaces cri_stats_provider_others.go

package stats

import (
	"fmt"
	"time"

	cadvisorapi "github.com/google/cadvisor/lib/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// listContainerNetworkStats is for Windows.
func (p *criStatsProvider) listContainerNetworkStats(klog.Logger) (map[string]*statsapi.NetworkStats, error) {
	return nil, nil
}

func at(nanoseconds int64) metav1.Time {
	return metav1.NewTime(time.Unix(0, nanoseconds))
}

func (p *criStatsProvider) addCRIPodContainerStats(
	logger klog.Logger,
	sandbox *runtimeapi.PodSandboxStats,
	ps *statsapi.PodStats,
	fsIDtoInfo map[string]*cadvisorapi.FsInfo,
	containers map[string]*runtimeapi.Container,
	podSandbox *runtimeapi.PodSandbox,
	rootFsInfo *cadvisorapi.FsInfo,
	updateCPUNanoCoreUsage bool) error {
	for _, stats := range sandbox.GetLinux().GetContainers() {
		container, found := containers[stats.GetAttributes().GetId()]
		if !found {
			continue
		}
		result, err := p.makeContainerStats(logger, stats, container, rootFsInfo, fsIDtoInfo, podSandbox.GetMetadata(), updateCPUNanoCoreUsage)
		if err != nil {
			return fmt.Errorf("container %s: %w", container.Id, err)
		}
		ps.Containers = append(ps.Containers, *result)
	}
	return nil
}

func (p *criStatsProvider) addCRIPodContainerCPUAndMemoryStats(
	sandbox *runtimeapi.PodSandboxStats,
	ps *statsapi.PodStats,
	containers map[string]*runtimeapi.Container) {
	for _, stats := range sandbox.GetLinux().GetContainers() {
		if container, found := containers[stats.GetAttributes().GetId()]; found {
			ps.Containers = append(ps.Containers, *p.makeContainerCPUAndMemoryStats(stats, time.Unix(0, container.CreatedAt), true))
		}
	}
}

func addCRIPodNetworkStats(ps *statsapi.PodStats, sandbox *runtimeapi.PodSandboxStats) {
	network := sandbox.GetLinux().GetNetwork()
	if network == nil {
		return
	}
	ps.Network = &statsapi.NetworkStats{Time: at(network.Timestamp)}
	if network.DefaultInterface != nil {
		ps.Network.InterfaceStats = criInterfaceToSummary(network.DefaultInterface)
	}
	for _, each := range network.Interfaces {
		ps.Network.Interfaces = append(ps.Network.Interfaces, criInterfaceToSummary(each))
	}
}

func addCRIPodMemoryStats(ps *statsapi.PodStats, sandbox *runtimeapi.PodSandboxStats) {
	memory := sandbox.GetLinux().GetMemory()
	if memory == nil {
		return
	}
	ps.Memory = &statsapi.MemoryStats{
		Time:            at(memory.Timestamp),
		AvailableBytes:  valueOfUInt64Value(memory.AvailableBytes),
		UsageBytes:      valueOfUInt64Value(memory.UsageBytes),
		WorkingSetBytes: valueOfUInt64Value(memory.WorkingSetBytes),
		RSSBytes:        valueOfUInt64Value(memory.RssBytes),
		PageFaults:      valueOfUInt64Value(memory.PageFaults),
		MajorPageFaults: valueOfUInt64Value(memory.MajorPageFaults),
	}
}

func addCRIPodCPUStats(ps *statsapi.PodStats, sandbox *runtimeapi.PodSandboxStats) {
	cpu := sandbox.GetLinux().GetCpu()
	if cpu == nil {
		return
	}
	ps.CPU = &statsapi.CPUStats{
		Time:                 at(cpu.Timestamp),
		UsageNanoCores:       valueOfUInt64Value(cpu.UsageNanoCores),
		UsageCoreNanoSeconds: valueOfUInt64Value(cpu.UsageCoreNanoSeconds),
	}
}

func addCRIPodProcessStats(ps *statsapi.PodStats, sandbox *runtimeapi.PodSandboxStats) {
	if process := sandbox.GetLinux().GetProcess(); process != nil {
		ps.ProcessStats = &statsapi.ProcessStats{ProcessCount: valueOfUInt64Value(process.ProcessCount)}
	}
}

// addCRIPodIOStats has nothing to add: the CRI's are Linux's pressure stalls only.
func addCRIPodIOStats(_ *statsapi.PodStats, _ *runtimeapi.PodSandboxStats) {
}
