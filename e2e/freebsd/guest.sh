#!/bin/sh
# On the FreeBSD machine, as root, in the directory that run.sh filled: cellblock, crictl, critest, e2e, suites/, certs.d/. Runs
# one part after the other and leaves its reports in reports/; the exit code is 0 when all parts passed. Removes before and after
# what it and broken runs left (clean.sh), but for pf's ruleset and forwarding where there were none.
#
#   guest.sh [-z DATASET] [-f REGEX] [-o SUBSTRING] PART ...
#
# Parts: suites demo scenario administrator images linux loop service soak hostile growth pulls upgrade package specs critest. -z: containers' roots on ZFS below this dataset, else copies.
# -f: only the specs of critest that match. -o: only our own specs whose names contain this.
set -u

dir=$(cd "$(dirname "$0")" && pwd)
cd "$dir" || exit 1
dataset=
focus=
only=
while getopts z:f:o: option; do
    case $option in
    z) dataset=$OPTARG ;;
    f) focus=$OPTARG ;;
    o) only=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))

socket=unix://$dir/cri.sock
busybox=registry.k8s.io/e2e-test-images/busybox:1.29-2
web=registry.k8s.io/e2e-test-images/nginx:1.14-2
linux=registry.k8s.io/e2e-test-images/linux-busybox:1
# Pods that the loop makes and removes, and seconds of the soak.
LOOP=${CELLBLOCK_E2E_LOOP:-20}
SOAK=${CELLBLOCK_E2E_SOAK:-60}
# Options of `e2e bench-pull`.
PULLS=${CELLBLOCK_E2E_PULLS:---rounds 3 --scale 4}
# The pods' gateway, and the port there of which nobody reads.
GATEWAY=10.130.0.1
STALLED=20999
# Seconds that what is being removed may still be seen.
SETTLE=120
failures=0

cri() { "$dir/crictl" -c "$dir/crictl.yaml" --runtime-endpoint "$socket" --image-endpoint "$socket" --timeout 120s "$@"; }

# What a run may not leave behind, one line each. What the server keeps while it runs (the bridge) is not in it.
inventory() {
    jls -d -q name | sort | sed 's/^/jail /'
    ifconfig -l | tr ' ' '\n' | sort | sed 's/^/interface /'
    mount -p | awk '{print "mount", $2, $3}' | sort
    pfctl -sA -v 2>/dev/null | sed 's/^ */anchor /' | sort
    rctl 2>/dev/null | sort | sed 's/^/rctl /'
    devfs rule showsets 2>/dev/null | sort | sed 's/^/ruleset /'
    [ -z "$dataset" ] || zfs list -H -o name -r "$dataset" | sort | sed 's/^/dataset /'
}

# Puts the lines into pf that `cellblock check` asks for, only where pf has no rules at all: a ruleset that is there is the
# operator's.
prepare() {
    # tmpfs is in most kernels and no module there.
    kldload -n pf if_bridge if_epair nullfs fdescfs
    kldload -n tmpfs 2>/dev/null
    sysctl -q net.inet.ip.forwarding=1 net.inet6.ip6.forwarding=1 >/dev/null
    if [ -z "$(pfctl -q -sr 2>/dev/null)$(pfctl -q -sn 2>/dev/null)" ]; then
        printf 'nat-anchor "cellblock/*"\nrdr-anchor "cellblock/*"\npass all\nanchor "cellblock/*"\n' | pfctl -q -f -
        pfctl -q -e 2>/dev/null
    fi
    mkdir -p reports logs tmp
    : >crictl.yaml
    cat >cellblock.toml <<TOML
root = "$dir/root"
state = "$dir/state"
address = "$socket"
[image]
registry_config = "$dir/certs.d"
rootfs = "$([ -n "$dataset" ] && echo zfs || echo copy)"
zfs_dataset = "$dataset"
allow_linux = false
[network]
pod_cidrs = ["${GATEWAY%.1}.0/16", "fd00:cb:82::/64"]
names = "local.cellblock"
pf_directory = "$dir/specs/filters"
[streaming]
address = "127.0.0.1:0"
TOML
    ./cellblock check --config cellblock.toml
}

serve() {
    "$dir/cellblock" serve --config cellblock.toml >>cellblock.log 2>&1 &
    server=$!
    echo $server >tmp/server.pid
    for _ in $(jot 60); do
        cri version >/dev/null 2>&1 && return
        kill -0 "$server" 2>/dev/null || break
        sleep 1
    done
    echo "the server does not answer; its log ends:" && tail -20 cellblock.log
    return 1
}

