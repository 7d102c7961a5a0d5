#!/bin/sh
# Runs the end-to-end tests on a FreeBSD machine, from this one: builds everything here, copies it over, serves test images that are
# made of that machine's own base system, and fetches the reports into artifacts/freebsd.
#
#   FREEBSD_SSH='ssh -p 2222 root@host' e2e/freebsd/run.sh [PART ...]
#   FREEBSD_IMAGE=FreeBSD-15.1-RELEASE-amd64.raw [FREEBSD_KEY=id_ed25519] e2e/freebsd/run.sh [PART ...]
#
# Parts: suites demo scenario administrator images linux loop service soak hostile upgrade package specs critest (all), growth and pulls
# (best with PROFILE=release), or bench or cluster alone. package wants pkg(8) there, and no Cellblock.
# FREEBSD_SSH     logs in as root; a machine that may be changed: pf, sysctls, files below /var/tmp/cellblock-e2e
# FREEBSD_IMAGE   a raw or qcow2 image that starts sshd and lets the key in; booted in QEMU on a copy-on-write overlay
# FREEBSD_KERNEL  a kernel to boot it with, for an image without a loader; FREEBSD_APPEND its environment
# FREEBSD_ACCEL   how QEMU runs it: kvm (where /dev/kvm can be written) or tcg, where KVM boots no FreeBSD
# FREEBSD_ZFS     a dataset on it for containers' roots; without it they are copies
# FREEBSD_FOCUS   only the specs of critest that match
# FREEBSD_ONLY    only our own specs, or steps of cluster, whose names contain this
# FREEBSD_LOOP    pods that the loop makes and removes (20), and FREEBSD_SOAK seconds of the soaks (60)
# FREEBSD_PODS    numbers of pods at which growth times calls (0,50,100,200)
# FREEBSD_PULLS   options of `e2e bench-pull` for pulls (--rounds 3 --scale 4)
# FREEBSD_NODE    for cluster: the machine's address on a network with this one, and FREEBSD_GATEWAY this one's; neither may be
#                 translated on the way
# PROFILE         dev or release
set -eu

tree=$(cd "$(dirname "$0")/../.." && pwd)
here=$tree/e2e/freebsd
remote=/var/tmp/cellblock-e2e
reports=$tree/artifacts/freebsd
work=$(mktemp -d /var/tmp/cellblock-freebsd.XXXXXX)
# Seconds that a machine may take to boot, under emulation too.
BOOT=600
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$tree/target}"
cross_target=${CELLBLOCK_CROSS_TARGET:-$CARGO_TARGET_DIR/freebsd}
profile=${PROFILE:-dev}
built=$cross_target/x86_64-unknown-freebsd/$([ "$profile" = dev ] && echo debug || echo "$profile")
machine= registry= forward=

say() { echo "freebsd-e2e: $*"; }

