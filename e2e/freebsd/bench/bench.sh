#!/bin/sh
# On the FreeBSD machine, in run.sh's directory: what a pod costs by hand, by the bare system calls, and by Cellblock, in the same run.
# Then how fast two pods send to each other, through the node and its pf, and two vnets on one bridge.
# Milliseconds, the mean of N pods (first argument, 8). Cellblock's times are the server's own, of whole RPCs, so that crictl's
# start is not in them. ZFS only where CELLBLOCK_BENCH_ZFS names a dataset. Removes what it made, also what a broken run left.
set -eu
set -o pipefail
cd "$(dirname "$0")"
pods=${1:-8}
dataset=${CELLBLOCK_BENCH_ZFS:-}
dir=$PWD
socket=unix://$dir/bench.sock
image=registry.k8s.io/e2e-test-images/busybox:1.29-2
server=
# Blocks of 64 KiB that are sent: seconds, under emulation too.
blocks=4000

now() { date +%s.%N; }
mean() { echo "$1 $2 $pods" | awk '{printf "%.1f", ($2 - $1) * 1000 / $3}'; }
# What the kernel holds for good: wired pages but for the caches of file systems.
kernel_memory() {
    sysctl -n vm.stats.vm.v_wire_count hw.pagesize vfs.bufspace kstat.zfs.misc.arcstats.size 2>/dev/null |
        awk '{v[NR] = $1} END {printf "%.0f", (v[1] * v[2] - v[3] - v[4]) / 1024}'
}
per_pod() { echo "$1 $2 $pods" | awk '{printf "%.0f", ($2 - $1) / $3}'; }
# MiB/s from one jail to the address of another; both have nc(1) and dd(1).
throughput() {
    jexec "$1" nc -l "$3" 5001 >/dev/null </dev/null &
    listener=$!
    sleep 2
    jexec "$2" sh -c "dd if=/dev/zero bs=64k count=$blocks | nc -N $3 5001" 2>&1 </dev/null |
        awk '/bytes transferred/ {sub(/^\(/, "", $(NF - 1)); printf "%.0f", $(NF - 1) / 1048576}'
    wait $listener
}
cri() { ./crictl -c crictl.yaml --runtime-endpoint "$socket" --image-endpoint "$socket" --timeout 300s "$@"; }

kldload -n pf if_bridge if_epair nullfs
sysctl -q net.inet.ip.forwarding=1 net.inet6.ip6.forwarding=1 >/dev/null
if [ -z "$(pfctl -q -sr 2>/dev/null)$(pfctl -q -sn 2>/dev/null)" ]; then
    printf 'nat-anchor "cellblock/*"\nrdr-anchor "cellblock/*"\npass all\nanchor "cellblock/*"\n' | pfctl -q -f -
    pfctl -q -e 2>/dev/null || :
fi

