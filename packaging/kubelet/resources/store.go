package resources

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Store keeps what each pod may have, a file a pod, over restarts of kubelet: as a cgroup keeps it in the kernel.
type Store struct {
	// Directory is made with the first pod.
	Directory string
	mutex     sync.Mutex
}

// filePrefix tells a pod's file from one that is being written.
const filePrefix = "pod"

func (s *Store) file(uid string) (string, error) {
	if uid == "" || strings.ContainsAny(uid, "/.") {
		return "", fmt.Errorf("%q is no uid of a pod", uid)
	}
	return filepath.Join(s.Directory, filePrefix+uid), nil
}

// Has says whether a pod is known.
func (s *Store) Has(uid string) bool {
	file, err := s.file(uid)
	if err == nil {
		_, err = os.Stat(file)
	}
	return err == nil
}

// Get returns what a pod may have; fs.ErrNotExist for one that is not known.
func (s *Store) Get(uid string) (Limits, error) {
	file, err := s.file(uid)
	if err != nil {
		return Limits{}, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return Limits{}, err
	}
	limits := Limits{}
	if err := json.Unmarshal(text, &limits); err != nil {
		return Limits{}, fmt.Errorf("%s: %w", file, err)
	}
	return limits, nil
}

// Add makes a pod known. One that is known already stays as it is.
func (s *Store) Add(uid string, limits Limits) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.Has(uid) {
		return nil
	}
	return s.write(uid, limits)
}

// Change changes what a known pod may have.
func (s *Store) Change(uid string, change func(*Limits)) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	limits, err := s.Get(uid)
	if err != nil {
		return err
	}
	change(&limits)
	return s.write(uid, limits)
}

// write replaces a file as a whole. The mutex is held.
func (s *Store) write(uid string, limits Limits) error {
	file, err := s.file(uid)
	if err != nil {
		return err
	}
	text, err := json.Marshal(limits)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.Directory, 0o700); err != nil {
		return err
	}
	next := filepath.Join(s.Directory, "."+uid)
	if err := os.WriteFile(next, text, 0o600); err != nil {
		return err
	}
	return os.Rename(next, file)
}

// Remove forgets a pod. Idempotent.
func (s *Store) Remove(uid string) error {
	file, err := s.file(uid)
	if err != nil {
		return err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// List returns the uids of all known pods.
func (s *Store) List() ([]string, error) {
	entries, err := os.ReadDir(s.Directory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	uids := []string{}
	for _, entry := range entries {
		if uid, ok := strings.CutPrefix(entry.Name(), filePrefix); ok {
			uids = append(uids, uid)
		}
	}
	return uids, nil
}
