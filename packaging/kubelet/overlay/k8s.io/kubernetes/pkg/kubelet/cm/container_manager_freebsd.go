//go:build freebsd

// The container manager: what the node has, what of it pods may have, and devices and processors given to containers.
// Upstream's for other systems fails when it is started. Rests on the overlay of cadvisor for the node's numbers; there are no
// cgroups to make, so what a container and a pod may have is told to the runtime, and all pods together are held to what is
// allocatable by kubelet's eviction alone.
//
//overlay:replaces container_manager_unsupported.go

package cm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apiserver/pkg/server/healthz"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	internalapi "k8s.io/cri-api/pkg/apis"
	"k8s.io/klog/v2"
	pluginwatcherapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/kubernetes/pkg/kubelet/cadvisor"
	"k8s.io/kubernetes/pkg/kubelet/cm/cpumanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/memorymanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/resourceupdates"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/config"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/pkg/kubelet/events"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager/cache"
	"k8s.io/kubernetes/pkg/kubelet/status"
	kubetypes "k8s.io/kubernetes/pkg/kubelet/types"
	schedulerframework "k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/mount-utils"

	"cellblock/kubelet/resources"
)

// podLimitsDirectory holds what pods may have, below kubelet's root directory.
const podLimitsDirectory = "pod-limits"

type containerManagerImpl struct {
	// What it has no answer of its own for (cgroups, dynamic resources, memory affinity), the stub has.
	containerManagerStub
	mutex           sync.RWMutex
	nodeConfig      NodeConfig
	cadvisor        cadvisor.Interface
	capacity        v1.ResourceList
	cpuManager      cpumanager.Manager
	memoryManager   memorymanager.Manager
	deviceManager   devicemanager.Manager
	topologyManager topologymanager.Manager
	pods            *podLimits
}

var _ ContainerManager = &containerManagerImpl{}

// NewContainerManager refuses a configuration that FreeBSD cannot follow: nothing of it is ignored in silence.
func NewContainerManager(ctx context.Context, _ mount.Interface, cadvisorInterface cadvisor.Interface, nodeConfig NodeConfig, failSwapOn bool, recorder record.EventRecorder, _ clientset.Interface) (ContainerManager, error) {
	logger := klog.FromContext(ctx)
	if err := supported(&nodeConfig); err != nil {
		return nil, err
	}
	machine, err := cadvisorInterface.MachineInfo(logger)
	if err != nil {
		return nil, err
	}
	if machine.SwapCapacity > 0 {
		if failSwapOn {
			return nil, errors.New("running with swap on is not supported, please disable swap (swapoff(8)) or set failSwapOn to false")
		}
		recorder.Event(&v1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: string(nodeConfig.NodeName)},
			v1.EventTypeWarning, events.PossibleMemoryBackedVolumesOnDisk,
			"tmpfs may be swapped out on FreeBSD: secrets and memory-backed volumes may reach the disk")
	}
	cm := &containerManagerImpl{
		nodeConfig: nodeConfig,
		cadvisor:   cadvisorInterface,
		capacity:   cadvisor.CapacityFromMachineInfo(machine),
		// A runtime cannot tie a jail's memory to a domain: the policy is None.
		memoryManager: memorymanager.NewFakeManager(logger),
	}
	cm.pods = &podLimits{
		store:  resources.Store{Directory: filepath.Join(nodeConfig.KubeletRootDir, podLimitsDirectory)},
		config: &cm.nodeConfig,
	}
	cm.topologyManager, err = topologymanager.NewManager(logger, machine.Topology, nodeConfig.TopologyManagerPolicy,
		nodeConfig.TopologyManagerScope, nodeConfig.TopologyManagerPolicyOptions)
	if err != nil {
		return nil, err
	}
	cm.deviceManager, err = devicemanager.NewManagerImpl(logger, machine.Topology, cm.topologyManager)
	if err != nil {
		return nil, err
	}
	cm.topologyManager.AddHintProvider(logger, cm.deviceManager)
	cm.cpuManager, err = cpumanager.NewManager(logger, nodeConfig.CPUManagerPolicy, nodeConfig.CPUManagerPolicyOptions,
		nodeConfig.CPUManagerReconcilePeriod, machine, nodeConfig.ReservedSystemCPUs, cm.GetNodeAllocatableReservation(),
		nodeConfig.KubeletRootDir, cm.topologyManager)
	if err != nil {
		return nil, err
	}
	cm.topologyManager.AddHintProvider(logger, cm.cpuManager)
	if nodeConfig.EnforceNodeAllocatable.Has(kubetypes.NodeAllocatableEnforcementKey) {
		allocatable := cm.GetNodeAllocatableAbsolute()
		cadvisor.SetPodsMemory(cadvisorInterface, uint64(allocatable.Memory().Value()))
	}
	return cm, nil
}

