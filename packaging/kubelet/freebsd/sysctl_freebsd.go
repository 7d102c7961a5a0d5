package freebsd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// number reads a sysctl that is an int, a long or an unsigned one of 32 or 64 bits.
func number(name string) (uint64, error) {
	raw, err := unix.SysctlRaw(name)
	if err != nil {
		return 0, fmt.Errorf("sysctl %s: %w", name, err)
	}
	switch len(raw) {
	case 4:
		return uint64(binary.NativeEndian.Uint32(raw)), nil
	case 8:
		return binary.NativeEndian.Uint64(raw), nil
	}
	return 0, fmt.Errorf("sysctl %s: %d bytes are no number", name, len(raw))
}

// numbers reads several.
func numbers(wanted map[string]*uint64) error {
	for name, into := range wanted {
		value, err := number(name)
		if err != nil {
			return err
		}
		*into = value
	}
	return nil
}

// optionalNumber reads a sysctl of a module or a newer kernel: 0 where it is not there.
func optionalNumber(name string) (uint64, error) {
	value, err := number(name)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	return value, err
}

// ReadMachine reads what does not change.
func ReadMachine() (Machine, error) {
	var cpus, memory, swap uint64
	if err := numbers(map[string]*uint64{"hw.ncpu": &cpus, "hw.physmem": &memory, "vm.swap_total": &swap}); err != nil {
		return Machine{}, err
	}
	cores, err := optionalNumber("kern.smp.cores")
	if err != nil {
		return Machine{}, err
	}
	// Not every machine knows its clock.
	mhz, err := optionalNumber("hw.clockrate")
	if err != nil {
		return Machine{}, err
	}
	uuid, err := unix.Sysctl("kern.hostuuid")
	if err != nil {
		return Machine{}, fmt.Errorf("sysctl kern.hostuuid: %w", err)
	}
	release, err := unix.Sysctl("kern.osrelease")
	if err != nil {
		return Machine{}, fmt.Errorf("sysctl kern.osrelease: %w", err)
	}
	boot, err := unix.SysctlRaw("kern.boot_id")
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return Machine{}, fmt.Errorf("sysctl kern.boot_id: %w", err)
	}
	booted, err := BootTime()
	if err != nil {
		return Machine{}, err
	}
	return Machine{
		CPUs: int(cpus), Cores: int(cores), MHz: int(mhz), Memory: memory, Swap: swap,
		HostUUID: uuid, BootID: bootID(boot, booted), Release: release,
	}, nil
}

// BootTime is when the kernel started.
func BootTime() (time.Time, error) {
	boot, err := unix.SysctlTimeval("kern.boottime")
	if err != nil {
		return time.Time{}, fmt.Errorf("sysctl kern.boottime: %w", err)
	}
	return time.Unix(boot.Unix()), nil
}

// ReadPages reads the counters of memory.
func ReadPages() (Pages, error) {
	var size, free, inactive, active uint64
	var pages Pages
	err := numbers(map[string]*uint64{
		"hw.physmem": &pages.Total, "vm.stats.vm.v_page_size": &size, "vm.stats.vm.v_free_count": &free,
		"vm.stats.vm.v_inactive_count": &inactive, "vm.stats.vm.v_active_count": &active,
	})
	if err != nil {
		return Pages{}, err
	}
	pages.Free, pages.Inactive, pages.Active = free*size, inactive*size, active*size
	if pages.ARC, err = optionalNumber("kstat.zfs.misc.arcstats.size"); err != nil {
		return Pages{}, err
	}
	pages.ARCMin, err = optionalNumber("kstat.zfs.misc.arcstats.c_min")
	return pages, err
}

// Faults returns the page faults since boot, and those that had to read.
func Faults() (all, major uint64, err error) {
	err = numbers(map[string]*uint64{"vm.stats.vm.v_vm_faults": &all, "vm.stats.vm.v_io_faults": &major})
	return all, major, err
}

// ReadCPU reads how busy the processors have been.
func ReadCPU() (CPU, error) {
	raw, err := unix.SysctlRaw("kern.cp_time")
	if err != nil {
		return CPU{}, fmt.Errorf("sysctl kern.cp_time: %w", err)
	}
	var ticks [tickStates]uint64
	if len(raw) != len(ticks)*8 {
		return CPU{}, fmt.Errorf("sysctl kern.cp_time: %d bytes, not %d", len(raw), len(ticks)*8)
	}
	for i := range ticks {
		ticks[i] = binary.NativeEndian.Uint64(raw[i*8:])
	}
	clock, err := unix.SysctlClockinfo("kern.clockrate")
	if err != nil {
		return CPU{}, fmt.Errorf("sysctl kern.clockrate: %w", err)
	}
	return cpuOf(ticks, uint64(clock.Stathz)), nil
}

