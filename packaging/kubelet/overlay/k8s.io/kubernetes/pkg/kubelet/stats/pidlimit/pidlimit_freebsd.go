//go:build freebsd

// How many processes the node may have and has: without it there is no pid.available to evict by, and upstream's nil is
// taken for the numbers by who does not look. Rests on the sysctls kern.maxproc and kern.proc.proc.
//
//overlay:replaces pidlimit_unsupported.go

package pidlimit

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"cellblock/kubelet/freebsd"
)

// Stats returns the limit on processes and their number.
func Stats() (*statsapi.RlimitStats, error) {
	limit, count, err := freebsd.Processes()
	if err != nil {
		return nil, err
	}
	return &statsapi.RlimitStats{Time: metav1.NewTime(time.Now()), MaxPID: &limit, NumOfRunningProcesses: &count}, nil
}
