//go:build freebsd

// The machine and its usage. Upstream's for other systems answers everything with an error, and kubelet does not start. Rests
// on sysctls and statfs(2) for the node, and on the runtime's statistics for pods (overlay file runtime_freebsd.go), under the
// names that the overlay of the container manager gives them: "/", "/kubepods" and "/kubepods/pod" with the pod's uid.
//
//overlay:replaces cadvisor_unsupported.go

package cadvisor

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	cadvisormemory "github.com/google/cadvisor/lib/cache/memory"
	cadvisorapi "github.com/google/cadvisor/lib/model"
	"k8s.io/klog/v2"

	"cellblock/kubelet/freebsd"
)

const (
	nodeName  = "/"
	podsName  = "/kubepods"
	podPrefix = podsName + "/pod"
)

type client struct {
	rootPath string
	machine  freebsd.Machine
	booted   time.Time
	runtime  *runtime

	mutex sync.Mutex
	// podsMemory is what all pods may have, in bytes.
	podsMemory uint64
	podsCPU    freebsd.Sum
	// rates are those of the node, of all pods and of each pod, by name.
	rates map[string]*freebsd.Rate
}

var _ Interface = &client{}

// New reads the machine. provider is that of NewImageFsInfoProvider, which knows the runtime.
func New(_ klog.Logger, provider ImageFsInfoProvider, rootPath string, _ []string, _, _, _ bool) (Interface, error) {
	if err := os.MkdirAll(rootPath, 0o750); err != nil {
		return nil, fmt.Errorf("cannot create the root directory: %w", err)
	}
	machine, err := freebsd.ReadMachine()
	if err != nil {
		return nil, err
	}
	booted, err := freebsd.BootTime()
	if err != nil {
		return nil, err
	}
	runtime, ok := provider.(*runtime)
	if !ok {
		return nil, fmt.Errorf("a provider %T is not of this package", provider)
	}
	return &client{
		rootPath: rootPath, machine: machine, booted: booted, runtime: runtime,
		podsMemory: machine.Memory, rates: map[string]*freebsd.Rate{},
	}, nil
}

// SetPodsMemory says what all pods may have, in bytes: kubelet evicts pods when they have more. Without it, it is all of the
// machine's memory.
func SetPodsMemory(of Interface, bytes uint64) {
	if c, ok := of.(*client); ok {
		c.mutex.Lock()
		defer c.mutex.Unlock()
		c.podsMemory = bytes
	}
}

// Start has nothing to start: everything is read when it is asked for.
func (c *client) Start() error {
	return nil
}

func (c *client) MachineInfo(_ klog.Logger) (*cadvisorapi.MachineInfo, error) {
	m := c.machine
	// The kernel has no identity of domains that a runtime could use: one node holds all.
	node := cadvisorapi.Node{Memory: m.Memory}
	for id, threads := range m.Threads() {
		node.Cores = append(node.Cores, cadvisorapi.Core{Id: id, Threads: threads})
	}
	return &cadvisorapi.MachineInfo{
		Timestamp: time.Now(),
		NumCores:  m.CPUs, NumPhysicalCores: len(node.Cores), NumSockets: 1,
		CpuFrequency:   uint64(m.MHz) * 1000,
		MemoryCapacity: m.Memory, SwapCapacity: m.Swap,
		MachineID: strings.ReplaceAll(m.HostUUID, "-", ""), SystemUUID: m.HostUUID, BootID: m.BootID,
		Topology: []cadvisorapi.Node{node},
	}, nil
}

func (c *client) VersionInfo() (*cadvisorapi.VersionInfo, error) {
	return &cadvisorapi.VersionInfo{
		KernelVersion:      c.machine.Release,
		ContainerOsVersion: "FreeBSD " + c.machine.Release,
	}, nil
}

// ContainerInfoV2 returns the node, all pods, or one pod; from the node down with Recursive.
func (c *client) ContainerInfoV2(name string, options cadvisorapi.RequestOptions) (map[string]cadvisorapi.ContainerInfo, error) {
	infos := map[string]cadvisorapi.ContainerInfo{}
	if name == nodeName {
		node, err := c.nodeInfo()
		if err != nil {
			return nil, err
		}
		infos[nodeName] = node
		if !options.Recursive {
			return infos, nil
		}
	}
	pods, err := c.runtime.pods(options.MaxAge)
	if err != nil {
		// kubelet logs it and goes on with the node.
		return infos, fmt.Errorf("no statistics of pods: %w", err)
	}
	all := name == nodeName || name == podsName
	if all {
		infos[podsName] = c.podsInfo(pods)
	}
	for _, pod := range pods {
		if own := podPrefix + pod.UID; name == own || all && options.Recursive {
			c.addPod(infos, own, pod)
		}
	}
	if _, found := infos[name]; !found {
		return nil, fmt.Errorf("no statistics of %s: %w", name, cadvisormemory.ErrDataNotFound)
	}
	return infos, nil
}

