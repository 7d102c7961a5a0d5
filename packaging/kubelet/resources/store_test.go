package resources

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestStoreOverARestart(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "limits")
	store := &Store{Directory: directory}
	if uids, err := store.List(); err != nil || len(uids) != 0 {
		t.Fatal(uids, err)
	}
	first := Limits{CPUShares: 2, CPUQuota: NoLimit, CPUPeriod: QuotaPeriod, Memory: 1 << 20}
	for _, limits := range []Limits{first, {CPUShares: 9}} {
		if err := store.Add("a-1", limits); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Change("a-1", func(l *Limits) { l.Memory = NoLimit }); err != nil {
		t.Fatal(err)
	}
	first.Memory = NoLimit
	if err := os.WriteFile(filepath.Join(directory, ".b-2"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	again := &Store{Directory: directory}
	if got, err := again.Get("a-1"); err != nil || got != first {
		t.Errorf("%+v, %v", got, err)
	}
	if uids, err := again.List(); err != nil || !reflect.DeepEqual(uids, []string{"a-1"}) {
		t.Error(uids, err)
	}
	for range 2 {
		if err := again.Remove("a-1"); err != nil {
			t.Error(err)
		}
	}
	if again.Has("a-1") {
		t.Error("removed, and still there")
	}
}

func TestStoreRefuses(t *testing.T) {
	store := &Store{Directory: t.TempDir()}
	for _, uid := range []string{"", "../x", "a/b", "."} {
		if store.Add(uid, Limits{}) == nil || store.Remove(uid) == nil || store.Has(uid) {
			t.Errorf("%q was taken", uid)
		}
	}
	if err := store.Change("unknown", func(*Limits) {}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(store.Directory, "podbad"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := store.Get("bad"); err == nil {
		t.Errorf("half a file: %+v", got)
	}
}
