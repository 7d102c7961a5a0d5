//go:build freebsd

// The owner of a projected file (a service account token for runAsUser). Upstream leaves it root's on other systems than
// Linux and only warns, so a container that runs as somebody else cannot read its token. Rests on lchown(2).
//
//overlay:replaces atomic_writer_unsupported.go

package util

import "os"

func (w *AtomicWriter) lchown(name string, uid, gid int) error {
	return os.Lchown(name, uid, gid)
}
