// Package freebsd is what a kubelet needs of FreeBSD's kernel: mounts, memory, processors, kills, and directories that a
// container may change at the same time. The overlay files are thin adapters between it and the interfaces of Kubernetes.
// What is pure, or the same on every Unix, has no build constraint and is tested on any machine; system calls and sysctls
// of FreeBSD's own are in files that end with _freebsd.go.
package freebsd