// supported refuses what there would have to be cgroups, or a field of the CRI, for.
func supported(config *NodeConfig) error {
	refuse := func(field string, value any, reason string) error {
		return fmt.Errorf("kubelet configuration %s: %v is not supported on FreeBSD: %s", field, value, reason)
	}
	switch {
	case !config.CgroupsPerQOS:
		return refuse("cgroupsPerQOS", false, "without it kubelet forgets what pods may have; leave it out")
	case config.PodPidsLimit > 0:
		return refuse("podPidsLimit", config.PodPidsLimit, "the CRI has no limit on processes")
	case config.MemoryManagerPolicy != "" && config.MemoryManagerPolicy != memoryPolicyNone:
		return refuse("memoryManagerPolicy", config.MemoryManagerPolicy, "a jail's memory cannot be tied to a domain")
	case len(config.QOSReserved) > 0:
		return refuse("qosReserved", config.QOSReserved, "there are no cgroups")
	}
	for key := range config.EnforceNodeAllocatable {
		if key != kubetypes.NodeAllocatableEnforcementKey && key != kubetypes.NodeAllocatableNoneKey {
			return refuse("enforceNodeAllocatable", key, "there are no cgroups of the system's own processes")
		}
	}
	return nil
}

// memoryPolicyNone is the memory manager's policy that ties nothing to anything.
const memoryPolicyNone = "None"

func (cm *containerManagerImpl) Start(ctx context.Context, _ *v1.Node, activePods ActivePodsFunc, _ GetNodeFunc, sourcesReady config.SourcesReady, podStatusProvider status.PodStatusProvider, runtimeService internalapi.RuntimeService, localStorageCapacityIsolation bool) error {
	logger := klog.FromContext(ctx)
	containers, running := buildContainerMapAndRunningSetFromRuntime(ctx, runtimeService)
	if err := cm.cpuManager.Start(ctx, cpumanager.ActivePodsFunc(activePods), sourcesReady, podStatusProvider, runtimeService, containers.Clone()); err != nil {
		return fmt.Errorf("start cpu manager error: %w", err)
	}
	if localStorageCapacityIsolation {
		if err := cm.addStorage(); err != nil {
			return err
		}
	}
	if err := cm.checkReservation(); err != nil {
		return err
	}
	return cm.deviceManager.Start(logger, devicemanager.ActivePodsFunc(activePods), sourcesReady, containers.Clone(), running)
}

// addStorage adds the file system of kubelet's root directory to the capacity.
func (cm *containerManagerImpl) addStorage() error {
	root, err := cm.cadvisor.RootFsInfo()
	if err != nil {
		return fmt.Errorf("failed to get rootfs info: %w", err)
	}
	cm.mutex.Lock()
	defer cm.mutex.Unlock()
	capacity := maps.Clone(cm.capacity)
	maps.Copy(capacity, cadvisor.EphemeralStorageCapacityFromFsInfo(root))
	cm.capacity = capacity
	return nil
}

// checkReservation refuses to keep more from pods than there is.
func (cm *containerManagerImpl) checkReservation() error {
	capacity := cm.currentCapacity()
	for name, reserved := range cm.GetNodeAllocatableReservation() {
		if has := capacity[name]; reserved.Cmp(has) > 0 {
			return fmt.Errorf("invalid Node Allocatable configuration: %v of %s is reserved, and the node has %v", reserved.String(), name, has.String())
		}
	}
	return nil
}

// currentCapacity returns a list that nobody changes any more.
func (cm *containerManagerImpl) currentCapacity() v1.ResourceList {
	cm.mutex.RLock()
	defer cm.mutex.RUnlock()
	return cm.capacity
}

func (cm *containerManagerImpl) GetNodeConfig() NodeConfig {
	return cm.nodeConfig
}

// GetCapacity is asked before Start too, when the node is registered.
func (cm *containerManagerImpl) GetCapacity(logger klog.Logger, localStorageCapacityIsolation bool) v1.ResourceList {
	if _, known := cm.currentCapacity()[v1.ResourceEphemeralStorage]; localStorageCapacityIsolation && !known {
		if err := cm.addStorage(); err != nil {
			logger.Error(err, "Unable to get the capacity of ephemeral storage")
		}
	}
	return cm.currentCapacity()
}

// GetNodeAllocatableReservation returns what pods do not get: what is reserved and what hard eviction keeps free.
func (cm *containerManagerImpl) GetNodeAllocatableReservation() v1.ResourceList {
	capacity := cm.currentCapacity()
	evicted := hardEvictionReservation(cm.nodeConfig.HardEvictionThresholds, capacity)
	result := v1.ResourceList{}
	for name := range capacity {
		sum := resource.NewQuantity(0, resource.DecimalSI)
		for _, part := range []v1.ResourceList{cm.nodeConfig.SystemReserved, cm.nodeConfig.KubeReserved, evicted} {
			sum.Add(part[name])
		}
		if !sum.IsZero() {
			result[name] = *sum
		}
	}
	return result
}

// GetNodeAllocatableAbsolute returns what all pods may use before eviction begins.
func (cm *containerManagerImpl) GetNodeAllocatableAbsolute() v1.ResourceList {
	result := v1.ResourceList{}
	for name, value := range cm.currentCapacity() {
		value = value.DeepCopy()
		value.Sub(cm.nodeConfig.SystemReserved[name])
		value.Sub(cm.nodeConfig.KubeReserved[name])
		if value.Sign() < 0 {
			value.Set(0)
		}
		result[name] = value
	}
	return result
}