// struct xswdev of sys/vm/vm_param.h: where the blocks in use stand.
const (
	swapUsedOffset = 24
	swapBytes      = 32
)

// SwapUsed returns the bytes of swap that are in use.
func SwapUsed() (uint64, error) {
	size, err := number("vm.stats.vm.v_page_size")
	if err != nil {
		return 0, err
	}
	used := uint64(0)
	for device := 0; ; device++ {
		raw, err := unix.SysctlRaw("vm.swap_info", device)
		if errors.Is(err, unix.ENOENT) {
			return used * size, nil
		}
		if err != nil {
			return 0, fmt.Errorf("sysctl vm.swap_info: %w", err)
		}
		if len(raw) < swapBytes {
			return 0, fmt.Errorf("sysctl vm.swap_info: %d bytes, not %d", len(raw), swapBytes)
		}
		used += uint64(binary.NativeEndian.Uint32(raw[swapUsedOffset:]))
	}
}

// Processes returns how many processes there may be and how many there are.
func Processes() (limit, count int64, err error) {
	allowed, err := number("kern.maxproc")
	if err != nil {
		return 0, 0, err
	}
	// One struct kinfo_proc a process, each beginning with its size.
	raw, err := unix.SysctlRaw("kern.proc.proc")
	if err != nil {
		return 0, 0, fmt.Errorf("sysctl kern.proc.proc: %w", err)
	}
	if len(raw) < 4 {
		return 0, 0, fmt.Errorf("sysctl kern.proc.proc: %d bytes", len(raw))
	}
	size := int(binary.NativeEndian.Uint32(raw))
	if size <= 0 {
		return 0, 0, fmt.Errorf("sysctl kern.proc.proc: a process of %d bytes", size)
	}
	return int64(allowed), int64(len(raw) / size), nil
}

// Messages returns the kernel's message buffer.
func Messages() (string, error) {
	raw, err := unix.SysctlRaw("kern.msgbuf")
	if err != nil {
		return "", fmt.Errorf("sysctl kern.msgbuf: %w", err)
	}
	return unix.ByteSliceToString(raw), nil
}

// Interface is what an interface of the host has carried.
type Interface struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors            uint64
}

// Interfaces reads the counters of the interfaces of the host (NET_RT_IFLIST, net(4)).
func Interfaces() ([]Interface, error) {
	rib, err := syscall.RouteRIB(syscall.NET_RT_IFLIST, 0)
	if err != nil {
		return nil, fmt.Errorf("sysctl net.route: %w", err)
	}
	var found []Interface
	for len(rib) >= 4 {
		length := int(binary.NativeEndian.Uint16(rib))
		if length < 4 || length > len(rib) {
			return nil, fmt.Errorf("sysctl net.route: a message of %d bytes", length)
		}
		message := rib[:length]
		rib = rib[length:]
		if message[3] != unix.RTM_IFINFO || len(message) < int(unsafe.Sizeof(unix.IfMsghdr{})) {
			continue
		}
		header := (*unix.IfMsghdr)(unsafe.Pointer(&message[0]))
		named, err := net.InterfaceByIndex(int(header.Index))
		if err != nil {
			// Gone meanwhile.
			continue
		}
		data := &header.Data
		found = append(found, Interface{
			Name:    named.Name,
			RxBytes: data.Ibytes, RxPackets: data.Ipackets, RxErrors: data.Ierrors, RxDropped: data.Iqdrops,
			TxBytes: data.Obytes, TxPackets: data.Opackets, TxErrors: data.Oerrors,
		})
	}
	return found, nil
}

// Operations of procctl(2)'s PROC_SPROTECT, sys/procctl.h.
const (
	procSprotect = 1
	pprotSet     = 1
	pprotClear   = 2
	idtypePID    = 0
)

// Protect keeps a process from being killed for want of memory, as protect(1) does, or ends that. 0 is this process.
func Protect(pid int, on bool) error {
	if pid == 0 {
		pid = os.Getpid()
	}
	operation := int32(pprotClear)
	if on {
		operation = pprotSet
	}
	_, _, errno := unix.Syscall6(unix.SYS_PROCCTL, idtypePID, uintptr(pid), procSprotect, uintptr(unsafe.Pointer(&operation)), 0, 0)
	if errno != 0 {
		return fmt.Errorf("procctl(PROC_SPROTECT) of process %d: %w", pid, errno)
	}
	return nil
}