finish() {
    # The registry ends with its standard input: killed, it would leave its server behind.
    exec 8>&-
    [ -z "$registry" ] || wait "$registry" || :
    for process in $forward $machine; do kill "$process" 2>/dev/null || :; done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM

boot() {
    format=$(qemu-img info "$FREEBSD_IMAGE" | sed -n 's/^file format: //p')
    qemu-img create -q -f qcow2 -F "$format" -b "$(realpath "$FREEBSD_IMAGE")" "$work/overlay.qcow2"
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    acceleration=tcg
    [ ! -w /dev/kvm ] || acceleration=kvm
    acceleration=${FREEBSD_ACCEL:-$acceleration}
    say "booting $FREEBSD_IMAGE ($acceleration)"
    set -- -nographic -M q35 -accel "$acceleration" -smp 2 -m 4096 -no-reboot -serial "file:$work/serial.log" -monitor none \
        -drive "if=virtio,file=$work/overlay.qcow2,format=qcow2,cache=unsafe" \
        -netdev "user,id=n,hostfwd=tcp:127.0.0.1:$port-:22" -device virtio-net-pci,netdev=n
    [ -z "${FREEBSD_KERNEL:-}" ] || set -- "$@" -kernel "$FREEBSD_KERNEL" -append "${FREEBSD_APPEND:-}"
    qemu-system-x86_64 "$@" </dev/null >"$work/qemu.log" 2>&1 &
    machine=$!
    FREEBSD_SSH="ssh -p $port -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes -o LogLevel=ERROR \
${FREEBSD_KEY:+-i $FREEBSD_KEY }root@127.0.0.1"
    waited=0
    until $FREEBSD_SSH true </dev/null 2>/dev/null; do
        kill -0 "$machine" || { cat "$work/qemu.log"; exit 1; }
        [ "$waited" -lt "$BOOT" ] || { say "no ssh after $BOOT s ($acceleration; see FREEBSD_ACCEL); the console ends:"; tail -20 "$work/serial.log"; exit 1; }
        sleep 5
        waited=$((waited + 5))
    done
}

# A program with its symbols left here.
send() {
    strip -s -o "$work/stripped" "$1"
    $FREEBSD_SSH "cat >$remote/$2 && chmod 755 $remote/$2" <"$work/stripped"
}

build() {
    say "building for FreeBSD"
    export CARGO_TARGET_DIR="$cross_target"
    programs="--bin cellblock --bin cellblock-monitor"
    case " $* " in *" specs "* | *" images "* | *" soak "* | *" hostile "* | *" growth "* | *" pulls "* | *" upgrade "*) programs="$programs --bin e2e" ;; esac
    # shellcheck disable=SC2086 # a list of words
    sh "$tree/ci/freebsd-cross.sh" cargo build --locked --profile "$profile" --workspace $programs
    : >"$work/suites"
    case " $* " in *" suites "*)
        sh "$tree/ci/freebsd-cross.sh" cargo test --locked --no-run -p host -p runtime -p network -p nameserver -p image \
            --lib --test worker --test backend --test freebsd --test rootfs --test process --message-format=json >"$work/messages"
        # CRATE-TARGET and the file.
        sed -n 's|.*"package_id":"[^"]*/\([a-z]*\)#[^"]*".*"name":"\([a-z_]*\)".*"executable":"\([^"]*\)".*|\1-\2 \3|p' \
            "$work/messages" >"$work/suites"
        ;;
    esac
    case " $* " in *" upgrade "*) build_old ;; esac
    case " $* " in *" package "*)
        CARGO_TARGET_DIR=$tree_target CELLBLOCK_CROSS_TARGET=$cross_target PROFILE=$profile sh "$tree/packaging/freebsd/package.sh"
        ;;
    esac
    CARGO_TARGET_DIR=$tree_target
    cargo build -q --locked --workspace
    "$CARGO_TARGET_DIR/debug/e2e" tools --freebsd >"$work/tools"
    crictl=$(grep '/crictl-' "$work/tools" | tail -1)
    critest=$(grep '/critest-' "$work/tools" | tail -1)
}

# The executables of the commit that `e2e upgrade` begins with.
build_old() {
    from=$(sed -n 's/^pub const FROM: &str = "\(.*\)";$/\1/p' "$tree/e2e/src/soak/upgrade.rs")
    old=$cross_target/cellblock-$from
    [ ! -e "$old/cellblock" ] || return 0
    say "building $from for FreeBSD"
    mkdir -p "$work/old"
    git -C "$tree" archive "$from" | tar -C "$work/old" -xf -
    # Not this commit's target directory: cargo tells crates of a workspace apart by their paths inside it.
    (cd "$work/old" && CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$work/old/target \
        sh "$tree/ci/freebsd-cross.sh" cargo build --locked --workspace --bin cellblock --bin cellblock-monitor \
        --bin cellblock-hostport --bin cellblock-vnet)
    mkdir -p "$old"
    for program in cellblock-monitor cellblock-hostport cellblock-vnet cellblock; do
        mv "$work/old/target/x86_64-unknown-freebsd/debug/$program" "$old/"
    done
}

serve_images() {
    mkdir -p "$work/base"
    $FREEBSD_SSH 'sh -s' <"$here/base.sh" | tar -C "$work/base" -xf -
    "${CELLBLOCK_CROSS_CACHE:-$tree/target/freebsd-cross}/bin/zigcc" -O2 -o "$work/base/bin/shm" "$tree/e2e/images/shm.c"
    mkfifo "$work/hold"
    "$tree_target/debug/e2e" registry --base "$work/base" "$work/registry" <"$work/hold" >"$work/registry.out" 2>&1 &
    registry=$!
    exec 8>"$work/hold"
    until grep -q '^registry on' "$work/registry.out"; do
        kill -0 "$registry" || { cat "$work/registry.out"; exit 1; }
        sleep 1
    done
    address=$(sed -n 's/^registry on \([^;]*\);.*/\1/p' "$work/registry.out")
    # The same port there: the files that lead to the registry name it.
    # shellcheck disable=SC2086 # options and the destination, as words
    ${FREEBSD_SSH%% *} -N -o ExitOnForwardFailure=yes -R "127.0.0.1:${address#*:}:$address" ${FREEBSD_SSH#* } </dev/null &
    forward=$!
    tar -C "$work/registry" -cf - certs.d | $FREEBSD_SSH "tar -C $remote -xf -"
}

[ $# -gt 0 ] || set -- suites demo scenario administrator images linux loop service soak hostile upgrade package specs critest
case " $* " in
" bench ") ;;
" cluster ")
    [ -n "${FREEBSD_SSH:-}" ] && [ -n "${FREEBSD_NODE:-}" ] && [ -n "${FREEBSD_GATEWAY:-}" ] ||
        { say "cluster wants FREEBSD_SSH, FREEBSD_NODE and FREEBSD_GATEWAY; see $here/run.sh" >&2; exit 2; }
    kubelet=$tree/target/kubelet/kubelet-freebsd-amd64
    [ -e "$kubelet" ] || { say "no $kubelet: make kubelet-freebsd" >&2; exit 2; }
    ;;
