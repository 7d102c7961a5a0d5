#!/bin/sh
# On the FreeBSD machine, as root, in run.sh's directory: removes what runs of these scripts left behind, those that were cut short
# too. Idempotent; says what it cannot remove, and then fails.
#
#   clean.sh [DATASET]
#
# Ours are processes and mounts of this directory and of /var/tmp/cellblock-e2e-*, and kernel objects with the prefixes of our
# servers: cb (guest.sh, bench.sh), e and a letter (e2e), dm (the demo), ct and rt (tests of network and runtime).
set -u

dir=$(cd "$(dirname "$0")" && pwd)
dataset=${1:-}
places="$dir/|/var/tmp/cellblock-e2e-"
prefixes='(cb|e[a-z]|dm|ct|rt)'
failures=0

failed() {
    echo "clean.sh: $*" >&2
    failures=$((failures + 1))
}

# Servers first: they restore what goes. Before them the daemon(8) of a service, which starts its server again.
for pid in $(pgrep -f "^$dir/prefix/sbin/cellblock "); do
    parent=$(ps -o ppid= -p "$pid")
    [ "$(ps -o comm= -p $parent)" != daemon ] || kill -9 $parent
done
for pattern in "^($dir/(prefix/sbin/)?|\./)(cellblock|kubelet) " "^[^ ]*/e2e (soak|upgrade|specs|images|bench-pods|bench-pull) " '^[^ ]*/cellblock-monitor '; do
    for pid in $(pgrep -f "$pattern"); do
        kill -9 "$pid" 2>/dev/null
        while kill -0 "$pid" 2>/dev/null; do sleep 1; done
    done
done
for jail in $(jls -q name | grep -E "^$prefixes[sx]?[0-9a-f]{12}$"; jls -q name | grep -xE "ctoutside|cellblock-bench"); do
    jail -R "$jail" || failed "jail $jail is left"
done
for interface in $(ifconfig -l | tr ' ' '\n' | grep -E "^($prefixes([0-9a-f]{12}o|br0)|node0)$"); do
    ifconfig "$interface" destroy || failed "interface $interface is left"
done
# The deepest first. Paths have no spaces here.
for mount in $(mount -p | awk '{print $2}' | grep -E "^($places)" | sort -r); do
    umount -f "$mount" || failed "mount $mount is left"
done
if [ -e /dev/pf ]; then
    for anchor in $(pfctl -q -s Anchors | grep -E '^ *cellblock(-..)?$'); do
        for child in $(pfctl -q -a "$anchor" -s Anchors); do
            # An empty load removes an anchor that has rules; its tables go by themselves where they can.
            pfctl -q -a "$child" -f /dev/null
            pfctl -q -a "$child" -F Tables 2>/dev/null
        done
    done
fi
rctl 2>/dev/null | grep -E "^jail:$prefixes[sx]?[0-9a-f]{12}" | while read -r rule; do rctl -r "$rule"; done
if [ -n "$dataset" ]; then
    # What is cloned goes before what it was cloned from.
    for child in containers imported kept trash chains suites images soak hostile growth pulls upgrade package; do
        zfs list "$dataset/$child" >/dev/null 2>&1 || continue
        # A test that broke off left its holds.
        zfs list -H -r -t snapshot -o name "$dataset/$child" | xargs -n 1 zfs holds -H 2>/dev/null |
            while read -r snapshot tag _; do zfs release "$tag" "$snapshot"; done
        zfs destroy -r -f "$dataset/$child" || failed "dataset $dataset/$child is left"
    done
fi
rm -rf "$dir/root" "$dir/state" "$dir/bench-root" "$dir/bench-state" "$dir/node" "$dir/specs" "$dir/tmp" "$dir/prefix" /var/tmp/cellblock-e2e-* ||
    failed "files are left"
[ "$failures" = 0 ]
