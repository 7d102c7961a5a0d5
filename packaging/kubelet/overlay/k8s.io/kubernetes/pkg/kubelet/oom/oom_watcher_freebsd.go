//go:build freebsd

// Events of the node about processes that the kernel killed for want of memory. Upstream watches Linux's /dev/kmsg. Rests on
// the message of killproc() in sys/kern/kern_sig.c, read from the sysctl kern.msgbuf: /dev/klog has one reader, syslogd(8).
//
//overlay:replaces oom_watcher_unsupported.go

package oom

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"cellblock/kubelet/freebsd"
)

// lookEvery is how long a kill may go without an event. The buffer, 96 kB, holds more than that of messages.
const lookEvery = 10 * time.Second

type watcher struct {
	recorder record.EventRecorderLogger
}

var _ Watcher = &watcher{}

// NewWatcher returns a watcher of the kernel's messages.
func NewWatcher(recorder record.EventRecorderLogger) (Watcher, error) {
	return &watcher{recorder: recorder}, nil
}

// Start watches from now on: what the buffer holds already was told by the kubelet before.
func (w *watcher) Start(ctx context.Context, ref *v1.ObjectReference) error {
	before, err := freebsd.Messages()
	if err != nil {
		return err
	}
	logger := klog.FromContext(ctx)
	go wait.UntilWithContext(ctx, func(context.Context) {
		now, err := freebsd.Messages()
		if err != nil {
			logger.Error(err, "Cannot read the kernel's messages")
			return
		}
		for _, kill := range freebsd.Kills(freebsd.NewMessages(before, now)) {
			w.recorder.WithLogger(logger).Eventf(ref, v1.EventTypeWarning, "SystemOOM",
				"System OOM encountered, victim process: %s, pid: %d, jail: %d: %s", kill.Name, kill.PID, kill.Jail, kill.Reason)
		}
		before = now
	}, lookEvery)
	return nil
}
