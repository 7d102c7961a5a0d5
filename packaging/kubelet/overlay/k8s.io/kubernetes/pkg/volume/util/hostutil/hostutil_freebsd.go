//go:build freebsd

// What volume plugins ask of paths on the host. Upstream answers with errors on other systems than Linux and Windows, and no
// hostPath volume with a type works. Rests on stat(2); FreeBSD has no mount propagation and no SELinux.
//
//overlay:replaces hostutil_unsupported.go

package hostutil

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"k8s.io/mount-utils"
)

// HostUtil implements HostUtils.
type HostUtil struct{}

// NewHostUtil returns a HostUtil.
func NewHostUtil() *HostUtil {
	return &HostUtil{}
}

// DeviceOpened says whether a device is in use: opened for writing, a mounted disk is EPERM (GEOM keeps it exclusive).
func (hu *HostUtil) DeviceOpened(pathname string) (bool, error) {
	device, err := hu.PathIsDevice(pathname)
	if err != nil || !device {
		return false, err
	}
	file, err := os.OpenFile(pathname, os.O_RDWR, 0)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EBUSY) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, file.Close()
}

// PathIsDevice says whether a path is a device. FreeBSD's disks are character devices.
func (hu *HostUtil) PathIsDevice(pathname string) (bool, error) {
	kind, err := hu.GetFileType(pathname)
	return kind == FileTypeCharDev || kind == FileTypeBlockDev, err
}

func (hu *HostUtil) GetDeviceNameFromMount(mounter mount.Interface, mountPath, pluginMountDir string) (string, error) {
	return getDeviceNameFromMount(mounter, mountPath, pluginMountDir)
}

// getDeviceNameFromMount returns the volume's name below a plugin's directory that a mount is a reference of.
func getDeviceNameFromMount(mounter mount.Interface, mountPath, pluginMountDir string) (string, error) {
	refs, err := mounter.GetMountRefs(mountPath)
	if err != nil {
		return "", err
	}
	if len(refs) == 0 {
		return "", fmt.Errorf("directory %s is not mounted", mountPath)
	}
	for _, ref := range refs {
		if strings.HasPrefix(ref, pluginMountDir) {
			return filepath.Rel(pluginMountDir, ref)
		}
	}
	return path.Base(mountPath), nil
}

// MakeRShared has nothing to do: kubelet asks it for volumes whose mounts others should see, and on FreeBSD every mount is
// seen by who has the directory itself.
func (hu *HostUtil) MakeRShared(path string) error {
	return nil
}

func (hu *HostUtil) GetFileType(pathname string) (FileType, error) {
	return getFileType(pathname)
}

func (hu *HostUtil) PathExists(pathname string) (bool, error) {
	_, err := os.Stat(pathname)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (hu *HostUtil) EvalHostSymlinks(pathname string) (string, error) {
	return filepath.EvalSymlinks(pathname)
}

func (hu *HostUtil) GetOwner(pathname string) (int64, int64, error) {
	info, err := os.Stat(pathname)
	if err != nil {
		return -1, -1, err
	}
	stat := info.Sys().(*syscall.Stat_t)
	return int64(stat.Uid), int64(stat.Gid), nil
}

func (hu *HostUtil) GetMode(pathname string) (os.FileMode, error) {
	info, err := os.Stat(pathname)
	if err != nil {
		return 0, err
	}
	return info.Mode(), nil
}

func (hu *HostUtil) GetSELinuxSupport(pathname string) (bool, error) {
	return false, nil
}

func (hu *HostUtil) GetSELinuxMountContext(pathname string) (string, error) {
	return "", nil
}
