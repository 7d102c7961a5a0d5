package freebsd

import (
	"reflect"
	"strings"
	"testing"
)

var table = []Mount{
	{From: "zroot/ROOT/default", On: "/", Type: "zfs"},
	{From: "tmpfs", On: "/kubelet/a", Type: "tmpfs"},
	{From: "tmpfs", On: "/kubelet/b", Type: "tmpfs"},
	{From: "/kubelet/a", On: "/root/1/a", Type: "nullfs", Flags: FlagReadOnly | FlagNoSuid},
	{From: "/kubelet/a", On: "/root/2/a", Type: "nullfs"},
	{From: "/dev/da1p1", On: "/kubelet/disk", Type: "ufs"},
	{From: "/dev/da1p1", On: "/kubelet/again", Type: "ufs"},
	{From: "/kubelet/.descriptors/9", On: "/kubelet/sub/0", Type: "nullfs"},
	{From: "/kubelet/.descriptors/9", On: "/kubelet/sub/1", Type: "nullfs"},
}

func TestReferences(t *testing.T) {
	for path, want := range map[string][]string{
		"/kubelet/a":     {"/root/1/a", "/root/2/a"},
		"/kubelet/b":     {},
		"/root/1/a":      {"/kubelet/a", "/root/2/a"},
		"/kubelet/disk":  {"/kubelet/again"},
		"/kubelet/sub/0": {},
		"/nowhere":       {},
	} {
		if got := References(table, path); !reflect.DeepEqual(got, want) {
			t.Errorf("References(%s) = %v, want %v", path, got, want)
		}
	}
}

func TestTheTopmostMountCounts(t *testing.T) {
	twice := append([]Mount{}, Mount{From: "x", On: "/m", Type: "tmpfs"}, Mount{From: "/low", On: "/m", Type: "nullfs"})
	if got, ok := At(twice, "/m"); !ok || got.Type != "nullfs" {
		t.Errorf("At = %v, %v", got, ok)
	}
	if _, ok := At(twice, "/m/below"); ok {
		t.Error("a directory below a mount point is none")
	}
}

func TestOptionsInTheWordsOfMount(t *testing.T) {
	if got := table[3].Options(); !reflect.DeepEqual(got, []string{"ro", "nosuid"}) {
		t.Errorf("Options = %v", got)
	}
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		source, kind string
		options      []string
		want         Request
	}{
		{"tmpfs", "tmpfs", []string{"size=1048576", "nr_inodes=10"}, Request{[][2]string{
			{"fstype", "tmpfs"}, {"fspath", "/t"}, {"from", "tmpfs"}, {"size", "1048576"}, {"inodes", "10"}}, 0}},
		{"/s", "", []string{"bind", "ro", "nodev", "noexec"}, Request{[][2]string{
			{"fstype", "nullfs"}, {"fspath", "/t"}, {"from", "/s"}}, FlagReadOnly | FlagNoExec}},
		{"tmpfs", "tmpfs", []string{"remount", "size=1"}, Request{[][2]string{
			{"fstype", "tmpfs"}, {"fspath", "/t"}, {"from", "tmpfs"}, {"size", "1"}}, FlagUpdate}},
	} {
		got, ok, err := Plan(c.source, "/t", c.kind, c.options)
		if err != nil || !ok || !reflect.DeepEqual(got, c.want) {
			t.Errorf("Plan(%v) = %v, %v, %v", c.options, got, ok, err)
		}
	}
}

func TestPlanRefusesWhatTheKernelDoesNotHave(t *testing.T) {
	for _, options := range [][]string{{"noswap"}, {"size=x"}, {"bind", "rshared"}, {"bind", "size=1"}} {
		_, ok, err := Plan("tmpfs", "/t", "tmpfs", options)
		if !ok || err == nil || !strings.Contains(err.Error(), "/t") {
			t.Errorf("Plan(%v) = %v, %v", options, ok, err)
		}
	}
	if _, ok, err := Plan("host:/export", "/t", "nfs", []string{"hard"}); ok || err != nil {
		t.Errorf("nfs: %v, %v", ok, err)
	}
}
