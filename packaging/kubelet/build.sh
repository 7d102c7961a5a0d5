#!/bin/sh
# Builds a kubelet for FreeBSD from the Go modules of Kubernetes that go.mod and go.sum pin, and from nothing else. The files of
# overlay/ are put in by `go build -overlay`: each says on its top why it is needed and what it rests on, and names in lines
# `//overlay:replaces FILE` the files beside it that it stands for. Where upstream has changed one of those, the build says so.
#
#   packaging/kubelet/build.sh [FILE]    the kubelet (target/kubelet/kubelet-freebsd-$GOARCH)
#   packaging/kubelet/build.sh check     test and vet freebsd/ and resources/
#
# GOARCH   amd64 (the default) or arm64
set -eu

here=$(cd "$(dirname "$0")" && pwd)
target=$(cd "$here/../.." && pwd)/target/kubelet
modules="k8s.io/kubernetes k8s.io/mount-utils"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
cd "$here"

# The versions are go.mod's, whatever the machine's own settings say; cgo would want FreeBSD's C library.
export GOWORK=off CGO_ENABLED=0
GOFLAGS="${GOFLAGS:-} -mod=readonly -buildvcs=false"
export GOFLAGS

say() { echo "kubelet-freebsd: $*" >&2; }

# The modules that files are put into, as links to the module cache, whose own files `-overlay` may not touch; a go.mod beside
# them replaces the modules by the links. `go mod download` has compared them with go.sum.
link_modules() {
    cp go.mod go.sum "$work/"
    for module in $modules; do
        go mod download "$module"
        mkdir -p "$target/modules/${module%/*}"
        ln -sfn "$(go list -m -f '{{.Dir}}' "$module")" "$target/modules/$module"
        go mod edit -dropreplace "$module" -replace "$module=$target/modules/$module" "$work/go.mod"
    done
}

# One line a file of the overlay: what it is in its module's directory, and where it is here; an empty one removes a file.
replacements() {
    for module in $modules; do
        find "overlay/$module" -name '*.go' | sort | while read -r file; do
            path=$target/modules/${file#overlay/}
            [ ! -e "$path" ] || { say "$module has ${path##*/} itself now: compare, and drop $file"; exit 1; }
            echo "$path $here/$file"
            sed -n 's|^//overlay:replaces ||p' "$file" | while read -r old; do
                [ -e "${path%/*}/$old" ] || { say "$file replaces $old, which $module does not have any more"; exit 1; }
                echo "${path%/*}/$old "
            done
        done
    done
}

write_overlay() {
    replacements >"$work/replacements"
    [ -s "$work/replacements" ]
    {
        printf '{"Replace": {'
        comma=
        while IFS=' ' read -r path file; do
            printf '%s\n"%s": "%s"' "$comma" "$path" "$file"
            comma=,
        done <"$work/replacements"
        printf '\n}}\n'
    } >"$work/overlay.json"
}

# What `kubelet --version` and the node's status say; + keeps it the same version to who compares.
link_flags() {
    version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
    minor=${version#v1.}
    package=k8s.io/component-base/version
    echo "-s -w -X $package.gitVersion=$version+freebsd -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*} \
-X $package.gitTreeState=clean"
}

build() {
    GOOS=freebsd GOARCH=${GOARCH:-amd64} go build -modfile "$work/go.mod" -overlay "$work/overlay.json" -ldflags "$(link_flags)" -o "$1" \
        k8s.io/kubernetes/cmd/kubelet
    say "built $1"
}

# Our own packages: what is pure runs here, the rest is at least compiled and vetted for both architectures.
check() {
    go vet ./freebsd ./resources
    go test ./freebsd ./resources
    for arch in amd64 arm64; do GOOS=freebsd GOARCH=$arch go vet ./freebsd ./resources; done
}

case ${1:-} in
check) check ;;
*)
    link_modules
    write_overlay
    mkdir -p "$target"
    build "${1:-$target/kubelet-freebsd-${GOARCH:-amd64}}"
    ;;
esac
