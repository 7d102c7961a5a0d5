//go:build freebsd

// The sysctls that a pod may set without the administrator's leave (allowedUnsafeSysctls names others, or net.inet.* as a
// whole). Upstream's list is Linux's and empty elsewhere. Each of these is CTLFLAG_VNET (sys/netinet, 15.1): it is the pod's
// own and touches nobody else. TCP's keepalive timers are not among them, they are the whole kernel's.
//
//overlay:replaces safe_sysctls.go

package sysctl

import "context"

var safeSysctls = []string{
	"net.inet.ip.portrange.first",
	"net.inet.ip.portrange.last",
	"net.inet.ip.portrange.hifirst",
	"net.inet.ip.portrange.hilast",
	"net.inet.ip.ttl",
	"net.inet.tcp.syncookies",
	"net.inet.tcp.mssdflt",
	"net.inet.tcp.sendspace",
	"net.inet.tcp.recvspace",
	"net.inet.tcp.blackhole",
	"net.inet.udp.blackhole",
}

// SafeSysctlAllowlist returns the sysctls that every pod may set.
func SafeSysctlAllowlist(_ context.Context) []string {
	return safeSysctls
}
