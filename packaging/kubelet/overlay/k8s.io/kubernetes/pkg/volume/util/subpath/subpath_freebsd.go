//go:build freebsd

// subPath volume mounts, which upstream refuses here. A container may change the directories of its volume while kubelet
// walks them, so nothing may be mounted by its path: the source is opened component by component without following links,
// and mounted by its descriptor (nullfs(4) of an fdescfs(5) with nodup, where a descriptor's name is the file itself).
//
//overlay:replaces subpath_unsupported.go

package subpath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"k8s.io/klog/v2"
	"k8s.io/mount-utils"

	"cellblock/kubelet/freebsd"
)

// directory holds the mounts of a pod, below its directory. Kubelet's clean-up of pods knows the name.
const directory = "volume-subpaths"

type subpath struct {
	mounter mount.Interface
}

// New returns the interface for this system.
func New(mounter mount.Interface) Interface {
	return &subpath{mounter: mounter}
}

func (sp *subpath) SafeMakeDir(subdir string, base string, perm os.FileMode) error {
	base, err := filepath.EvalSymlinks(base)
	if err != nil {
		return err
	}
	relative, err := filepath.Rel(base, filepath.Join(base, subdir))
	if err != nil {
		return err
	}
	return freebsd.MakeDirBeneath(base, relative, perm)
}

func (sp *subpath) PrepareSafeSubpath(subPath Subpath) (string, func(), error) {
	target := filepath.Join(subPath.PodDir, directory, subPath.VolumeName, subPath.ContainerName, strconv.Itoa(subPath.VolumeMountIndex))
	if err := sp.bind(subPath, target); err != nil {
		return "", nil, fmt.Errorf("cannot mount subPath %s: %w", subPath.Path, err)
	}
	// The mount is removed with the pod, by CleanSubPaths.
	return target, nil, nil
}

func (sp *subpath) bind(subPath Subpath, target string) error {
	source, err := open(subPath)
	if err != nil {
		return err
	}
	defer source.Close()
	done, err := sp.mounted(source, target)
	if err != nil || done {
		return err
	}
	info, err := source.Stat()
	if err != nil {
		return err
	}
	if err := place(target, info.IsDir()); err != nil {
		return err
	}
	// PodDir is ROOT/pods/UID, whatever ROOT is.
	descriptors := filepath.Join(filepath.Dir(filepath.Dir(subPath.PodDir)), freebsd.ByDescriptor)
	if err := freebsd.MountDescriptor(descriptors, source, target, false); err != nil {
		return errors.Join(err, os.Remove(target))
	}
	return nil
}

// open opens what the subPath's links lead to now, and only when that lies in the volume.
func open(subPath Subpath) (*os.File, error) {
	volume, err := filepath.EvalSymlinks(subPath.VolumePath)
	if err != nil {
		return nil, err
	}
	source, err := filepath.EvalSymlinks(subPath.Path)
	if err != nil {
		return nil, err
	}
	relative, err := filepath.Rel(volume, source)
	if err != nil {
		return nil, err
	}
	return freebsd.OpenBeneath(volume, relative)
}

// mounted says whether the target shows the source already, as it does for a container that is started again. A mount of
// something else (a ConfigMap has been written anew) is removed; its container is gone.
func (sp *subpath) mounted(source *os.File, target string) (bool, error) {
	isMount, err := sp.mounter.IsMountPoint(target)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || !isMount {
		return false, err
	}
	if same, err := freebsd.SameFile(source, target); err != nil || same {
		return same, err
	}
	klog.V(4).Infof("subPath mount %s shows another file than %s; mounting it again", target, source.Name())
	return false, freebsd.Unmount(target, true)
}

// place makes the directory or the file that the mount covers. nullfs wants the same type on both sides.
func place(target string, isDir bool) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	if info, err := os.Lstat(target); err == nil && info.IsDir() != isDir {
		if err := os.Remove(target); err != nil {
			return err
		}
	}
	if isDir {
		if err := os.Mkdir(target, 0o750); !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	}
	file, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o640)
	if err != nil {
		return err
	}
	return file.Close()
}

// CleanSubPaths unmounts and removes all of a volume's. Idempotent.
func (sp *subpath) CleanSubPaths(podDir string, volumeName string) error {
	volume := filepath.Join(podDir, directory, volumeName)
	containers, err := os.ReadDir(volume)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, container := range containers {
		if err := sp.cleanContainer(filepath.Join(volume, container.Name())); err != nil {
			return err
		}
	}
	if err := os.Remove(volume); err != nil {
		return err
	}
	// The last volume takes the pod's directory along.
	if remaining, err := os.ReadDir(filepath.Dir(volume)); err != nil || len(remaining) > 0 {
		return err
	}
	return os.Remove(filepath.Dir(volume))
}

func (sp *subpath) cleanContainer(path string) error {
	targets, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, target := range targets {
		if err := mount.CleanupMountPoint(filepath.Join(path, target.Name()), sp.mounter, true); err != nil {
			return fmt.Errorf("cannot remove subPath mount %s: %w", filepath.Join(path, target.Name()), err)
		}
	}
	return os.Remove(path)
}