func (cm *containerManagerImpl) NewPodContainerManager() PodContainerManager {
	return cm.pods
}

// GetPodCgroupRoot returns the name that the statistics of all pods are found by.
func (cm *containerManagerImpl) GetPodCgroupRoot() string {
	return nodeName + podsName
}

func (cm *containerManagerImpl) InternalContainerLifecycle(_ klog.Logger) InternalContainerLifecycle {
	return &internalContainerLifecycleImpl{cm.cpuManager, cm.memoryManager, cm.topologyManager}
}

func (cm *containerManagerImpl) GetAllocateResourcesPodAdmitHandler(_ klog.Logger) lifecycle.PodAdmitHandler {
	return cm.topologyManager
}

func (cm *containerManagerImpl) GetPluginRegistrationHandlers() map[string]cache.PluginHandler {
	return map[string]cache.PluginHandler{pluginwatcherapi.DevicePlugin: cm.deviceManager.GetWatcherHandler()}
}

func (cm *containerManagerImpl) GetHealthCheckers() []healthz.HealthChecker {
	return []healthz.HealthChecker{cm.deviceManager.GetHealthChecker()}
}

func (cm *containerManagerImpl) GetDevicePluginResourceCapacity(logger klog.Logger) (v1.ResourceList, v1.ResourceList, []string) {
	return cm.deviceManager.GetCapacity(logger)
}

func (cm *containerManagerImpl) GetResources(ctx context.Context, pod *v1.Pod, container *v1.Container) (*kubecontainer.RunContainerOptions, error) {
	options := &kubecontainer.RunContainerOptions{}
	devices, err := cm.deviceManager.GetDeviceRunContainerOptions(ctx, pod, container)
	if err != nil || devices == nil {
		return options, err
	}
	options.Devices = devices.Devices
	options.Mounts = devices.Mounts
	options.Envs = devices.Envs
	options.Annotations = devices.Annotations
	options.CDIDevices = devices.CDIDevices
	return options, nil
}

func (cm *containerManagerImpl) UpdatePluginResources(node *schedulerframework.NodeInfo, attrs *lifecycle.PodAdmitAttributes) error {
	return cm.deviceManager.UpdatePluginResources(node, attrs)
}

func (cm *containerManagerImpl) UpdateAllocatedDevices(logger klog.Logger) {
	cm.deviceManager.UpdateAllocatedDevices(logger)
}

func (cm *containerManagerImpl) UpdateAllocatedResourcesStatus(logger klog.Logger, pod *v1.Pod, status *v1.PodStatus) {
	cm.deviceManager.UpdateAllocatedResourcesStatus(logger, pod, status)
}

func (cm *containerManagerImpl) Updates() <-chan resourceupdates.Update {
	return cm.deviceManager.Updates()
}

func (cm *containerManagerImpl) ShouldResetExtendedResourceCapacity() bool {
	return cm.deviceManager.ShouldResetExtendedResourceCapacity()
}

func (cm *containerManagerImpl) GetDevices(podUID, containerName string) []*podresourcesapi.ContainerDevices {
	return containerDevicesFromResourceDeviceInstances(cm.deviceManager.GetDevices(podUID, containerName))
}

func (cm *containerManagerImpl) GetAllocatableDevices(logger klog.Logger) []*podresourcesapi.ContainerDevices {
	return containerDevicesFromResourceDeviceInstances(cm.deviceManager.GetAllocatableDevices(logger))
}

func (cm *containerManagerImpl) GetCPUs(pod *v1.Pod, container *v1.Container) []int64 {
	return int64Slice(cm.cpuManager.GetExclusiveCPUs(string(pod.UID), container.Name).UnsortedList())
}

func (cm *containerManagerImpl) GetAllocatableCPUs() []int64 {
	return int64Slice(cm.cpuManager.GetAllocatableCPUs().UnsortedList())
}

func (cm *containerManagerImpl) PodHasExclusiveCPUs(logger klog.Logger, pod *v1.Pod) bool {
	return podHasExclusiveCPUs(logger, cm.cpuManager, pod)
}

func (cm *containerManagerImpl) ContainerHasExclusiveCPUs(logger klog.Logger, pod *v1.Pod, container *v1.Container) bool {
	return containerHasExclusiveCPUs(logger, cm.cpuManager, pod, container)
}

// PrepareDynamicResources refuses claims: they become CDI devices, which jails do not have.
func (cm *containerManagerImpl) PrepareDynamicResources(_ context.Context, pod *v1.Pod) error {
	if len(pod.Spec.ResourceClaims) == 0 {
		return nil
	}
	names := []string{}
	for _, claim := range pod.Spec.ResourceClaims {
		names = append(names, claim.Name)
	}
	return fmt.Errorf("resource claims %s: dynamic resources are not supported on FreeBSD", strings.Join(names, ", "))
}