# Ends the server, also one that a test started in a shell of its own.
stop() {
    server=$(cat tmp/server.pid 2>/dev/null) || return 0
    rm tmp/server.pid
    kill "$server" 2>/dev/null
    wait "$server" 2>/dev/null
    while kill -0 "$server" 2>/dev/null; do sleep 1; done
}

# The end, also of a run that is cut short. The exit code stays.
finish() {
    code=$?
    stop
    sh clean.sh "$dataset" || code=1
    exit $code
}

# One test of one part: its name, then a command; the report is written at the end of the part.
check() {
    name=$1
    shift
    start=$(date +%s)
    if ("$@") >tmp/check.log 2>&1; then
        echo "ok      $part: $name ($(($(date +%s) - start)) s)"
        result=
    else
        echo "FAILED  $part: $name ($(($(date +%s) - start)) s)"
        tail -20 tmp/check.log | sed 's/^/        /'
        failures=$((failures + 1))
        result="<failure message=\"see below\">$(tail -40 tmp/check.log | sed 's/&/\&amp;/g; s/</\&lt;/g' | tr -d '\000-\010\013\014\016-\037')</failure>"
    fi
    echo "<testcase classname=\"$part\" name=\"$name\" time=\"$(($(date +%s) - start))\">$result</testcase>" >>"tmp/$part.cases"
}

report() {
    { echo '<?xml version="1.0" encoding="UTF-8"?>'
      echo "<testsuite name=\"freebsd $part\" hostname=\"$(uname -r)\">"
      cat "tmp/$part.cases"
      echo '</testsuite>'; } >"reports/junit-freebsd-$part.xml"
}

pod_file() {
    cat >"tmp/pod-$1.json" <<JSON
{"metadata": {"name": "$1", "uid": "uid-$1", "namespace": "default", "attempt": 1}, "hostname": "$1", "log_directory": "$dir/logs",
 "dns_config": {"servers": ["10.10.10.10"]}, "port_mappings": [${2:-}], "linux": {}}
JSON
}

# No `linux` in it: a kubelet that is built for FreeBSD sends none.
container_file() {
    name=$1
    image=$2
    shift 2
    command=
    for word; do command="$command${command:+, }\"$word\""; done
    cat >"tmp/container-$name.json" <<JSON
{"metadata": {"name": "$name"}, "image": {"image": "$image"}, "command": [$command], "log_path": "$name.log",
 "mounts": [{"container_path": "/logs", "host_path": "$dir/logs", "readonly": true}]}
JSON
}

# Starts a container in a pod; prints its id.
container() {
    pod=$1
    pod_name=$2
    shift 2
    container_file "$@"
    id=$(cri create "$pod" "tmp/container-$1.json" "tmp/pod-$pod_name.json") && cri start "$id" >/dev/null && echo "$id"
}

has() { grep -q -- "$1" || { echo "not there: $1"; return 1; }; }

get() { printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 5 "$@" | has 'It works'; }

# get, from inside a container.
get_inside() {
    id=$1
    shift
    cri exec -s "$id" sh -c "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 $*" | has 'It works'
}

. ./administrator.sh

# The tests of the crates, the conformance suites of the backends among them.
run_suites() {
    [ -z "$dataset" ] || zfs create "$dataset/suites"
    for suite in suites/*; do
        [ -x "$suite" ] || continue
        check "${suite##*/}" without_rules env CI=true ${dataset:+"CELLBLOCK_TEST_ZFS=$dataset/suites"} "$suite" --test-threads=1
    done
    [ -z "$dataset" ] || zfs destroy -r "$dataset/suites"
}

run_demo() {
    check "cellblock demo" without_rules ./cellblock demo
}

# The demo and the network's tests have prefixes, and so anchors, of their own: they make a ruleset themselves where there is none.
without_rules() {
    rules=$(pfctl -q -sn; pfctl -q -sr)
    # One at a time: pfctl(8) heeds only the last -F.
    pfctl -q -F nat
    pfctl -q -F rules
    "$@"
    code=$?
    echo "$rules" | pfctl -q -f -
    pfctl -q -e 2>/dev/null
    return $code
}

