package freebsd

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func tree(t *testing.T) string {
	t.Helper()
	base := t.TempDir()
	for _, dir := range []string{"in/deep", "out"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"in/up": "../out", "in/abs": "/etc", "in/down": "deep"} {
		if err := os.Symlink(to, filepath.Join(base, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(base, "in/deep/file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(base, "in/fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(base, "in")
}

func TestOpenBeneath(t *testing.T) {
	base := tree(t)
	for _, path := range []string{".", "deep", "deep/file", "fifo"} {
		file, err := OpenBeneath(base, path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		file.Close()
	}
	for _, path := range []string{"up", "abs", "down", "down/file", "up/x"} {
		if file, err := OpenBeneath(base, path); !errors.Is(err, syscall.ELOOP) {
			t.Errorf("%s: %v, %v", path, file, err)
		}
	}
	for _, path := range []string{"..", "deep/../../out", "/etc", ""} {
		if _, err := OpenBeneath(base, path); err == nil {
			t.Errorf("%q was opened", path)
		}
	}
}

func TestMakeDirBeneath(t *testing.T) {
	base := tree(t)
	if err := MakeDirBeneath(base, "a/b", 0o2775|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	for _, made := range []string{"a", "a/b"} {
		info, err := os.Stat(filepath.Join(base, made))
		if err != nil || info.Mode().Perm() != 0o775 || info.Mode()&os.ModeSetgid == 0 {
			t.Errorf("%s: %v, %v", made, info.Mode(), err)
		}
	}
	if err := MakeDirBeneath(base, "down/new", 0o700); err != nil {
		t.Errorf("a link inside is followed: %v", err)
	}
	if err := MakeDirBeneath(base, "deep", 0o700); err != nil {
		t.Errorf("what is there is left: %v", err)
	}
	if info, _ := os.Stat(filepath.Join(base, "deep")); info.Mode().Perm() != 0o755 {
		t.Errorf("what is there was changed: %v", info.Mode())
	}
	if err := MakeDirBeneath(base, "deep/file", 0o700); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("a file in the way: %v", err)
	}
	for _, path := range []string{"up/new", "abs/new", "../new"} {
		if err := MakeDirBeneath(base, path, 0o700); err == nil {
			t.Errorf("%s was made", path)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(base), "out/new")); err == nil {
		t.Error("a link led outside")
	}
}
