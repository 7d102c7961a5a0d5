//go:build freebsd

// Static pods as soon as their files change. Upstream watches on Linux only and logs an error elsewhere; the directory would
// be read every fileCheckFrequency (20 s). Rests on fsnotify's kqueue(2) backend.
//
//overlay:replaces file_unsupported.go

package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
)

const (
	// watchAgain is how long a directory that cannot be watched is left alone.
	watchAgain = 5 * time.Second
	// settle is how long the directory must be quiet: an editor writes a file in several steps.
	settle = 200 * time.Millisecond
)

func (s *sourceFile) startWatch(logger klog.Logger) {
	go wait.Forever(func() {
		if err := s.watch(logger); err != nil {
			logger.V(4).Info("Cannot watch static pods", "path", s.path, "err", err)
		}
	}, watchAgain)
}

func (s *sourceFile) watch(logger klog.Logger) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := watcher.Add(s.path); err != nil {
		return err
	}
	// What changed before the watch began.
	quiet := time.NewTimer(settle)
	defer quiet.Stop()
	for {
		select {
		case event, ok := <-watcher.Events:
			if !ok {
				return nil
			}
			if event.Name == s.path && event.Has(fsnotify.Remove|fsnotify.Rename) {
				return fmt.Errorf("%s is gone", s.path)
			}
			if !strings.HasPrefix(filepath.Base(event.Name), ".") {
				quiet.Reset(settle)
			}
		case err := <-watcher.Errors:
			return err
		case <-quiet.C:
			s.watchEvents <- &watchEvent{fileName: s.path, eventType: podModify}
		}
	}
}

// consumeWatchEvent reads the whole directory: one that is read half is then right again with the next event.
func (s *sourceFile) consumeWatchEvent(logger klog.Logger, _ *watchEvent) error {
	return s.listConfig(logger)
}