// GetRequestedContainersInfo is what /metrics/cadvisor is made of.
func (c *client) GetRequestedContainersInfo(name string, options cadvisorapi.RequestOptions) (map[string]*cadvisorapi.ContainerInfo, error) {
	infos, err := c.ContainerInfoV2(name, options)
	result := make(map[string]*cadvisorapi.ContainerInfo, len(infos))
	for name, info := range infos {
		result[name] = &info
	}
	return result, err
}

func (c *client) nodeInfo() (cadvisorapi.ContainerInfo, error) {
	pages, err := freebsd.ReadPages()
	if err != nil {
		return cadvisorapi.ContainerInfo{}, err
	}
	cpu, err := freebsd.ReadCPU()
	if err != nil {
		return cadvisorapi.ContainerInfo{}, err
	}
	swap, err := freebsd.SwapUsed()
	if err != nil {
		return cadvisorapi.ContainerInfo{}, err
	}
	faults, majorFaults, err := freebsd.Faults()
	if err != nil {
		return cadvisorapi.ContainerInfo{}, err
	}
	interfaces, err := freebsd.Interfaces()
	if err != nil {
		return cadvisorapi.ContainerInfo{}, err
	}
	now, memory := time.Now(), pages.Memory()
	info := c.info(nodeName, now, uint64(cpu.Total()))
	info.Spec.CreationTime = c.booted
	info.Spec.HasNetwork = true
	info.Spec.Memory = cadvisorapi.MemorySpec{Limit: c.machine.Memory, SwapLimit: c.machine.Swap}
	stats := info.Stats[0]
	stats.Cpu.Usage.User, stats.Cpu.Usage.System = uint64(cpu.User), uint64(cpu.System)
	stats.Memory = &cadvisorapi.MemoryStats{
		Usage: memory.Used, WorkingSet: memory.WorkingSet, RSS: memory.Resident, Swap: swap,
		ContainerData: cadvisorapi.MemoryStatsMemoryData{Pgfault: faults, Pgmajfault: majorFaults},
	}
	stats.Network = networkOf(interfaces)
	return info, nil
}

// info returns an entry with a reading of CPU time and what it comes to a second.
func (c *client) info(name string, now time.Time, cpu uint64) cadvisorapi.ContainerInfo {
	c.mutex.Lock()
	rate := c.rates[name]
	if rate == nil {
		rate = &freebsd.Rate{}
		c.rates[name] = rate
	}
	nanocores := rate.Update(now, cpu)
	c.mutex.Unlock()
	stats := &cadvisorapi.ContainerStats{
		Timestamp: now,
		Cpu:       &cadvisorapi.CpuStats{Usage: cadvisorapi.CpuUsage{Total: cpu}},
		Memory:    &cadvisorapi.MemoryStats{},
	}
	if nanocores != nil {
		stats.CpuInst = &cadvisorapi.CpuInstStats{Usage: cadvisorapi.CpuInstUsage{Total: *nanocores}}
	}
	return cadvisorapi.ContainerInfo{
		ContainerReference: cadvisorapi.ContainerReference{Name: name},
		Spec:               cadvisorapi.ContainerSpec{HasCpu: true, HasMemory: true},
		Stats:              []*cadvisorapi.ContainerStats{stats},
	}
}

// podsInfo sums all pods up.
func (c *client) podsInfo(pods []pod) cadvisorapi.ContainerInfo {
	counters := map[string]uint64{}
	memory := &cadvisorapi.MemoryStats{}
	for _, pod := range pods {
		counters[pod.Sandbox] = pod.CPU
		memory.Usage += pod.Memory
		memory.WorkingSet += pod.WorkingSet
		memory.RSS += pod.Resident
	}
	c.mutex.Lock()
	total, limit := c.podsCPU.Update(counters), c.podsMemory
	c.forget(pods)
	c.mutex.Unlock()
	info := c.info(podsName, time.Now(), total)
	info.Spec.CreationTime = c.booted
	// Less than the working set would be a number below 0, which the API does not have.
	info.Spec.Memory = cadvisorapi.MemorySpec{Limit: max(limit, memory.WorkingSet)}
	info.Stats[0].Memory = memory
	return info
}

