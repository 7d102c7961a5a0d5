//go:build freebsd

// The limit on open files, which upstream sets on Linux only: a kubelet with many pods needs more than a daemon's default.
// Rests on setrlimit(2); kern.maxfilesperproc caps it.
//
//overlay:replaces rlimit_unsupported.go

package rlimit

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// SetNumFiles sets how many files kubelet may have open.
func SetNumFiles(maxOpenFiles uint64) error {
	if maxOpenFiles > math.MaxInt64 {
		return fmt.Errorf("maxOpenFiles %d is out of range", maxOpenFiles)
	}
	limit := int64(maxOpenFiles)
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit})
}
