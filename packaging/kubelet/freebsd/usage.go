package freebsd

import "time"

// Pages is what the kernel counts of memory, in bytes: vm.stats.vm.* and, where ZFS is loaded, kstat.zfs.misc.arcstats.
type Pages struct {
	// Total is hw.physmem.
	Total, Free, Inactive, Active uint64
	// ARC is ZFS's cache, which the kernel counts as wired though it gives back all but ARCMin of it.
	ARC, ARCMin uint64
}

// Memory is what kubelet knows of a node's memory, in bytes.
type Memory struct {
	// Used is all that is not free, WorkingSet what could not be given back without writing to swap or killing.
	Used, WorkingSet, Resident uint64
}

// Memory sums the pages up. Laundry pages (dirty, on their way to swap) count as used: without swap they stay.
func (p Pages) Memory() Memory {
	reclaimable := p.Inactive
	if p.ARC > p.ARCMin {
		reclaimable += p.ARC - p.ARCMin
	}
	used := below(p.Total, p.Free)
	return Memory{Used: used, WorkingSet: below(used, reclaimable), Resident: p.Active}
}

// below subtracts; the counters are read one after the other and need not fit together.
func below(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

// Ticks of kern.cp_time, in its order.
const (
	ticksUser = iota
	ticksNice
	ticksSystem
	ticksInterrupt
	ticksIdle
	tickStates
)

// CPU is the time that processors have spent, since boot.
type CPU struct {
	User, System time.Duration
}

// Total is the time that was not idle.
func (c CPU) Total() time.Duration { return c.User + c.System }

// cpuOf turns ticks of the statistics clock, so many a second, into time.
func cpuOf(ticks [tickStates]uint64, hertz uint64) CPU {
	if hertz == 0 {
		return CPU{}
	}
	duration := func(count uint64) time.Duration {
		return time.Duration(count/hertz)*time.Second + time.Duration(count%hertz)*time.Second/time.Duration(hertz)
	}
	return CPU{
		User:   duration(ticks[ticksUser] + ticks[ticksNice]),
		System: duration(ticks[ticksSystem] + ticks[ticksInterrupt]),
	}
}

// MinRateInterval is the least time between two samples that a rate is made of: closer ones say more of the clock's ticks.
const MinRateInterval = time.Second

// Rate turns readings of a counter of CPU time into nanocores.
type Rate struct {
	at    time.Time
	total uint64
	value uint64
	known bool
}

// Update takes a reading in nanoseconds and returns the nanocores since the one before; nil until there are two.
func (r *Rate) Update(now time.Time, total uint64) *uint64 {
	elapsed := now.Sub(r.at)
	switch {
	case r.at.IsZero():
		r.at, r.total = now, total
	case elapsed < MinRateInterval:
	default:
		r.value, r.known = uint64(float64(below(total, r.total))/elapsed.Seconds()), true
		r.at, r.total = now, total
	}
	if !r.known {
		return nil
	}
	value := r.value
	return &value
}

// Sum adds up counters whose owners come and go and never falls, as a cgroup's does not when a pod of it ends.
type Sum struct {
	last  map[string]uint64
	total uint64
}

// Update takes the counters of all owners that are there and returns the sum of all that was ever counted.
func (s *Sum) Update(counters map[string]uint64) uint64 {
	for owner, count := range counters {
		before := s.last[owner]
		if count < before {
			// Started anew.
			before = 0
		}
		s.total += count - before
	}
	s.last = make(map[string]uint64, len(counters))
	for owner, count := range counters {
		s.last[owner] = count
	}
	return s.total
}