run_scenario() {
    serve || { failures=$((failures + 1)); return; }
    check "pull and images" pull_both
    pod_file web '{"container_port": 80, "host_port": 18411}'
    pod_file other
    pod=$(cri runp tmp/pod-web.json)
    id=$(container "$pod" web httpd "$web")
    other=$(cri runp tmp/pod-other.json)
    client=$(container "$other" other client "$busybox" top)
    jail=$(jls -q name | grep "^cb$(echo "$pod" | cut -c 1-12)" | head -1)
    address=$(cri inspectp -o go-template --template '{{.status.network.ip}}' "$pod")
    gateway=$GATEWAY
    check "a vnet jail for the pod" sh -c "jls -j $jail vnet | grep -x new"
    check "a child jail for the container" sh -c "jls -q name | grep '^$jail[.]'"
    check "no process of the pod itself" test -z "$(ps -J "$jail" -o pid= | head -1)"
    check "a route to the pod by its epair" sh -c "route -n get $address | grep 'interface: ${jail}o'"
    # pfctl(8) shows no anchor below one that has no rules of its own: 'cellblock/*' would print nothing.
    check "an anchor for the pod" sh -c "pfctl -a cellblock/${jail#cb} -sn | grep 18411"
    check "exec -s" exec_sync "$id"
    check "exec with its exit code" exec_code "$id"
    check "the log" sh -c "sleep 2; grep -q 'httpd is on port 80' logs/httpd.log"
    check "stats" sh -c "'$dir/crictl' -c '$dir/crictl.yaml' --runtime-endpoint '$socket' --image-endpoint '$socket' stats -o json $id | grep -q workingSetBytes"
    check "the pod from the node" get "$address" 80
    check "the host port on 127.0.0.1" get 127.0.0.1 18411
    check "the host port on ::1" get ::1 18411
    check "the host port on the node's own address" get "$gateway" 18411
    check "the host port from another pod" get_inside "$client" "$gateway" 18411
    check "the host port from the pod itself" get_inside "$id" "$gateway" 18411
    check "the pod from another pod" get_inside "$client" "$address" 80
    check "the bridge from a pod" cri exec -s "$client" ping -c 1 "$gateway"
    check "out by NAT" out_by_nat "$client"
    check "port-forward" port_forward "$pod"
    check "kill -9 of the server, and another on its state" restart "$id"
    check "stopp, rmp" cri rmp -f "$pod" "$other"
    cri rmi "$busybox" "$web" >/dev/null
    stop
}

# An image for Linux, under the linuxulator.
run_linux() {
    check "the kernel's module" kldload -n linux64
    serve || { failures=$((failures + 1)); return; }
    check "the image is refused where it is not allowed" refused_for_linux
    stop
    inventory >tmp/before
    sed -i '' 's/^allow_linux = .*/allow_linux = true/' cellblock.toml
    serve || { failures=$((failures + 1)); return; }
    pod_file linux
    check "pull" cri pull "$linux"
    pod=$(cri runp tmp/pod-linux.json)
    id=$(container "$pod" linux linux "$linux" sh -c 'uname -s; ended() { exit 5; }; trap ended TERM; while :; do sleep 1; done')
    check "its log" sh -c "sleep 3; grep -q 'stdout F Linux' logs/linux.log"
    check "procfs, links of descriptors, sysfs and shared memory" cri exec -s "$id" sh -c \
        'grep -q ^Name: /proc/self/status && readlink /proc/self/fd/0 && ls /sys/devices && echo x >/dev/shm/x && hostname | grep -x linux'
    check "its bridge" cri exec -s "$id" ping -c 1 "$GATEWAY"
    check "stop, and its exit code" exits "$id" 5
    check "rmp" cri rmp -f "$pod"
    cri rmi "$linux" >/dev/null
    stop
    sed -i '' 's/^allow_linux = .*/allow_linux = false/' cellblock.toml
    check "nothing is left" nothing_left
}

refused_for_linux() {
    cri pull "$linux" >tmp/pull.out 2>&1 && return 1
    has 'offers linux/amd64, wanted freebsd([0-9.]*-[^)]*)/amd64' <tmp/pull.out
}

exits() {
    cri stop -t 10 "$1" && cri inspect "$1" | has "\"exitCode\": $2"
}

pull_both() {
    cri pull "$busybox" && cri pull "$web" && cri images >tmp/images || return 1
    has 'e2e-test-images/busybox *1.29-2' <tmp/images && has 'e2e-test-images/nginx *1.14-2' <tmp/images
}

