// What each pod may have, in place of its cgroup. Kubelet compares it with what a pod should have to see a resize, and kills
// the running containers of a pod that has none when it starts; so it is kept in a file a pod, as a cgroup keeps it in the
// kernel. The runtime enforces it: kubelet tells it with the sandbox and with UpdatePodSandboxResources.

package cm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// podNamePrefix begins the last part of a pod's name.
const podNamePrefix = "pod"

type podLimits struct {
	directory string
	config    *NodeConfig
	mutex     sync.Mutex
}

var _ PodContainerManager = &podLimits{}

// podRecord is what a file holds.
type podRecord struct {
	CPUShares uint64 `json:"cpuShares"`
	CPUQuota  int64  `json:"cpuQuota"`
	CPUPeriod uint64 `json:"cpuPeriod"`
	Memory    int64  `json:"memory"`
}

func (r *podRecord) update(config *ResourceConfig) {
	if config.CPUShares != nil {
		r.CPUShares = *config.CPUShares
	}
	if config.CPUQuota != nil {
		r.CPUQuota = *config.CPUQuota
	}
	if config.CPUPeriod != nil {
		r.CPUPeriod = *config.CPUPeriod
	}
	if config.Memory != nil {
		r.Memory = *config.Memory
	}
}

func (m *podLimits) file(uid types.UID) string {
	return filepath.Join(m.directory, podNamePrefix+string(uid))
}

// GetPodContainerName returns a pod's name and how it is spelled. Runtimes get it as the parent cgroup, which jails have not.
func (m *podLimits) GetPodContainerName(pod *v1.Pod) (CgroupName, string) {
	name := CgroupName{podsName, GetPodCgroupNameSuffix(pod.UID)}
	return name, nodeName + path.Join(name...)
}

// IsPodCgroup returns the uid in a pod's spelled name.
func (m *podLimits) IsPodCgroup(spelled string) (bool, types.UID) {
	uid := podUIDOf(CgroupName(strings.Split(strings.TrimPrefix(spelled, nodeName), nodeName)))
	return uid != "", uid
}

func (m *podLimits) Exists(pod *v1.Pod) bool {
	_, err := os.Stat(m.file(pod.UID))
	return err == nil
}

// EnsureExists records what a new pod may have.
func (m *podLimits) EnsureExists(logger klog.Logger, pod *v1.Pod) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.Exists(pod) {
		return nil
	}
	var record podRecord
	period := uint64(m.config.CPUCFSQuotaPeriod / time.Microsecond)
	record.update(ResourceConfigForPod(pod, m.config.EnforceCPULimits, period, false, ""))
	return m.write(pod.UID, &record)
}

// write replaces a record as a whole.
func (m *podLimits) write(uid types.UID, record *podRecord) error {
	text, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(m.directory, 0o700); err != nil {
		return err
	}
	// The dot keeps it out of the list of pods.
	next := filepath.Join(m.directory, "."+string(uid))
	if err := os.WriteFile(next, text, 0o600); err != nil {
		return err
	}
	return os.Rename(next, m.file(uid))
}

func (m *podLimits) read(uid types.UID) (*podRecord, error) {
	text, err := os.ReadFile(m.file(uid))
	if err != nil {
		return nil, err
	}
	record := &podRecord{}
	if err := json.Unmarshal(text, record); err != nil {
		return nil, fmt.Errorf("%s: %w", m.file(uid), err)
	}
	return record, nil
}

// GetPodCgroupConfig returns all that a pod may have, whichever resource is asked for.
func (m *podLimits) GetPodCgroupConfig(pod *v1.Pod, _ v1.ResourceName) (*ResourceConfig, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	record, err := m.read(pod.UID)
	if err != nil {
		return nil, err
	}
	return &ResourceConfig{
		CPUShares: &record.CPUShares,
		CPUQuota:  &record.CPUQuota,
		CPUPeriod: &record.CPUPeriod,
		Memory:    &record.Memory,
	}, nil
}

// SetPodCgroupConfig records what the runtime has just been told.
func (m *podLimits) SetPodCgroupConfig(_ klog.Logger, pod *v1.Pod, config *ResourceConfig) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	record, err := m.read(pod.UID)
	if err != nil {
		return err
	}
	record.update(config)
	return m.write(pod.UID, record)
}

// Destroy forgets a pod. Idempotent. Its processes are the runtime's to end.
func (m *podLimits) Destroy(_ klog.Logger, name CgroupName) error {
	uid := podUIDOf(name)
	if uid == "" {
		return fmt.Errorf("%q is no name of a pod", name)
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if err := os.Remove(m.file(uid)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ReduceCPULimits has nothing to reduce: it is called for pods whose containers are gone.
func (m *podLimits) ReduceCPULimits(_ klog.Logger, _ CgroupName) error {
	return nil
}

// GetAllPodsFromCgroups returns the pods that are recorded.
func (m *podLimits) GetAllPodsFromCgroups(_ klog.Logger) (map[types.UID]CgroupName, error) {
	entries, err := os.ReadDir(m.directory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	found := map[types.UID]CgroupName{}
	for _, entry := range entries {
		name := CgroupName{podsName, entry.Name()}
		if uid := podUIDOf(name); uid != "" {
			found[uid] = name
		}
	}
	return found, nil
}

// GetPodCgroupMemoryUsage has no answer: the runtime counts.
func (m *podLimits) GetPodCgroupMemoryUsage(pod *v1.Pod) (uint64, error) {
	return 0, fmt.Errorf("memory of pod %s: %w", pod.UID, errNotSupported)
}
