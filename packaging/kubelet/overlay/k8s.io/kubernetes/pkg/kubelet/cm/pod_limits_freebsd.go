// What each pod may have, in place of its cgroup. Kubelet compares it with what a pod should have to see a resize, and kills
// the running containers of a pod that has none when it starts; so it is kept in files (cellblock/kubelet/resources). The
// runtime enforces it: kubelet tells it with the sandbox and with UpdatePodSandboxResources.

package cm

import (
	"fmt"
	"path"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"cellblock/kubelet/resources"
)

// podNamePrefix begins the last part of a pod's name.
const podNamePrefix = "pod"

type podLimits struct {
	store  resources.Store
	config *NodeConfig
}

var _ PodContainerManager = &podLimits{}

// GetPodContainerName returns a pod's name and how it is spelled. Runtimes get it as the parent cgroup, which jails have not.
func (m *podLimits) GetPodContainerName(pod *v1.Pod) (CgroupName, string) {
	name := CgroupName{podsName, GetPodCgroupNameSuffix(pod.UID)}
	return name, nodeName + path.Join(name...)
}

// podUIDOf returns the uid in a pod's name, empty when it is none.
func podUIDOf(name CgroupName) string {
	if len(name) != 2 || name[0] != podsName || !strings.HasPrefix(name[1], podNamePrefix) {
		return ""
	}
	return strings.TrimPrefix(name[1], podNamePrefix)
}

// IsPodCgroup returns the uid in a pod's spelled name.
func (m *podLimits) IsPodCgroup(spelled string) (bool, types.UID) {
	uid := podUIDOf(strings.Split(strings.TrimPrefix(spelled, nodeName), nodeName))
	return uid != "", types.UID(uid)
}

func (m *podLimits) Exists(pod *v1.Pod) bool {
	return m.store.Has(string(pod.UID))
}

// EnsureExists records what a new pod may have.
func (m *podLimits) EnsureExists(_ klog.Logger, pod *v1.Pod) error {
	period := uint64(m.config.CPUCFSQuotaPeriod / time.Microsecond)
	return m.store.Add(string(pod.UID), limitsForPod(pod, m.config.EnforceCPULimits, period))
}

// GetPodCgroupConfig returns all that a pod may have, whichever resource is asked for.
func (m *podLimits) GetPodCgroupConfig(pod *v1.Pod, _ v1.ResourceName) (*ResourceConfig, error) {
	limits, err := m.store.Get(string(pod.UID))
	if err != nil {
		return nil, err
	}
	return configOf(limits), nil
}

// SetPodCgroupConfig records what the runtime has just been told.
func (m *podLimits) SetPodCgroupConfig(_ klog.Logger, pod *v1.Pod, config *ResourceConfig) error {
	return m.store.Change(string(pod.UID), func(limits *resources.Limits) {
		if config.CPUShares != nil {
			limits.CPUShares = *config.CPUShares
		}
		if config.CPUQuota != nil {
			limits.CPUQuota = *config.CPUQuota
		}
		if config.CPUPeriod != nil {
			limits.CPUPeriod = *config.CPUPeriod
		}
		if config.Memory != nil {
			limits.Memory = *config.Memory
		}
	})
}

// Destroy forgets a pod. Idempotent. Its processes are the runtime's to end.
func (m *podLimits) Destroy(_ klog.Logger, name CgroupName) error {
	return m.store.Remove(podUIDOf(name))
}

// ReduceCPULimits has nothing to reduce: it is called for pods whose containers are gone.
func (m *podLimits) ReduceCPULimits(_ klog.Logger, _ CgroupName) error {
	return nil
}

// GetAllPodsFromCgroups returns the pods that are recorded.
func (m *podLimits) GetAllPodsFromCgroups(_ klog.Logger) (map[types.UID]CgroupName, error) {
	uids, err := m.store.List()
	if err != nil {
		return nil, err
	}
	found := map[types.UID]CgroupName{}
	for _, uid := range uids {
		found[types.UID(uid)] = CgroupName{podsName, GetPodCgroupNameSuffix(types.UID(uid))}
	}
	return found, nil
}

// GetPodCgroupMemoryUsage has no answer: the runtime counts.
func (m *podLimits) GetPodCgroupMemoryUsage(pod *v1.Pod) (uint64, error) {
	return 0, fmt.Errorf("memory of pod %s: %w", pod.UID, errNotSupported)
}
