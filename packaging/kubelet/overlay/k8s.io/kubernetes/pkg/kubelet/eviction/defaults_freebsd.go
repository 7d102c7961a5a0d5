//go:build freebsd

// The default thresholds of hard eviction, which upstream gives other systems than Linux without inodes: UFS has a fixed
// number of them, and ZFS counts what its free space is good for.
//
//overlay:replaces defaults_others.go

package eviction

// DefaultEvictionHard are the thresholds of a configuration without any.
var DefaultEvictionHard = map[string]string{
	"memory.available":   "100Mi",
	"nodefs.available":   "10%",
	"nodefs.inodesFree":  "5%",
	"imagefs.available":  "15%",
	"imagefs.inodesFree": "5%",
}
