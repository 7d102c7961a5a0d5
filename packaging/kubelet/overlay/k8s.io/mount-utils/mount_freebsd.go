//go:build freebsd

// Mounts for volumes. Upstream's mounter for other systems refuses everything, so a kubelet cannot give a pod a secret, a
// token or a memory-backed emptyDir. Rests on nmount(2), unmount(2) and getfsstat(2): tmpfs(4) and nullfs(4) are mounted by
// the system call, other file systems by mount(8), which knows their programs.
//
//overlay:replaces mount_unsupported.go

package mount

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"cellblock/kubelet/freebsd"
)

// Mounter implements Interface.
type Mounter struct {
	mounterPath string
}

var _ MounterForceUnmounter = &Mounter{}

// New returns a mounter; mounterPath stands for mount(8) where it is not empty.
func New(mounterPath string) Interface {
	if mounterPath == "" {
		mounterPath = "/sbin/" + defaultMountCommand
	}
	return &Mounter{mounterPath: mounterPath}
}

func (mounter *Mounter) Mount(source string, target string, fstype string, options []string) error {
	return mounter.MountSensitive(source, target, fstype, options, nil)
}

func (mounter *Mounter) MountSensitive(source string, target string, fstype string, options []string, sensitiveOptions []string) error {
	all := append(append([]string{}, options...), sensitiveOptions...)
	said := fmt.Sprintf("cannot mount %s (%s) on %s with %q", source, fstype, target, sanitizedOptionsForLogging(options, sensitiveOptions))
	request, ok, err := freebsd.Plan(source, target, fstype, all)
	switch {
	case err != nil:
	case ok:
		err = freebsd.Nmount(request)
	default:
		err = mounter.byProgram(source, target, fstype, all)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", said, err)
	}
	return nil
}

// byProgram runs mount(8). Its own words are not repeated where they could hold a password of the options.
func (mounter *Mounter) byProgram(source, target, fstype string, options []string) error {
	arguments := []string{"-t", fstype}
	if len(options) > 0 {
		arguments = append(arguments, "-o", strings.Join(options, ","))
	}
	output, err := exec.Command(mounter.mounterPath, append(arguments, source, target)...).CombinedOutput()
	if err == nil || len(options) > 0 {
		return err
	}
	return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(output)))
}

func (mounter *Mounter) MountSensitiveWithoutSystemd(source string, target string, fstype string, options []string, sensitiveOptions []string) error {
	return mounter.MountSensitive(source, target, fstype, options, sensitiveOptions)
}

// MountSensitiveWithoutSystemdWithMountFlags refuses flags: they are those of Linux's mount(8).
func (mounter *Mounter) MountSensitiveWithoutSystemdWithMountFlags(source string, target string, fstype string, options []string, sensitiveOptions []string, mountFlags []string) error {
	if len(mountFlags) > 0 {
		return fmt.Errorf("cannot mount %s: flags %v are not supported on FreeBSD", target, mountFlags)
	}
	return mounter.MountSensitive(source, target, fstype, options, sensitiveOptions)
}

func (mounter *Mounter) Unmount(target string) error {
	klog.V(4).Infof("Unmounting %s", target)
	return freebsd.Unmount(target, false)
}

// retryUnmount is how often UnmountWithForce looks whether a busy mount has become free.
const retryUnmount = 100 * time.Millisecond

// UnmountWithForce unmounts by force what stays busy for so long.
func (mounter *Mounter) UnmountWithForce(target string, umountTimeout time.Duration) error {
	for deadline := time.Now().Add(umountTimeout); ; time.Sleep(retryUnmount) {
		err := mounter.Unmount(target)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if time.Now().After(deadline) {
			return freebsd.Unmount(target, true)
		}
	}
}

func (mounter *Mounter) List() ([]MountPoint, error) {
	mounts, err := freebsd.Mounts()
	if err != nil {
		return nil, err
	}
	points := make([]MountPoint, 0, len(mounts))
	for _, m := range mounts {
		points = append(points, MountPoint{Device: m.From, Path: m.On, Type: m.Type, Opts: m.Options()})
	}
	return points, nil
}

// IsLikelyNotMountPoint is exact: statfs(2) names the mount point.
func (mounter *Mounter) IsLikelyNotMountPoint(file string) (bool, error) {
	mounted, err := freebsd.IsMountPoint(file)
	return !mounted, err
}

func (mounter *Mounter) IsMountPoint(file string) (bool, error) {
	return freebsd.IsMountPoint(file)
}

// CanSafelySkipMountPointCheck is false: unmounting what is not mounted is EINVAL.
func (mounter *Mounter) CanSafelySkipMountPointCheck() bool {
	return false
}

func (mounter *Mounter) GetMountRefs(pathname string) ([]string, error) {
	resolved, err := filepath.EvalSymlinks(pathname)
	if os.IsNotExist(err) {
		return []string{}, nil
	}
	if err != nil {
		return nil, err
	}
	mounts, err := freebsd.Mounts()
	if err != nil {
		return nil, err
	}
	return freebsd.References(mounts, resolved), nil
}

// formatAndMountSensitive mounts a device that has a file system; making one is the operator's, by newfs(8).
func (mounter *SafeFormatAndMount) formatAndMountSensitive(source string, target string, fstype string, options []string, sensitiveOptions []string, formatOptions []string) error {
	if len(formatOptions) > 0 {
		return fmt.Errorf("cannot format %s with %v: make its file system beforehand, see newfs(8)", source, formatOptions)
	}
	return mounter.MountSensitive(source, target, fstype, options, sensitiveOptions)
}

func (mounter *SafeFormatAndMount) diskLooksUnformatted(disk string) (bool, error) {
	return false, fmt.Errorf("cannot tell whether %s has a file system on FreeBSD", disk)
}

func (mounter *SafeFormatAndMount) IsMountPoint(file string) (bool, error) {
	return mounter.Interface.IsMountPoint(file)
}
