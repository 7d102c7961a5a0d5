package freebsd

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Kill is a process that the kernel killed for want of memory.
type Kill struct {
	PID  int
	Name string
	// Jail is 0 for a process of the host.
	Jail   int
	Reason string
}

// killed is the line of killproc() in sys/kern/kern_sig.c.
var killed = regexp.MustCompile(`pid (\d+) \((.*)\), jid (\d+), uid \d+, was killed: (.+)$`)

// reasons are those of vm_pageout_oom() in sys/vm/vm_pageout.c; killproc() is called for others too.
var reasons = []string{"failed to reclaim memory", "a thread waited too long to allocate a page", "out of swap space"}

// Kills finds the kernel's messages about kills for want of memory.
func Kills(messages string) []Kill {
	var kills []Kill
	for line := range strings.Lines(messages) {
		match := killed.FindStringSubmatch(strings.TrimRight(line, "\r\n"))
		if match == nil || !slices.Contains(reasons, match[4]) {
			continue
		}
		pid, _ := strconv.Atoi(match[1])
		jail, _ := strconv.Atoi(match[3])
		kills = append(kills, Kill{PID: pid, Name: match[2], Jail: jail, Reason: match[4]})
	}
	return kills
}

// tailBytes is how much of the message buffer's end tells where it went on.
const tailBytes = 512

// NewMessages returns what has been added to the kernel's message buffer, which drops its oldest messages. All of it is new
// when nothing of before is found.
func NewMessages(before, now string) string {
	tail := before[max(0, len(before)-tailBytes):]
	if tail == "" {
		return now
	}
	if at := strings.LastIndex(now, tail); at >= 0 {
		return now[at+len(tail):]
	}
	return now
}
