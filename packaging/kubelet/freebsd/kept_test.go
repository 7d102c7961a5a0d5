package freebsd

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestKept(t *testing.T) {
	var kept Kept[int]
	asked := 0
	answer := func() (int, error) { asked++; return asked, nil }
	fail := func() (int, error) { asked++; return 0, errors.New("down") }
	for i, c := range []struct {
		age, stale  time.Duration
		ask         func() (int, error)
		value, asks int
		fails       bool
	}{
		{time.Hour, time.Hour, fail, 0, 1, true}, // there is no answer yet
		{0, 0, answer, 2, 2, false},
		{time.Hour, 0, fail, 2, 2, false}, // young enough
		{0, 0, answer, 3, 3, false},
		{0, time.Hour, fail, 3, 4, false}, // better than none
		{0, 0, fail, 0, 5, true},          // too old
		{0, 0, answer, 6, 6, false},
	} {
		value, err := kept.Get(c.age, c.stale, c.ask)
		if value != c.value || asked != c.asks || (err != nil) != c.fails {
			t.Errorf("%d: %d (%v), asked %d times", i, value, err, asked)
		}
	}
}

func TestKeptAsksOnceForAllThatWait(t *testing.T) {
	var kept Kept[int32]
	var asked atomic.Int32
	begun, proceed := make(chan struct{}, 10), make(chan struct{})
	ask := func() (int32, error) {
		begun <- struct{}{}
		<-proceed
		return asked.Add(1), nil
	}
	var group sync.WaitGroup
	get := func() { _, _ = kept.Get(0, 0, ask) }
	group.Go(get)
	<-begun
	for range 5 {
		group.Go(get)
	}
	time.Sleep(50 * time.Millisecond)
	close(proceed)
	group.Wait()
	if got := asked.Load(); got != 2 {
		t.Errorf("asked %d times", got)
	}
}
