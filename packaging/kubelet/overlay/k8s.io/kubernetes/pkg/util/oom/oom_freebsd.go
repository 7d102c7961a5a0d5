//go:build freebsd

// Kubelet's own OOM score. Upstream fails on each start elsewhere than on Linux. FreeBSD has no scores, only protection
// (protect(1), procctl(2) PROC_SPROTECT): a score of -999, kubelet's default, protects; one of 0 or more ends that.
//
//overlay:replaces oom_unsupported.go

package oom

import (
	"fmt"

	"cellblock/kubelet/freebsd"
)

// protectedBelow is the highest score that protects: kubelet and its runtime have -999, guaranteed containers -997.
const protectedBelow = -998

// NewOOMAdjuster returns an adjuster of single processes.
func NewOOMAdjuster() *OOMAdjuster {
	return &OOMAdjuster{
		ApplyOOMScoreAdj:          applyOOMScoreAdj,
		ApplyOOMScoreAdjContainer: applyOOMScoreAdjContainer,
	}
}

func applyOOMScoreAdj(pid int, oomScoreAdj int) error {
	if pid < 0 {
		return fmt.Errorf("invalid process %d for an OOM score", pid)
	}
	return freebsd.Protect(pid, oomScoreAdj <= protectedBelow)
}

func applyOOMScoreAdjContainer(cgroupName string, oomScoreAdj, maxTries int) error {
	return fmt.Errorf("cannot set the OOM score of cgroup %s: there are no cgroups on FreeBSD", cgroupName)
}
