//go:build freebsd

// Pods end before the node does. Upstream waits for systemd-logind on Linux. FreeBSD's shutdown(8) runs rc.shutdown, which
// stops services one after the other, kubelet before its runtime: the rc.d script leaves a file and waits until it is gone.
// Rests on rc.subr(8)'s "faststop", by which the script tells a shutdown from a mere stop of kubelet.
//
//overlay:replaces nodeshutdown_manager_others.go

package nodeshutdown

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/kubernetes/pkg/kubelet/events"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
)

const (
	// requestFile is what the rc.d script makes in kubelet's root directory.
	requestFile = "shutdown-requested"
	// lookEvery is how often it is looked for. rc.shutdown waits meanwhile.
	lookEvery = time.Second
)

type managerImpl struct {
	conf         *Config
	podManager   *podManager
	shuttingDown atomic.Bool
}

// NewManager returns a manager that does nothing unless shutdownGracePeriod is configured.
func NewManager(conf *Config) Manager {
	pods := newPodManager(conf)
	if !utilfeature.DefaultFeatureGate.Enabled(features.GracefulNodeShutdown) || len(pods.shutdownGracePeriodByPodPriority) == 0 {
		return managerStub{}
	}
	return &managerImpl{conf: conf, podManager: pods}
}

func (m *managerImpl) Admit(_ context.Context, _ *lifecycle.PodAdmitAttributes) lifecycle.PodAdmitResult {
	if m.shuttingDown.Load() {
		return lifecycle.PodAdmitResult{Reason: NodeShutdownNotAdmittedReason, Message: nodeShutdownNotAdmittedMessage}
	}
	return lifecycle.PodAdmitResult{Admit: true}
}

func (m *managerImpl) ShutdownStatus() error {
	if m.shuttingDown.Load() {
		return errors.New("node is shutting down")
	}
	return nil
}

// Start looks for a request. One from before this boot is forgotten.
func (m *managerImpl) Start(ctx context.Context) error {
	file := filepath.Join(m.conf.StateDirectory, requestFile)
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot forget the last shutdown: %w", err)
	}
	go wait.UntilWithContext(ctx, func(ctx context.Context) {
		if _, err := os.Stat(file); err == nil && m.shuttingDown.CompareAndSwap(false, true) {
			m.shutDown(ctx, file)
		}
	}, lookEvery)
	return nil
}

func (m *managerImpl) shutDown(ctx context.Context, file string) {
	logger := m.conf.Logger
	logger.Info("The node is shutting down: ending its pods")
	m.conf.Recorder.Event(m.conf.NodeRef, v1.EventTypeNormal, events.NodeShutdown, "Shutdown manager detected shutdown event")
	go m.conf.SyncNodeStatusFunc(klog.NewContext(ctx, logger))
	if err := m.podManager.killPods(ctx, m.conf.GetPodsFunc()); err != nil {
		logger.Error(err, "Cannot end all pods before the shutdown")
	}
	if err := os.Remove(file); err != nil {
		logger.Error(err, "Cannot tell rc.shutdown that pods have ended")
	}
}
