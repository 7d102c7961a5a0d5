package freebsd

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrorTextBytes is the room that nmount(2) has for its own words on an error, as mount(8) gives it.
const ErrorTextBytes = 255

// Nmount calls nmount(2).
func Nmount(request Request) error {
	text := make([]byte, ErrorTextBytes)
	var vector []unix.Iovec
	add := func(bytes []byte) {
		entry := unix.Iovec{Base: &bytes[0]}
		entry.SetLen(len(bytes))
		vector = append(vector, entry)
	}
	for _, parameter := range request.Parameters {
		add(append([]byte(parameter[0]), 0))
		add(append([]byte(parameter[1]), 0))
	}
	add(append([]byte("errmsg"), 0))
	add(text)
	_, _, errno := unix.Syscall(unix.SYS_NMOUNT, uintptr(unsafe.Pointer(&vector[0])), uintptr(len(vector)), uintptr(request.Flags))
	runtime.KeepAlive(vector)
	if errno == 0 {
		return nil
	}
	if words := unix.ByteSliceToString(text); words != "" {
		return fmt.Errorf("%s: %w", words, errno)
	}
	return errno
}

// Unmount unmounts a path; by force, processes that have files open below it get errors from then on.
func Unmount(path string, force bool) error {
	flags := 0
	if force {
		flags = unix.MNT_FORCE
	}
	if err := unix.Unmount(path, flags); err != nil {
		return &os.PathError{Op: "unmount", Path: path, Err: err}
	}
	return nil
}

// Mounts returns the kernel's mount table, from memory: no file system is asked (MNT_NOWAIT), so a dead NFS server holds
// nobody up.
func Mounts() ([]Mount, error) {
	for spare := 16; ; spare *= 2 {
		count, err := unix.Getfsstat(nil, unix.MNT_NOWAIT)
		if err != nil {
			return nil, fmt.Errorf("getfsstat: %w", err)
		}
		table := make([]unix.Statfs_t, count+spare)
		count, err = unix.Getfsstat(table, unix.MNT_NOWAIT)
		if err != nil {
			return nil, fmt.Errorf("getfsstat: %w", err)
		}
		// A full table may have been cut off.
		if count == len(table) {
			continue
		}
		mounts := make([]Mount, 0, count)
		for i := range table[:count] {
			mounts = append(mounts, mountOf(&table[i]))
		}
		return mounts, nil
	}
}

// MountOf returns the mount that a path lies on. The path need not be its root.
func MountOf(path string) (Mount, error) {
	_, mount, err := statfs(path)
	return mount, err
}

// IsMountPoint says whether something is mounted on the path itself. A missing path is an error that os.IsNotExist knows.
func IsMountPoint(path string) (bool, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false, err
	}
	if resolved, err = filepath.Abs(resolved); err != nil {
		return false, err
	}
	mount, err := MountOf(resolved)
	return err == nil && mount.On == resolved, err
}

// Space is what a file system has, in bytes and inodes.
type Space struct {
	Mount
	Capacity, Free, Available, Inodes, InodesFree uint64
}

// SpaceOf returns the space of the file system that a path lies on: of the dataset, where it is ZFS.
func SpaceOf(path string) (Space, error) {
	stat, mount, err := statfs(path)
	if err != nil {
		return Space{}, err
	}
	return Space{
		Mount:    mount,
		Capacity: stat.Blocks * stat.Bsize,
		Free:     stat.Bfree * stat.Bsize,
		// Below 0 when root uses UFS's reserve.
		Available:  uint64(max(stat.Bavail, 0)) * stat.Bsize,
		Inodes:     stat.Files,
		InodesFree: uint64(max(stat.Ffree, 0)),
	}, nil
}

func statfs(path string) (*unix.Statfs_t, Mount, error) {
	stat := &unix.Statfs_t{}
	for {
		err := unix.Statfs(path, stat)
		if err == nil {
			return stat, mountOf(stat), nil
		}
		if err != unix.EINTR {
			return nil, Mount{}, &os.PathError{Op: "statfs", Path: path, Err: err}
		}
	}
}

func mountOf(stat *unix.Statfs_t) Mount {
	return Mount{
		From:  unix.ByteSliceToString(stat.Mntfromname[:]),
		On:    unix.ByteSliceToString(stat.Mntonname[:]),
		Type:  unix.ByteSliceToString(stat.Fstypename[:]),
		Flags: stat.Flags,
	}
}

// MountDescriptor mounts an open file or directory onto a path of the same type by nullfs. The source is named by its
// descriptor, in an fdescfs with nodup (fdescfs(5)), where a name is the file itself: however its path has changed since it
// was opened, this file is mounted.
func MountDescriptor(directory string, file *os.File, target string, readOnly bool) error {
	if err := mountDescriptors(directory); err != nil {
		return err
	}
	var options []string
	if readOnly {
		options = append(options, "ro")
	}
	source := filepath.Join(directory, fmt.Sprint(file.Fd()))
	request, _, err := Plan(source, target, "nullfs", options)
	if err != nil {
		return err
	}
	if err := Nmount(request); err != nil {
		return fmt.Errorf("cannot mount %s onto %s: %w", file.Name(), target, err)
	}
	return nil
}

// mountDescriptors mounts the fdescfs of MountDescriptor. Idempotent.
func mountDescriptors(directory string) error {
	if !strings.HasSuffix(directory, "/"+ByDescriptor) {
		return fmt.Errorf("%s: an fdescfs is expected on a directory %s", directory, ByDescriptor)
	}
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return err
	}
	if mounted, err := IsMountPoint(directory); err != nil || mounted {
		return err
	}
	request := Request{Parameters: [][2]string{{"fstype", "fdescfs"}, {"fspath", directory}, {"from", "fdescfs"}, {"nodup", ""}}}
	if err := Nmount(request); err != nil {
		return fmt.Errorf("cannot mount fdescfs on %s (kldload fdescfs?): %w", directory, err)
	}
	return nil
}

// SameFile says whether a nullfs mount shows an open file. nullfs gives files its own st_dev and passes the rest through.
func SameFile(file *os.File, mounted string) (bool, error) {
	var a, b unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &a); err != nil {
		return false, &os.PathError{Op: "fstat", Path: file.Name(), Err: err}
	}
	if err := unix.Lstat(mounted, &b); err != nil {
		return false, &os.PathError{Op: "lstat", Path: mounted, Err: err}
	}
	return a.Ino == b.Ino && a.Gen == b.Gen && a.Btim == b.Btim, nil
}
