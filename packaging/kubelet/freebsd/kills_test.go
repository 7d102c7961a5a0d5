package freebsd

import (
	"reflect"
	"strings"
	"testing"
)

func TestKills(t *testing.T) {
	messages := "<6>epair0a: link state changed to UP\n" +
		"<3>pid 4021 (hog (x)), jid 17, uid 0, was killed: failed to reclaim memory\n" +
		"<3>pid 1 (sh), jid 0, uid 1001, was killed: out of swap space\r\n" +
		"<3>pid 2 (cc), jid 0, uid 0, was killed: text file modification\n" +
		"pid 3 (vi), jid 0, uid 0: exited on signal 11\n"
	want := []Kill{
		{4021, "hog (x)", 17, "failed to reclaim memory"},
		{1, "sh", 0, "out of swap space"},
	}
	if got := Kills(messages); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestNewMessages(t *testing.T) {
	long := strings.Repeat("some line\n", 200)
	for _, c := range []struct{ before, now, want string }{
		{"", "a\n", "a\n"},
		{"a\nb\n", "a\nb\n", ""},
		{"a\nb\n", "a\nb\nc\n", "c\n"},
		{"x" + long + "end\n", long[500:] + "end\nnew\n", "new\n"},
		{"gone\n", "other\n", "other\n"},
	} {
		if got := NewMessages(c.before, c.now); got != c.want {
			t.Errorf("%.20q to %.20q: %.40q", c.before, c.now, got)
		}
	}
}
