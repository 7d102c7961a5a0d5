//go:build freebsd

// fsGroup: the group of a volume and its files. Upstream does nothing, in silence, on other systems than Linux, so a pod with
// fsGroup cannot write its volumes. Rests on lchown(2), chmod(2) and the API's words on PodSecurityContext.fsGroup: the group
// owns all files, new ones get it by the setgid bit of directories, and the mode gains rw-rw---- (r--r----- when read-only).
//
//overlay:replaces volume_unsupported.go

package volume

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/kubernetes/pkg/kubelet/events"
	"k8s.io/kubernetes/pkg/volume/util/types"
)

// slowChange is how long a change may take before the pod gets an event about it.
const slowChange = 30 * time.Second

// NewVolumeOwnership returns what gives the files below dir to a group.
func NewVolumeOwnership(mounter Mounter, dir string, fsGroup *int64, fsGroupChangePolicy *v1.PodFSGroupChangePolicy, completeFunc func(types.CompleteFuncParam)) VolumeOwnershipChanger {
	return &VolumeOwnership{
		mounter:             mounter,
		dir:                 dir,
		fsGroup:             fsGroup,
		fsGroupChangePolicy: fsGroupChangePolicy,
		completionCallback:  completeFunc,
	}
}

func (vo *VolumeOwnership) AddProgressNotifier(pod *v1.Pod, recorder record.EventRecorder) VolumeOwnershipChanger {
	vo.pod, vo.recorder = pod, recorder
	return vo
}

func (vo *VolumeOwnership) ChangePermissions() error {
	if vo.fsGroup == nil {
		return nil
	}
	onMismatch := vo.fsGroupChangePolicy != nil && *vo.fsGroupChangePolicy == v1.FSGroupChangeOnRootMismatch
	if onMismatch && vo.matches() {
		return nil
	}
	timer := time.AfterFunc(slowChange, vo.tell)
	defer timer.Stop()
	err := vo.changeBelow(vo.dir)
	if vo.completionCallback != nil {
		vo.completionCallback(types.CompleteFuncParam{Err: &err})
	}
	return err
}

// tell says that it takes long, once.
func (vo *VolumeOwnership) tell() {
	if vo.pod == nil || vo.recorder == nil {
		return
	}
	message := fmt.Sprintf("giving volume %s to group %d takes long (%d files so far); see fsGroupChangePolicy OnRootMismatch",
		filepath.Base(vo.dir), *vo.fsGroup, vo.fileCounter.Load())
	vo.recorder.Event(vo.pod, v1.EventTypeWarning, events.VolumePermissionChangeInProgress, message)
}

// wanted returns the mode that a file gains.
func (vo *VolumeOwnership) wanted(dir bool) os.FileMode {
	mode := os.FileMode(0o660)
	if vo.mounter.GetAttributes().ReadOnly {
		mode = 0o440
	}
	if dir {
		mode |= os.ModeSetgid | 0o110
	}
	return mode
}

// matches says whether the volume's root is as it should be, which stands for all below it.
func (vo *VolumeOwnership) matches() bool {
	info, err := os.Stat(vo.dir)
	if err != nil || !info.IsDir() {
		return false
	}
	wanted := vo.wanted(true)
	return int64(info.Sys().(*syscall.Stat_t).Gid) == *vo.fsGroup && info.Mode()&wanted == wanted
}

// changeBelow changes a directory after what is in it, so that the root matches only when all of it has been changed.
func (vo *VolumeOwnership) changeBelow(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if err := vo.changeBelow(filepath.Join(path, entry.Name())); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
	}
	return vo.change(path, info)
}

func (vo *VolumeOwnership) change(path string, info fs.FileInfo) error {
	vo.fileCounter.Add(1)
	if err := os.Lchown(path, -1, int(*vo.fsGroup)); err != nil {
		return fmt.Errorf("cannot give %s to group %d: %w", path, *vo.fsGroup, err)
	}
	// chmod(2) would follow the link.
	if info.Mode()&os.ModeSymlink != 0 {
		return nil
	}
	return os.Chmod(path, info.Mode()|vo.wanted(info.IsDir()))
}
