#!/bin/sh
# Installs the programs that `make demo`, `make test` and the benchmarks need and that are not there, from Debian's
# packages, and says which. Where there is no apt-get it says what is missing.
#
#   ci/deps.sh demo|test
set -eu

# program:package; a program is looked for where root's PATH may not lead.
demo="cc:gcc runc:runc nft:nftables ip:iproute2"
test="$demo c++:g++ protoc:protobuf-compiler docker-registry:docker-registry go:golang-go ipcmk:util-linux
 ldd:libc-bin dpkg:dpkg ps:procps etcd:etcd-server openssl:openssl script:bsdutils timeout:coreutils"

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/go/bin
case ${1:-} in
demo) wanted=$demo ;;
test) wanted=$test ;;
*)
    echo "usage: $0 demo|test" >&2
    exit 2
    ;;
esac
# FreeBSD's own system holds what a pod needs there.
if [ "$(uname)" = FreeBSD ] && [ "$1" = demo ]; then exit 0; fi

missing=
for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
if [ -z "$missing" ]; then
    echo "deps: everything that $1 needs is installed"
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "deps: this machine has no apt-get; please install (Debian's names):$missing" >&2
    exit 1
fi
echo "deps: installing from Debian:$missing"
export DEBIAN_FRONTEND=noninteractive
apt="apt-get -q -y -o DPkg::Lock::Timeout=300"
# A service that its package starts would be in the way: the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
fi
# shellcheck disable=SC2086 # lists of words
$apt install --no-install-recommends $missing || { $apt update && $apt install --no-install-recommends $missing; }