exec_sync() {
    cri exec -s "$1" sh -c 'hostname; cat /etc/resolv.conf; id -u' >tmp/exec.out || return 1
    has web <tmp/exec.out && has 'nameserver 10.10.10.10' <tmp/exec.out && has '^0' <tmp/exec.out
}

exec_code() {
    cri exec "$1" sh -c 'echo out; exit 4' >tmp/exec.out 2>&1
    has out <tmp/exec.out && has 'exit code 4' <tmp/exec.out
}

out_by_nat() {
    registry=$(sed -n 's/^server = "http:..127.0.0.1:\([0-9]*\)"/\1/p' certs.d/registry.k8s.io/hosts.toml)
    # The node's first address outside the bridge, seen from a pod: the way out and back.
    default=$(route -n get default 2>/dev/null | awk '/gateway/ {print $2}')
    echo "to $default (registry on $registry)"
    cri exec -s "$1" ping -c 1 -t 5 "$default"
}

port_forward() {
    cri port-forward "$1" 18412:80 >tmp/forward.log 2>&1 &
    forward=$!
    for _ in $(jot 20); do
        sleep 1
        get 127.0.0.1 18412 && { kill $forward; return 0; }
    done
    kill $forward
    return 1
}

restart() {
    before=$(cri inspect -o go-template --template '{{.info.pid}}' "$1" 2>/dev/null)
    kill -9 "$server"
    wait "$server"
    serve || return 1
    cri ps -q | has "$1" || return 1
    after=$(cri inspect -o go-template --template '{{.info.pid}}' "$1" 2>/dev/null)
    [ "$before" = "$after" ] || { echo "process $before became $after"; return 1; }
    cri exec -s "$1" echo alive | has alive
}

# Pods in a loop, one with a connection that nobody acknowledges any more; then nothing may be left.
run_loop() {
    inventory >tmp/before
    serve || { failures=$((failures + 1)); return; }
    cri pull "$busybox" >/dev/null
    # Takes a connection and reads nothing of it, until the end.
    nc -l "$GATEWAY" $STALLED </dev/null 2>/dev/null | sleep 10000 &
    listener=$!
    check "a pod with a stalled connection removed" pod_with_a_stalled_connection
    check "$LOOP pods made and removed" pods_in_a_loop
    cri rmi "$busybox" >/dev/null
    stop
    check "nothing is left of them" nothing_left
    kill "$listener"
}

# What it sends nobody reads: without help the kernel would go on sending it when the pod is gone, and keep its jail dying.
pod_with_a_stalled_connection() {
    pod_file stalled
    pod=$(cri runp tmp/pod-stalled.json) || return 1
    container "$pod" stalled stalled "$busybox" sh -c "nc $GATEWAY $STALLED </dev/zero" >/dev/null || return 1
    jail=$(jls -q name | grep "^cb$(echo "$pod" | cut -c 1-12)$")
    for _ in $(jot 60); do
        netstat -j "$jail" -n -p tcp | awk -v port="$STALLED" '$5 ~ port "$" && $3 > 0 {found = 1} END {exit !found}' && break
        sleep 1
    done
    netstat -j "$jail" -n -p tcp | awk -v port="$STALLED" '$5 ~ port "$" && $3 > 0' | grep . || { echo "nothing is stalled"; return 1; }
    cri stopp "$pod" && cri rmp "$pod"
}

pods_in_a_loop() {
    for n in $(jot "$LOOP"); do
        pod_file "loop$n" "{\"container_port\": 80, \"host_port\": $((20000 + n))}"
        pod=$(cri runp "tmp/pod-loop$n.json") || return 1
        container "$pod" "loop$n" "loop$n" "$busybox" top >/dev/null || return 1
        cri stopp "$pod" && cri rmp "$pod" || return 1
    done
}

nothing_left() {
    for _ in $(jot $((SETTLE / 5))); do
        inventory | grep -v 'interface cbbr0$' | diff -u tmp/before - | grep '^+[^+]' >tmp/left || return 0
        sleep 5
    done
    cat tmp/left
    return 1
}