// forget drops the rates of pods that are gone. The mutex is held.
func (c *client) forget(pods []pod) {
	present := map[string]bool{nodeName: true, podsName: true}
	for _, pod := range pods {
		present[podPrefix+pod.UID] = true
	}
	for name := range c.rates {
		if !present[name] {
			delete(c.rates, name)
		}
	}
}

// unlimited is what kubelet takes for no limit on memory.
const unlimited = ^uint64(0)

// addPod adds a pod and, below it, its network, which kubelet looks for at the sandbox with the pod's labels.
func (c *client) addPod(infos map[string]cadvisorapi.ContainerInfo, name string, pod pod) {
	info := c.info(name, time.Now(), pod.CPU)
	info.Spec.CreationTime = pod.Created
	info.Spec.Memory = cadvisorapi.MemorySpec{Limit: unlimited, SwapLimit: unlimited}
	info.Stats[0].Memory = &cadvisorapi.MemoryStats{Usage: pod.Memory, WorkingSet: pod.WorkingSet, RSS: pod.Resident}
	infos[name] = info
	if len(pod.Network) == 0 {
		return
	}
	sandbox := name + "/" + pod.Sandbox
	infos[sandbox] = cadvisorapi.ContainerInfo{
		ContainerReference: cadvisorapi.ContainerReference{Name: sandbox},
		Spec:               cadvisorapi.ContainerSpec{CreationTime: pod.Created, Labels: pod.Labels, HasNetwork: true},
		Stats:              []*cadvisorapi.ContainerStats{{Timestamp: info.Stats[0].Timestamp, Network: networkOf(pod.Network)}},
	}
}

func networkOf(interfaces []freebsd.Interface) *cadvisorapi.NetworkStats {
	network := &cadvisorapi.NetworkStats{}
	for _, i := range interfaces {
		network.Interfaces = append(network.Interfaces, cadvisorapi.InterfaceStats{
			Name:    i.Name,
			RxBytes: i.RxBytes, RxPackets: i.RxPackets, RxErrors: i.RxErrors, RxDropped: i.RxDropped,
			TxBytes: i.TxBytes, TxPackets: i.TxPackets, TxErrors: i.TxErrors,
		})
	}
	return network
}

func (c *client) RootFsInfo() (cadvisorapi.FsInfo, error) {
	return c.GetDirFsInfo(c.rootPath)
}

func (c *client) ImagesFsInfo(ctx context.Context) (cadvisorapi.FsInfo, error) {
	images, _, err := c.runtime.paths(ctx)
	if err != nil {
		return cadvisorapi.FsInfo{}, err
	}
	return c.GetDirFsInfo(images)
}

// ContainerFsInfo returns the file system of containers' roots. Kubelet knows it to be that of the images or that of the node:
// a third one, another dataset of the images' pool, goes by the images' name.
func (c *client) ContainerFsInfo(ctx context.Context) (cadvisorapi.FsInfo, error) {
	images, containers, err := c.runtime.paths(ctx)
	if err != nil {
		return cadvisorapi.FsInfo{}, err
	}
	found, err := c.GetDirFsInfo(containers)
	if err != nil {
		return cadvisorapi.FsInfo{}, err
	}
	root, err := c.RootFsInfo()
	if err != nil || found.Device == root.Device {
		return found, err
	}
	imagesFs, err := c.GetDirFsInfo(images)
	found.Device = imagesFs.Device
	return found, err
}

// GetDirFsInfo returns the file system that a path lies on. A dataset's numbers are its own: quotas count.
func (c *client) GetDirFsInfo(path string) (cadvisorapi.FsInfo, error) {
	space, err := freebsd.SpaceOf(path)
	if err != nil {
		return cadvisorapi.FsInfo{}, err
	}
	return cadvisorapi.FsInfo{
		Timestamp: time.Now(),
		Device:    space.From, Mountpoint: space.On,
		Capacity: space.Capacity, Available: space.Available, Usage: space.Capacity - space.Free,
		Inodes: &space.Inodes, InodesFree: &space.InodesFree,
	}, nil
}

// IsPsiEnabled is false: FreeBSD does not count stalls.
func IsPsiEnabled(_ klog.Logger) bool {
	return false
}
