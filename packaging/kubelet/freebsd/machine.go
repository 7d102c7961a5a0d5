package freebsd

import (
	"encoding/hex"
	"fmt"
	"time"
)

// Machine is what does not change while it runs.
type Machine struct {
	// CPUs counts hardware threads; Cores the cores that they share.
	CPUs, Cores, MHz int
	// Memory and Swap are in bytes.
	Memory, Swap uint64
	// HostUUID is kern.hostuuid, which /etc/rc.d/hostid keeps, BootID another one after each boot.
	HostUUID, BootID string
	// Release is such as 15.1-RELEASE-p1.
	Release string
}

// bootID spells kern.boot_id, 16 random bytes, as Linux does; where the kernel has none, the second of the boot stands for it.
func bootID(random []byte, booted time.Time) string {
	if len(random) != 16 {
		return fmt.Sprintf("00000000-0000-0000-0000-%012x", booted.Unix())
	}
	text := hex.EncodeToString(random)
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}

// Threads returns the processors of each core. FreeBSD numbers the threads of a core one after the other.
func (m Machine) Threads() [][]int {
	cores := max(1, min(m.Cores, m.CPUs))
	threads := make([][]int, cores)
	for cpu := range m.CPUs {
		core := cpu * cores / m.CPUs
		threads[core] = append(threads[core], cpu)
	}
	return threads
}
