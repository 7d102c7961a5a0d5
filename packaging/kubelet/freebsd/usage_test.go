package freebsd

import (
	"testing"
	"time"
)

func TestMemory(t *testing.T) {
	for _, c := range []struct {
		pages Pages
		want  Memory
	}{
		{Pages{Total: 1000, Free: 300, Inactive: 200, Active: 100}, Memory{700, 500, 100}},
		{Pages{Total: 1000, Free: 100, Inactive: 100, ARC: 400, ARCMin: 100}, Memory{900, 500, 0}},
		{Pages{Total: 1000, Free: 100, ARC: 50, ARCMin: 100}, Memory{900, 900, 0}},
		{Pages{Total: 100, Free: 90, Inactive: 20}, Memory{10, 0, 0}},
	} {
		if got := c.pages.Memory(); got != c.want {
			t.Errorf("%+v: %+v, want %+v", c.pages, got, c.want)
		}
	}
}

func TestCPU(t *testing.T) {
	got := cpuOf([tickStates]uint64{127 * 3, 127, 64, 63, 1000}, 127)
	if got.User != 4*time.Second || got.System != time.Second || got.Total() != 5*time.Second {
		t.Errorf("%+v", got)
	}
	// A year of 128 processors is no overflow.
	if got := cpuOf([tickStates]uint64{127 * 86400 * 365 * 128}, 127); got.User != 365*128*24*time.Hour {
		t.Errorf("%+v", got)
	}
	if got := cpuOf([tickStates]uint64{1}, 0); got.Total() != 0 {
		t.Errorf("no clock: %+v", got)
	}
}

func TestRate(t *testing.T) {
	var rate Rate
	start := time.Unix(1000, 0)
	if got := rate.Update(start, 5e9); got != nil {
		t.Errorf("one reading: %v", *got)
	}
	if got := rate.Update(start.Add(time.Millisecond), 6e9); got != nil {
		t.Errorf("too close: %v", *got)
	}
	if got := rate.Update(start.Add(2*time.Second), 8e9); got == nil || *got != 1.5e9 {
		t.Errorf("two readings: %v", got)
	}
	if got := rate.Update(start.Add(2500*time.Millisecond), 9e9); got == nil || *got != 1.5e9 {
		t.Errorf("the last one is kept: %v", got)
	}
	if got := rate.Update(start.Add(4*time.Second), 1e9); got == nil || *got != 0 {
		t.Errorf("a counter that fell: %v", got)
	}
}

func TestSumNeverFalls(t *testing.T) {
	var sum Sum
	for _, c := range []struct {
		counters map[string]uint64
		want     uint64
	}{
		{map[string]uint64{"a": 10}, 10},
		{map[string]uint64{"a": 15, "b": 1}, 16},
		{map[string]uint64{"b": 2}, 17},
		{map[string]uint64{"a": 3, "b": 1}, 21},
		{nil, 21},
	} {
		if got := sum.Update(c.counters); got != c.want {
			t.Errorf("%v: %d, want %d", c.counters, got, c.want)
		}
	}
}
