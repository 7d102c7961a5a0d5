package freebsd

import (
	"os"
	"path/filepath"
	"testing"
)

// These ask a FreeBSD kernel, as root:
//
//	GOOS=freebsd CGO_ENABLED=0 go test -c -o freebsd.test ./freebsd && scp freebsd.test … && ./freebsd.test

func directories(t *testing.T, names ...string) []string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	base := t.TempDir()
	paths := []string{}
	for _, name := range names {
		path := filepath.Join(base, name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

func mountFor(t *testing.T, source, target, kind string, options ...string) {
	t.Helper()
	request, ok, err := Plan(source, target, kind, options)
	if err == nil && ok {
		err = Nmount(request)
	}
	if err != nil {
		t.Fatalf("%s on %s: %v", kind, target, err)
	}
	t.Cleanup(func() {
		if err := Unmount(target, true); err != nil {
			t.Error(err)
		}
	})
}

func TestKernelMounts(t *testing.T) {
	paths := directories(t, "memory", "bound")
	memory, bound := paths[0], paths[1]
	mountFor(t, "tmpfs", memory, "tmpfs", "size=1048576", "mode=0700")
	mountFor(t, memory, bound, "", "bind", "ro")
	for _, path := range paths {
		if mounted, err := IsMountPoint(path); err != nil || !mounted {
			t.Errorf("%s: %v, %v", path, mounted, err)
		}
	}
	if mounted, err := IsMountPoint(filepath.Dir(memory)); err != nil || mounted {
		t.Errorf("a directory above: %v, %v", mounted, err)
	}
	if _, err := IsMountPoint(memory + "/none"); !os.IsNotExist(err) {
		t.Errorf("a missing path: %v", err)
	}
	mounts, err := Mounts()
	if err != nil {
		t.Fatal(err)
	}
	if refs := References(mounts, memory); len(refs) != 1 || refs[0] != bound {
		t.Errorf("references of %s: %v", memory, refs)
	}
	if at, _ := At(mounts, bound); at.Type != "nullfs" || at.Options()[0] != "ro" {
		t.Errorf("%+v", at)
	}
	space, err := SpaceOf(memory)
	if err != nil || space.Type != "tmpfs" || space.Capacity != 1<<20 || space.Available > space.Capacity {
		t.Errorf("%+v, %v", space, err)
	}
	if err := os.WriteFile(filepath.Join(bound, "file"), nil, 0o600); err == nil {
		t.Error("a read-only mount was written")
	}
}

func TestKernelWordsOfARefusal(t *testing.T) {
	paths := directories(t, "target")
	err := Nmount(Request{Parameters: [][2]string{{"fstype", "tmpfs"}, {"fspath", paths[0]}, {"bogus", "1"}}})
	if err == nil {
		t.Fatal("an unknown parameter was taken")
	}
	t.Log(err)
}

// The directory is exchanged for a link after it was opened: what was opened is mounted.
func TestKernelMountsWhatWasOpened(t *testing.T) {
	paths := directories(t, "volume/inside", "secret", "target", "file-target", ByDescriptor)
	volume, secret, target, descriptors := filepath.Dir(paths[0]), paths[1], paths[2], paths[4]
	if err := os.WriteFile(filepath.Join(paths[0], "mine"), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	source, err := OpenBeneath(volume, "inside")
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if err := os.Rename(paths[0], filepath.Join(volume, "moved")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, paths[0]); err != nil {
		t.Fatal(err)
	}
	if err := MountDescriptor(descriptors, source, target, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, path := range []string{target, descriptors} {
			if err := Unmount(path, true); err != nil {
				t.Error(err)
			}
		}
	})
	if text, err := os.ReadFile(filepath.Join(target, "mine")); err != nil || string(text) != "mine" {
		t.Errorf("%q, %v", text, err)
	}
	if same, err := SameFile(source, target); err != nil || !same {
		t.Errorf("the same: %v, %v", same, err)
	}
	if same, err := SameFile(source, secret); err != nil || same {
		t.Errorf("another one: %v, %v", same, err)
	}
	if mounts, err := Mounts(); err != nil || len(References(mounts, target)) != 0 {
		t.Error("a number of a descriptor is no identity", err)
	}
}

func TestKernelMountsAFile(t *testing.T) {
	paths := directories(t, "volume", ByDescriptor)
	for _, name := range []string{"volume/file", "onto"} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(paths[0]), name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	source, err := OpenBeneath(paths[0], "file")
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	onto := filepath.Join(filepath.Dir(paths[0]), "onto")
	if err := MountDescriptor(paths[1], source, onto, true); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(onto); err != nil || string(text) != "volume/file" {
		t.Errorf("%q, %v", text, err)
	}
	for _, path := range []string{onto, paths[1]} {
		if err := Unmount(path, false); err != nil {
			t.Error(err)
		}
	}
}

func TestKernelNumbers(t *testing.T) {
	machine, err := ReadMachine()
	if err != nil || machine.CPUs < 1 || machine.Memory < 1<<20 || len(machine.BootID) != 36 || machine.HostUUID == "" {
		t.Errorf("%+v, %v", machine, err)
	}
	if again, err := ReadMachine(); err != nil || again != machine {
		t.Errorf("%+v, %v", again, err)
	}
	pages, err := ReadPages()
	memory := pages.Memory()
	if err != nil || pages.Free == 0 || memory.WorkingSet == 0 || memory.WorkingSet > memory.Used || memory.Used > machine.Memory {
		t.Errorf("%+v: %+v, %v", pages, memory, err)
	}
	if cpu, err := ReadCPU(); err != nil || cpu.Total() <= 0 {
		t.Errorf("%+v, %v", cpu, err)
	}
	if used, err := SwapUsed(); err != nil || used > machine.Swap {
		t.Errorf("swap: %d of %d, %v", used, machine.Swap, err)
	}
	if all, _, err := Faults(); err != nil || all == 0 {
		t.Errorf("faults: %d, %v", all, err)
	}
	if limit, count, err := Processes(); err != nil || count < 5 || count > limit {
		t.Errorf("%d of %d processes, %v", count, limit, err)
	}
	if messages, err := Messages(); err != nil || messages == "" {
		t.Errorf("messages: %q, %v", messages, err)
	}
	found := false
	interfaces, err := Interfaces()
	for _, each := range interfaces {
		found = found || each.Name == "lo0"
	}
	if err != nil || !found {
		t.Errorf("%+v, %v", interfaces, err)
	}
}

func TestKernelProtects(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("protection needs root")
	}
	for _, on := range []bool{true, false} {
		if err := Protect(0, on); err != nil {
			t.Error(err)
		}
	}
}
