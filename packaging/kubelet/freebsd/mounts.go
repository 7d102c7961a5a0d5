package freebsd

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Flags of mount(2), sys/mount.h.
const (
	FlagReadOnly = 0x1
	FlagNoExec   = 0x4
	FlagNoSuid   = 0x8
	FlagUpdate   = 0x10000
	FlagNoATime  = 0x10000000
)

// ByDescriptor is where a kubelet has mounted an fdescfs of its own, below its root directory: a name in it stands for an
// open file, so that a nullfs mount of it cannot be led elsewhere by who renames directories.
const ByDescriptor = ".descriptors"

// Mount is one line of the kernel's mount table.
type Mount struct {
	// From is a device, a dataset, the lower path of a nullfs, or only a name (tmpfs).
	From string
	// On is the absolute path, without symbolic links.
	On    string
	Type  string
	Flags uint64
}

// At returns the topmost mount on a path: the table is in the order of mounting.
func At(mounts []Mount, path string) (Mount, bool) {
	for i := len(mounts) - 1; i >= 0; i-- {
		if mounts[i].On == path {
			return mounts[i], true
		}
	}
	return Mount{}, false
}

// References returns where else the files below path are mounted: nullfs mounts of it, and what is mounted from the same
// device when path is a mount point itself. The kernel has no identity for file systems without a device.
func References(mounts []Mount, path string) []string {
	at, mounted := At(mounts, path)
	refs := []string{}
	for _, other := range mounts {
		switch {
		case other.On == path:
		case other.Type == "nullfs" && other.From == path,
			mounted && at.hasSource() && other.Type == at.Type && other.From == at.From,
			mounted && at.Type == "nullfs" && other.On == at.From:
			refs = append(refs, other.On)
		}
	}
	return refs
}

// hasSource says whether From tells one mount from another.
func (m Mount) hasSource() bool {
	if m.Type == "nullfs" {
		return filepath.Base(filepath.Dir(m.From)) != ByDescriptor
	}
	return strings.ContainsAny(m.From, "/:")
}

// Options returns the mount's flags in the words of mount(8).
func (m Mount) Options() []string {
	options := []string{"rw"}
	if m.Flags&FlagReadOnly != 0 {
		options[0] = "ro"
	}
	for _, known := range []struct {
		flag uint64
		word string
	}{{FlagNoExec, "noexec"}, {FlagNoSuid, "nosuid"}, {FlagNoATime, "noatime"}} {
		if m.Flags&known.flag != 0 {
			options = append(options, known.word)
		}
	}
	return options
}

// Request is a call of nmount(2): its parameters, in order, and its flags.
type Request struct {
	Parameters [][2]string
	Flags      int
}

// Plan translates what Kubernetes asks of mount(8) on Linux. ok is false for a file system that has a mount program of its
// own (mount_nfs(8) and others); an option that FreeBSD does not have is an error, never ignored.
func Plan(source, target, kind string, options []string) (request Request, ok bool, err error) {
	if hasOption(options, "bind") {
		kind = "nullfs"
	}
	if kind != "nullfs" && kind != "tmpfs" {
		return Request{}, false, nil
	}
	request.Parameters = [][2]string{{"fstype", kind}, {"fspath", target}, {"from", source}}
	for _, option := range options {
		name, value, _ := strings.Cut(option, "=")
		switch {
		case name == "bind", name == "defaults", name == "rw", name == "async":
		case name == "nodev": // There are no devices outside of devfs.
		case name == "remount":
			request.Flags |= FlagUpdate
		case name == "ro":
			request.Flags |= FlagReadOnly
		case name == "noexec":
			request.Flags |= FlagNoExec
		case name == "nosuid":
			request.Flags |= FlagNoSuid
		case name == "noatime":
			request.Flags |= FlagNoATime
		case kind == "tmpfs" && (name == "size" || name == "mode" || name == "uid" || name == "gid" || name == "nr_inodes"):
			if _, err := strconv.ParseUint(value, 0, 64); err != nil {
				return Request{}, true, fmt.Errorf("mount option %q of %s: %q is not a number", name, target, value)
			}
			if name == "nr_inodes" {
				name = "inodes"
			}
			request.Parameters = append(request.Parameters, [2]string{name, value})
		default:
			return Request{}, true, fmt.Errorf("mount option %q of %s is not supported for %s on FreeBSD", option, target, kind)
		}
	}
	return request, true, nil
}

func hasOption(options []string, wanted string) bool {
	for _, option := range options {
		if option == wanted {
			return true
		}
	}
	return false
}