# Removes what by_hand made, all of it or a part.
clean_by_hand() {
    for file in tmp/pair[0-9]*; do
        number=${file#tmp/pair}
        jail -r "hand$number.c" 2>/dev/null || :
        umount -f "tmp/hand$number/dev" 2>/dev/null || :
        umount -f "tmp/hand$number" 2>/dev/null || :
        pfctl -q -a "cellblock/hand$number" -F nat 2>/dev/null || :
        jail -r "hand$number" 2>/dev/null || :
        pair=$(cat "$file" 2>/dev/null) && ifconfig "${pair}a" destroy 2>/dev/null || :
        rmdir "tmp/hand$number" 2>/dev/null || :
        rm -f "$file"
    done
    bridge=$(cat tmp/bridge 2>/dev/null) && ifconfig "$bridge" destroy 2>/dev/null || :
    rm -f tmp/bridge
    pfctl -q -t hand-pods -T kill 2>/dev/null || :
}

# Ends the server, and its pods with it.
end_server() {
    [ -n "$server" ] || return 0
    cri rmp -fa >/dev/null 2>&1 || :
    kill "$server" 2>/dev/null || :
    wait "$server" || :
    server=
}

# The exit code stays.
finish() {
    code=$?
    end_server
    clean_by_hand
    sh clean.sh "$dataset" || code=1
    exit $code
}

# What an administrator types for a pod, a container that ends at once, and their end.
by_hand() {
    bridge=$(ifconfig bridge create)
    echo "$bridge" >tmp/bridge
    ifconfig "$bridge" inet 172.29.0.1/16 up
    root=$dir/tmp/hand-root
    mkdir -p "$root"
    [ -d "$root/bin" ] || sh base.sh | tar -C "$root" -xf -
    before=$(kernel_memory)
    start=$(now)
    for n in $(jot "$pods" 2); do
        pair=$(ifconfig epair create)
        pair=${pair%a}
        echo "$pair" >"tmp/pair$n"
        ifconfig "$bridge" addm "${pair}a"
        ifconfig "${pair}a" up
        jail -c name="hand$n" path=/ host.hostname="hand$n" vnet persist children.max=10
        ifconfig "${pair}b" vnet "hand$n"
        ifconfig -j "hand$n" lo0 127.0.0.1/8 up
        ifconfig -j "hand$n" "${pair}b" inet "172.29.0.$n/16" up
        route -j "hand$n" -q add default 172.29.0.1 >/dev/null
        pfctl -q -t hand-pods -T add "172.29.0.$n"
        echo "rdr pass inet proto tcp to self port $((21000 + n)) -> 172.29.0.$n port 80" | pfctl -q -a "cellblock/hand$n" -f -
    done
    created=$(now)
    held=$(per_pod "$before" "$(kernel_memory)")
    hand_rate=$(throughput hand2 hand3 172.29.0.2)
    running=$(now)
    for n in $(jot "$pods" 2); do
        mkdir -p "tmp/hand$n"
        mount -t nullfs -o ro "$root" "tmp/hand$n"
        mount -t devfs -o ruleset=4 devfs "tmp/hand$n/dev"
        jail -c name="hand$n.c" path="$dir/tmp/hand$n" ip4=inherit ip6=inherit command=/bin/sh -c :
    done
    ran=$(now)
    for n in $(jot "$pods" 2); do
        jail -r "hand$n.c" 2>/dev/null || :
        umount "tmp/hand$n/dev"
        umount "tmp/hand$n"
        pfctl -q -a "cellblock/hand$n" -F nat
        pfctl -q -t hand-pods -T delete "172.29.0.$n"
        jail -r "hand$n"
        ifconfig "$(cat "tmp/pair$n")a" destroy
        rmdir "tmp/hand$n"
        rm "tmp/pair$n"
    done
    removed=$(now)
    clean_by_hand
    hand_create=$(mean "$start" "$created")
    hand_run=$(mean "$running" "$ran")
    hand_remove=$(mean "$ran" "$removed")
    echo "by hand: create $hand_create, container $hand_run, remove $hand_remove; the kernel's memory for a pod: $held KiB"
}

# Serves with a number of spares and a kind of root, makes the pods, one container in each, and removes them. With spares one pod
# a second at most, so that they are what is measured.
cellblock() {
    spares=$1
    rootfs=$2
    cat >bench.toml <<TOML
root = "$dir/bench-root"
state = "$dir/bench-state"
address = "$socket"
prefix = "cb"
spares = $spares
log_level = "info,cri::server::deliver=debug"
[image]
registry_config = "$dir/certs.d"
rootfs = "$rootfs"
zfs_dataset = "$([ "$rootfs" = zfs ] && echo "$dataset")"
[network]
pod_cidrs = ["10.131.0.0/16"]
[streaming]
address = "127.0.0.1:0"
TOML
    ./cellblock serve --config bench.toml >bench.log 2>&1 &
    server=$!
    until cri version >/dev/null 2>&1; do kill -0 $server || { tail -5 bench.log; return 1; }; sleep 1; done
    cri rmp -fa >/dev/null 2>&1
    cri pull "$image" >/dev/null 2>&1
    cat >tmp/bench-container.json <<JSON
{"metadata": {"name": "c"}, "image": {"image": "$image"}, "command": ["top"], "log_path": "c.log"}
JSON
    ids=
    before=$(kernel_memory)
    # The spares that were there at the start are to be there.
    [ "$spares" = 0 ] || sleep 5
    for n in $(jot "$pods"); do
        cat >tmp/bench-pod.json <<JSON
{"metadata": {"name": "b$n", "uid": "b$n", "namespace": "bench"}, "hostname": "b$n", "log_directory": "$dir/logs",
 "port_mappings": [{"container_port": 80, "host_port": $((22000 + n))}], "linux": {}}
JSON
        pod=$(cri runp tmp/bench-pod.json 2>/dev/null)
        id=$(cri create "$pod" tmp/bench-container.json tmp/bench-pod.json 2>/dev/null)
        cri start "$id" >/dev/null 2>&1
        ids="$ids $pod"
        [ "$spares" = 0 ] || sleep 1
    done
    held=$(per_pod "$before" "$(kernel_memory)")
    rate=$(pod_throughput $ids)
    for pod in $ids; do
        cri stopp "$pod" >/dev/null 2>&1
        cri rmp "$pod" >/dev/null 2>&1
    done
    end_server
    # Lines end in `Method milliseconds=N` or have the number before; RunPodSandbox{...}: the method's name once.
    for method in RunPodSandbox CreateContainer StartContainer StopPodSandbox RemovePodSandbox; do
        sed -n "s/.*method=$method}.*milliseconds=\([0-9]*\).*/$method \1/p" bench.log
    done | awk -v hand="$hand_create" -v floor="$floor_create" -v container="$hand_run" -v removal="$hand_remove" '
        {sum[$1] += $2; n[$1]++}
        function mean(method) {return n[method] ? sum[method] / n[method] : 0}
        function line(name, value, rest) {printf "  %-18s %8.1f   %s\n", name, value, rest}
        function of(value, other) {return sprintf("%.2f", value / other)}
        END {
            methods = split("RunPodSandbox CreateContainer StartContainer StopPodSandbox RemovePodSandbox", method, " ")
            for (i = 1; i <= methods; i++) if (!n[method[i]]) {print "bench.log has no times of " method[i]; exit 1}
            run = mean("RunPodSandbox")
            line("RunPodSandbox", run, of(run, hand) " of by hand, " of(run, floor) " of the floor")
            both = mean("CreateContainer") + mean("StartContainer")
            line("create and start", both, of(both, container) " of by hand")
            both = mean("StopPodSandbox") + mean("RemovePodSandbox")
            line("stop and remove", both, of(both, removal) " of by hand")
            parts = split("CreateContainer StartContainer StopPodSandbox RemovePodSandbox", part, " ")
            for (i = 1; i <= parts; i++) line("  " part[i], mean(part[i]), "")
        }'
    echo "  the kernel's memory for a pod and its container: $held KiB"
    echo "  from pod to pod, routed through pf: $rate MiB/s; by hand, on one bridge: $hand_rate"
}

# From the second pod's container to the first one's.
pod_throughput() {
    first=$(jls -q name | grep "^cb$(echo "$1" | cut -c 1-12)[.]c")
    second=$(jls -q name | grep "^cb$(echo "$2" | cut -c 1-12)[.]c")
    throughput "$first" "$second" "$(cri inspectp -o go-template --template '{{.status.network.ip}}' "$1")"
}

[ "$pods" -ge 2 ] || { echo "two pods at least" >&2; exit 2; }
clean_by_hand
sh clean.sh "$dataset"
: >crictl.yaml
mkdir -p logs tmp
trap finish EXIT
trap 'exit 1' HUP INT TERM
echo "FreeBSD $(uname -r), pf hashes: states $(sysctl -n net.pf.states_hashsize), source nodes $(sysctl -n net.pf.source_nodes_hashsize); $pods pods, milliseconds"
echo "the floor:"
./floor "$pods" | tee tmp/floor | sed 's/^/  /'
floor_create=$(awk '$1 == "create" {print $2}' tmp/floor)
by_hand
for rootfs in copy ${dataset:+zfs}; do
    for spares in 0 2; do
        echo "cellblock, $rootfs, $spares spares:"
        cellblock "$spares" "$rootfs"
    done
done
