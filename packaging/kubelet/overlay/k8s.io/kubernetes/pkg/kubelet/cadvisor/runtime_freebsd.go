//go:build freebsd

// What only the runtime knows: what each pod uses, and where images and containers' roots are (a ZFS dataset, mounted
// anywhere). Upstream's cAdvisor finds both in Linux's cgroups and mounts. Rests on the CRI's ListPodSandboxStats and
// ImageFsInfo.
//
//overlay:replaces helpers_unsupported.go

package cadvisor

import (
	"context"
	"errors"
	"sync"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
	"k8s.io/klog/v2"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"cellblock/kubelet/freebsd"
)

const (
	// callTimeout is how long the runtime may take for an answer: kubelet's loop of evictions waits for it.
	callTimeout = 10 * time.Second
	// statsAge is how old statistics may be: one round of kubelet's asks for them four times.
	statsAge = 2 * time.Second
	// statsStale is how old they may be when the runtime does not answer: without the container "pods" kubelet knows nothing of
	// what pods may still have, and logs an error at each round.
	statsStale = time.Minute
)

// runtime is a client of the runtime, connected when it is first asked.
type runtime struct {
	endpoint string

	mutex   sync.Mutex
	service internalapi.RuntimeService
	images  internalapi.ImageManagerService

	known freebsd.Kept[[]pod]
}

// pod is what a pod uses: nanoseconds of CPU since it began, and bytes.
type pod struct {
	UID, Sandbox                 string
	Labels                       map[string]string
	Created                      time.Time
	CPU                          uint64
	Memory, WorkingSet, Resident uint64
	Network                      []freebsd.Interface
}

// NewImageFsInfoProvider returns what New takes.
func NewImageFsInfoProvider(runtimeEndpoint string) ImageFsInfoProvider {
	return &runtime{endpoint: runtimeEndpoint}
}

// ImageFsInfoLabel has no answer: labels are cAdvisor's own.
func (r *runtime) ImageFsInfoLabel() (string, error) {
	return "", errors.New("file systems have no labels on FreeBSD")
}

// ContainerFsInfoLabel has none either.
func (r *runtime) ContainerFsInfoLabel() (string, error) {
	return r.ImageFsInfoLabel()
}

// connect makes the clients. The mutex is held.
func (r *runtime) connect(ctx context.Context) error {
	if r.service == nil {
		service, err := remote.NewRemoteRuntimeServiceBuilder().WithEndpoint(r.endpoint).WithConnectionTimeout(callTimeout).Build(ctx)
		if err != nil {
			return err
		}
		r.service = service
	}
	if r.images == nil {
		images, err := remote.NewRemoteImageServiceBuilder().WithEndpoint(r.endpoint).WithConnectionTimeout(callTimeout).Build(ctx)
		if err != nil {
			return err
		}
		r.images = images
	}
	return nil
}

// pods returns what pods use; not older than maxAge, where that is given and the runtime answers.
func (r *runtime) pods(maxAge *time.Duration) ([]pod, error) {
	age := statsAge
	if maxAge != nil {
		age = min(age, *maxAge)
	}
	return r.known.Get(age, statsStale, func() ([]pod, error) {
		pods, err := r.listPods(context.Background())
		if err != nil {
			klog.Background().Error(err, "The runtime does not tell what pods use")
		}
		return pods, err
	})
}

func (r *runtime) listPods(ctx context.Context) ([]pod, error) {
	r.mutex.Lock()
	err := r.connect(ctx)
	service := r.service
	r.mutex.Unlock()
	if err != nil {
		return nil, err
	}
	all, err := service.ListPodSandboxStats(ctx, &runtimeapi.PodSandboxStatsFilter{})
	if err != nil {
		return nil, err
	}
	return podsOf(all), nil
}

func podsOf(all []*runtimeapi.PodSandboxStats) []pod {
	pods := make([]pod, 0, len(all))
	for _, stats := range all {
		attributes, linux := stats.GetAttributes(), stats.GetLinux()
		metadata := attributes.GetMetadata()
		pods = append(pods, pod{
			UID: metadata.GetUid(), Sandbox: attributes.GetId(),
			Labels: map[string]string{
				kubelettypes.KubernetesPodNameLabel:      metadata.GetName(),
				kubelettypes.KubernetesPodNamespaceLabel: metadata.GetNamespace(),
				kubelettypes.KubernetesPodUIDLabel:       metadata.GetUid(),
			},
			CPU:        linux.GetCpu().GetUsageCoreNanoSeconds().GetValue(),
			Memory:     linux.GetMemory().GetUsageBytes().GetValue(),
			WorkingSet: linux.GetMemory().GetWorkingSetBytes().GetValue(),
			Resident:   linux.GetMemory().GetRssBytes().GetValue(),
			Network:    interfacesOf(linux.GetNetwork()),
		})
	}
	return pods
}

func interfacesOf(usage *runtimeapi.NetworkUsage) []freebsd.Interface {
	all := usage.GetInterfaces()
	if first := usage.GetDefaultInterface(); first != nil {
		all = append([]*runtimeapi.NetworkInterfaceUsage{first}, all...)
	}
	var found []freebsd.Interface
	for _, each := range all {
		found = append(found, freebsd.Interface{
			Name:     each.Name,
			RxBytes:  each.GetRxBytes().GetValue(),
			RxErrors: each.GetRxErrors().GetValue(),
			TxBytes:  each.GetTxBytes().GetValue(),
			TxErrors: each.GetTxErrors().GetValue(),
		})
	}
	return found
}

// paths returns where images and containers' roots are.
func (r *runtime) paths(ctx context.Context) (images, containers string, err error) {
	r.mutex.Lock()
	err = r.connect(ctx)
	service := r.images
	r.mutex.Unlock()
	if err != nil {
		return "", "", err
	}
	info, err := service.ImageFsInfo(ctx)
	if err != nil {
		return "", "", err
	}
	for _, each := range info.GetImageFilesystems() {
		images = each.GetFsId().GetMountpoint()
		break
	}
	if images == "" {
		return "", "", errors.New("the runtime does not say where images are")
	}
	containers = images
	for _, each := range info.GetContainerFilesystems() {
		containers = each.GetFsId().GetMountpoint()
		break
	}
	return images, containers, nil
}