*" bench "* | *" cluster "*) say "bench and cluster run alone, not with other parts: $*" >&2; exit 2 ;;
esac
[ -n "${FREEBSD_SSH:-}${FREEBSD_IMAGE:-}" ] || { say "set FREEBSD_SSH or FREEBSD_IMAGE; see $here/run.sh" >&2; exit 2; }
tree_target=$CARGO_TARGET_DIR
build "$@"
if [ -z "${FREEBSD_SSH:-}" ]; then
    boot
fi
say "on $($FREEBSD_SSH 'uname -srm' </dev/null)"
$FREEBSD_SSH "rm -rf $remote/suites && mkdir -p $remote/suites $remote/reports && rm -f $remote/reports/*" </dev/null
for program in cellblock cellblock-monitor; do send "$built/$program" "$program"; done
send "$crictl" crictl
send "$critest" critest
case " $* " in *" specs "* | *" images "* | *" soak "* | *" hostile "* | *" growth "* | *" pulls "* | *" upgrade "*) send "$built/e2e" e2e ;; esac
case " $* " in *" upgrade "*)
    $FREEBSD_SSH "mkdir -p $remote/old" </dev/null
    for program in "$old"/*; do send "$program" "old/${program##*/}"; done
    ;;
esac
case " $* " in *" package "*) $FREEBSD_SSH "cat >$remote/cellblock.pkg" <"$(ls -t "$tree_target"/package/*.pkg | head -1)" ;; esac
while read -r name suite; do send "$suite" "suites/$name"; done <"$work/suites"
for script in "$here"/guest.sh "$here"/administrator.sh "$here"/base.sh "$here"/clean.sh "$here"/bench/*; do
    $FREEBSD_SSH "cat >$remote/${script##*/}" <"$script"
done
for file in port/files/cellblock.in newsyslog.conf.sample; do
    $FREEBSD_SSH "cat >$remote/${file##*/}" <"$tree/packaging/freebsd/$file"
done
serve_images
code=0
if [ "$*" = bench ]; then
    send "$(sh "$here/bench/build-floor.sh" "$work")" floor
    $FREEBSD_SSH "CELLBLOCK_BENCH_ZFS=${FREEBSD_ZFS:-} sh $remote/bench.sh" </dev/null || code=$?
elif [ "$*" = cluster ]; then
    $FREEBSD_SSH "cat >$remote/kubelet && chmod 755 $remote/kubelet" <"$kubelet"
    "$tree_target/debug/e2e" cluster --ssh "$FREEBSD_SSH" --dir "$remote" --address "$FREEBSD_NODE" --gateway "$FREEBSD_GATEWAY" \
        ${FREEBSD_ZFS:+--zfs "$FREEBSD_ZFS"} ${FREEBSD_ONLY:+--only "$FREEBSD_ONLY"} </dev/null || code=$?
else
    $FREEBSD_SSH "CELLBLOCK_E2E_LOOP=${FREEBSD_LOOP:-20} CELLBLOCK_E2E_SOAK=${FREEBSD_SOAK:-60} CELLBLOCK_E2E_PODS=${FREEBSD_PODS:-} CELLBLOCK_E2E_PULLS='${FREEBSD_PULLS:-}' sh $remote/guest.sh ${FREEBSD_ZFS:+-z $FREEBSD_ZFS} ${FREEBSD_FOCUS:+-f '$FREEBSD_FOCUS'} ${FREEBSD_ONLY:+-o '$FREEBSD_ONLY'} $*" </dev/null || code=$?
fi
mkdir -p "$reports"
$FREEBSD_SSH "tar -C $remote -cf - reports \$(cd $remote && ls *.log 2>/dev/null)" </dev/null | tar -C "$reports" -xf -
case " $* " in *" critest "*)
    "$tree_target/debug/e2e" judge "$reports/reports/junit-critest-freebsd.xml" || code=1
    ;;
esac
say "reports in $reports"
exit $code
