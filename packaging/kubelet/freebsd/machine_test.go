package freebsd

import (
	"reflect"
	"testing"
	"time"
)

func TestBootID(t *testing.T) {
	random := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	if got := bootID(random, time.Time{}); got != "00010203-0405-0607-0809-0a0b0c0d0e0f" {
		t.Error(got)
	}
	first, second := bootID(nil, time.Unix(1000, 5)), bootID(nil, time.Unix(1001, 5))
	if first == second || first != bootID(nil, time.Unix(1000, 900)) || len(first) != 36 {
		t.Error(first, second)
	}
}

func TestThreads(t *testing.T) {
	for _, c := range []struct {
		cpus, cores int
		want        [][]int
	}{
		{4, 2, [][]int{{0, 1}, {2, 3}}},
		{2, 2, [][]int{{0}, {1}}},
		{1, 0, [][]int{{0}}},
		{2, 8, [][]int{{0}, {1}}},
	} {
		if got := (Machine{CPUs: c.cpus, Cores: c.cores}).Threads(); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%d of %d: %v", c.cpus, c.cores, got)
		}
	}
}