# A part of `e2e` with servers of its own, so with a prefix, an anchor and a dataset of its own: a server removes what it does not
# know.
own_servers() {
    inventory >tmp/before
    rules=$(pfctl -q -sn; pfctl -q -sr)
    printf 'nat-anchor "*"\nrdr-anchor "*"\npass all\nanchor "*"\n' | pfctl -q -f -
    [ -z "$dataset" ] || zfs create "$dataset/$part"
    # It has a registry of its own.
    [ "$part" = pulls ] || set -- "$@" --registry-config certs.d
    # What fails keeps its directory until the end.
    PATH=$PATH:$dir ./e2e "$(echo "$part" | sed 's/hostile/soak/; s/growth/bench-pods/; s/pulls/bench-pull/')" "$@" ${dataset:+--zfs "$dataset/$part"} >"$part.log" 2>&1 ||
        { failures=$((failures + 1)); cat /var/tmp/cellblock-e2e-*/site/cellblock.log >"$part-server.log"; }
    tail -30 "$part.log"
    [ -z "$dataset" ] || zfs destroy -r "$dataset/$part"
    echo "$rules" | pfctl -q -f -
    nothing_left || { echo "FAILED  $part: left behind"; failures=$((failures + 1)); }
}

# The port's rc.d script and newsyslog entry, with this directory's program and configuration.
run_service() {
    mkdir -p prefix/sbin prefix/libexec
    ln -f cellblock prefix/sbin/
    ln -f cellblock-monitor prefix/libexec/
    sed "s|%%PREFIX%%|$dir/prefix|g" cellblock.in >cellblock.rc
    sed "s|/var/log/cellblock.log|$dir/service.log|" newsyslog.conf.sample >newsyslog.conf
    rm -f service.log*
    check "start, and its status" service_starts
    check "a server that crashed is started again" service_restarts
    check "the rotated log is opened again" service_rotates
    check "stop" service_stops
}

service() { env cellblock_config="$dir/cellblock.toml" cellblock_logfile="$dir/service.log" sh ./cellblock.rc "one$1"; }

answers() {
    for _ in $(jot 60); do
        cri version >/dev/null 2>&1 && return
        sleep 1
    done
    return 1
}

service_starts() { service start && answers && service status | has 'is running'; }

service_restarts() {
    before=$(pgrep -f "^$dir/prefix/sbin/cellblock serve") || return 1
    kill -9 "$before"
    while kill -0 "$before" 2>/dev/null; do sleep 1; done
    answers && service status | has 'is running' && [ "$(pgrep -f "^$dir/prefix/sbin/cellblock serve")" != "$before" ]
}

# The next start writes to the new file.
service_rotates() { newsyslog -F -f newsyslog.conf && sleep 1 && service_restarts && has 'ready on' <service.log && ls service.log.0*; }

# It runs no pods here: the server stops with it and without it.
service_stops() { cellblock_stop_pods=YES; export cellblock_stop_pods; service stop && ! pgrep -f "^$dir/prefix/sbin/cellblock serve" && ! service status; }

# The package that packaging/freebsd/package.sh makes, at its own places: where it is installed already, this is not the machine for it.
run_package() {
    etc=/usr/local/etc/cellblock
    for path in "$etc" /usr/local/sbin/cellblock /var/db/cellblock; do
        [ ! -e "$path" ] || { echo "FAILED  package: $path is there already"; failures=$((failures + 1)); return; }
    done
    socket=unix:///var/run/cellblock/cellblock.sock
    check "pkg adds it, whole" package_is_added
    check "its service runs a pod" package_serves
    check "the pod runs on while it is deleted and added again" package_is_replaced
    check "it goes, but for an edited file" package_goes
    # What a check that failed left.
    cri rmp -fa >/dev/null 2>&1
    command service cellblock onestop >/dev/null 2>&1
    pkg delete -qy cellblock 2>/dev/null
    if [ -z "$dataset" ] || zfs destroy -r "$dataset/package"; then
        rm -rf "$etc" /var/db/cellblock /var/run/cellblock /var/log/cellblock.log
    else
        failures=$((failures + 1))
    fi
    socket=unix://$dir/cri.sock
}

package_is_added() {
    pkg -v && pkg add cellblock.pkg && pkg check -s cellblock && cmp "$etc/cellblock.toml" "$etc/cellblock.toml.sample" &&
        [ "$(pkg which -q /usr/local/libexec/cellblock-monitor)" = "cellblock-$(pkg query %v cellblock)" ]
}

