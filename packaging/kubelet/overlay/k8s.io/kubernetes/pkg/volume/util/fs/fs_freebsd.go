//go:build freebsd

// What volumes use: without it kubelet has no volume statistics and evicts nobody who fills an emptyDir. Rests on statfs(2)
// and stat(2), whose st_blocks are of 512 bytes (DEV_BSIZE) whatever the file system.
//
//overlay:replaces fs_unsupported.go

package fs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	servermetrics "k8s.io/kubernetes/pkg/kubelet/server/metrics"

	"cellblock/kubelet/freebsd"
)

// UsageInfo is what the files below a directory use.
type UsageInfo struct {
	Bytes  int64
	Inodes int64
}

// blockBytes is what st_blocks counts in, stat(2).
const blockBytes = 512

// Info returns available, capacity and used bytes, then all, free and used inodes of the file system of a path.
func Info(path string) (int64, int64, int64, int64, int64, int64, error) {
	space, err := freebsd.SpaceOf(path)
	if err != nil {
		return 0, 0, 0, 0, 0, 0, err
	}
	return int64(space.Available), int64(space.Capacity), int64(space.Capacity - space.Free),
		int64(space.Inodes), int64(space.InodesFree), int64(space.Inodes - space.InodesFree), nil
}

// DiskUsage counts what is below a path on its file system, a file with several names once. Files may go meanwhile.
func DiskUsage(path string) (UsageInfo, error) {
	if path == "" {
		return UsageInfo{}, fmt.Errorf("no directory to count the usage of")
	}
	defer servermetrics.CollectVolumeStatCalDuration("du", time.Now())
	var usage UsageInfo
	var top syscall.Stat_t
	if err := syscall.Stat(path, &top); err != nil {
		return usage, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	linked := map[uint64]bool{}
	err := filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot count %s: %w", name, err)
		}
		var stat syscall.Stat_t
		if err := syscall.Lstat(name, &stat); err != nil {
			if err == syscall.ENOENT {
				return nil
			}
			return &os.PathError{Op: "lstat", Path: name, Err: err}
		}
		if stat.Dev != top.Dev {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if stat.Nlink > 1 && !entry.IsDir() {
			if linked[stat.Ino] {
				return nil
			}
			linked[stat.Ino] = true
		}
		usage.Bytes += stat.Blocks * blockBytes
		usage.Inodes++
		return nil
	})
	return usage, err
}
