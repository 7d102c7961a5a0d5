// Upstream has possibleCPUs for Linux, macOS and Windows only, and the package does not compile without. It lists Linux's
// /sys directories to be masked, of which FreeBSD has none.

package securitycontext

func possibleCPUs() []int {
	return nil
}