package_serves() {
    cp -R certs.d "$etc/" || return 1
    [ -z "$dataset" ] || zfs create -o mountpoint=none "$dataset/package" || return 1
    printf '[image]\nzfs_dataset = "%s"\n[network]\npod_cidrs = ["%s.0/16"]\n' "${dataset:+$dataset/package}" "${GATEWAY%.1}" >"$etc/cellblock.toml"
    cellblock check && command service cellblock onestart && answers && cri pull "$busybox" || return 1
    pod_file packed
    packed=$(cri runp tmp/pod-packed.json) && container "$packed" packed one "$busybox" top >tmp/packed && cri exec -s "$(cat tmp/packed)" true
}

package_is_replaced() {
    command service cellblock onestop && pkg delete -y cellblock && [ ! -e /usr/local/sbin/cellblock ] && jls name | has '^cb' || return 1
    pkg add cellblock.pkg && command service cellblock onestart && answers && cri exec -s "$(cat tmp/packed)" true
}

package_goes() {
    cri rmp -fa && command service cellblock onestop && pkg delete -y cellblock || return 1
    ! pkg info -e cellblock && [ ! -e /usr/local/sbin/cellblock ] && [ ! -e /usr/local/libexec/cellblock-monitor ] && [ -e "$etc/cellblock.toml" ]
}

# Pods come and go while the server is killed; then it is killed under many.
run_soak() { own_servers --seconds "$SOAK" --pods 20; }

# The same under an administrator who destroys interfaces, flushes rulesets and fills disks.
run_hostile() { own_servers --hostile --seconds "$SOAK"; }

# What calls take with more and more pods; pf's tables as `cellblock check` advises, or 200 pods take 2.5 GB of the kernel's memory.
run_growth() { own_servers --pods "${CELLBLOCK_E2E_PODS:-0,50,100,200}" --rounds 5; }

# Pulls beside fetch(1) and tar(1) by hand: as copies, and on ZFS where there is a dataset.
run_pulls() {
    for dataset in "" ${dataset:+"$dataset"}; do
        # shellcheck disable=SC2086 # a list of words
        own_servers --by-hand $PULLS
        mv pulls.log "pulls-$([ -n "$dataset" ] && echo zfs || echo copy).log"
    done
}

# `cellblock image` with archives, and a server that is killed in an import.
run_images() { own_servers; }

# An older server is replaced under running pods.
run_upgrade() { own_servers --from old; }

# Our own conformance suite writes its report itself; what it made must be gone.
run_specs() {
    inventory >tmp/before
    serve || { failures=$((failures + 1)); return; }
    ./e2e specs --address "$socket" --dir "$dir/specs" --crictl "$dir/crictl" --junit reports/junit-freebsd-specs.xml \
        ${only:+--only "$only"} >specs.log 2>&1 || failures=$((failures + 1))
    cat specs.log
    stop
    nothing_left || { echo "FAILED  specs: left behind"; failures=$((failures + 1)); }
}

# One run of critest: what the names of its report and its log end with, then its arguments.
specs_of_critest() {
    suffix=$1
    shift
    env TMPDIR="$dir/tmp" ./critest -config=crictl.yaml -runtime-endpoint="$socket" -image-endpoint="$socket" \
        -ginkgo.no-color -ginkgo.junit-report="$dir/reports/junit-critest-freebsd$suffix.xml" "$@" \
        >"critest$suffix.log" 2>&1 || failures=$((failures + 1))
    grep -E '^(Ran |FAIL|SUCCESS|(FAIL|SUCCESS)!)' "critest$suffix.log"
}

run_critest() {
    serve || { failures=$((failures + 1)); return; }
    # Held, so that the layer that all test images share is unpacked once.
    cri pull "$web" >/dev/null
    specs_of_critest "" ${focus:+"-ginkgo.focus=$focus"}
    [ -n "$focus" ] || specs_of_critest -websocket "-ginkgo.focus=Streaming runtime should support" -websocket-exec -websocket-attach \
        -websocket-portforward
    stop
}

for part; do
    case $part in
    suites | demo | scenario | administrator | images | linux | loop | service | soak | hostile | growth | pulls | upgrade | package | specs | critest) ;;
    *) echo "no part $part; see $0" >&2 && exit 2 ;;
    esac
done
sh clean.sh "$dataset" || exit 1
trap finish EXIT
trap 'exit 1' HUP INT TERM
prepare || exit 1
for part; do
    : >"tmp/$part.cases"
    "run_$part"
    case $part in critest | images | soak | hostile | growth | pulls | specs | upgrade) ;; *) report ;; esac
done
echo "$failures failed"
[ "$failures" = 0 ]
