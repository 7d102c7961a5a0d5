//go:build freebsd

// The medium of an emptyDir. Upstream answers "disk, not mounted" everywhere else than on Linux: the tmpfs of a memory-backed
// volume would be mounted again at each start of kubelet and never unmounted. Rests on f_fstypename of statfs(2).
//
//overlay:replaces empty_dir_unsupported.go

package emptydir

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/mount-utils"

	"cellblock/kubelet/freebsd"
)

type realMountDetector struct {
	mounter mount.Interface
}

func (m *realMountDetector) GetMountMedium(path string, requestedMedium v1.StorageMedium) (v1.StorageMedium, bool, *resource.Quantity, error) {
	notMounted, err := m.mounter.IsLikelyNotMountPoint(path)
	if err != nil {
		return v1.StorageMediumDefault, false, nil, fmt.Errorf("cannot tell what is mounted on %s: %w", path, err)
	}
	on, err := freebsd.MountOf(path)
	if err != nil {
		return v1.StorageMediumDefault, false, nil, err
	}
	medium := v1.StorageMediumDefault
	if on.Type == "tmpfs" {
		medium = v1.StorageMediumMemory
	}
	return medium, !notMounted, nil, nil
}

// ResizeEphemeralVolume refuses: tmpfs(4) cannot change its size while it is mounted (tmpfs_mount() in
// sys/fs/tmpfs/tmpfs_vfsops.c answers EOPNOTSUPP).
func (plugin *emptyDirPlugin) ResizeEphemeralVolume(spec *volume.Spec, pod *v1.Pod, newSize *resource.Quantity) error {
	return fmt.Errorf("cannot resize volume %s to %s: FreeBSD's tmpfs keeps the size that it was mounted with", spec.Name(), newSize)
}
