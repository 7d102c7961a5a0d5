#!/bin/sh
# Builds a kubelet for FreeBSD from the Go modules of Kubernetes that go.mod and go.sum pin, and from nothing else. The files of
# overlay/ are put in by `go build -overlay`: each says on its top why it is needed and what it rests on, and names in lines
# `//overlay:replaces FILE` the files beside it that it stands for. Where upstream has changed one of those, the build says so.
#
#   packaging/kubelet/build.sh [FILE]    the kubelet (target/kubelet/kubelet-freebsd-$GOARCH)
#   packaging/kubelet/build.sh check     vet the overlay for amd64 and arm64, and test what runs on any machine
#
# GOARCH   amd64 (the default) or arm64
set -eu

here=$(cd "$(dirname "$0")" && pwd)
target=$(cd "$here/../.." && pwd)/target/kubelet
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
cd "$here"

# The versions are go.mod's, whatever the machine's own settings say; cgo would want FreeBSD's C library.
export GOWORK=off CGO_ENABLED=0
GOFLAGS="${GOFLAGS:-} -mod=readonly -buildvcs=false"
export GOFLAGS

say() { echo "kubelet-freebsd: $*" >&2; }

# Where a module is: go.mod may replace it by another version.
directory() {
    go mod download "$1"
    go list -m -f '{{.Dir}}' "$1"
}

# One line a file of the overlay: what it is in its module's directory, and where it is here; an empty one removes a file.
replacements() {
    for module in k8s.io/kubernetes k8s.io/mount-utils; do
        into=$(directory "$module")
        find "overlay/$module" -name '*.go' | sort | while read -r file; do
            path=$into/${file#"overlay/$module/"}
            [ ! -e "$path" ] || { say "$module has ${file#"overlay/$module/"} itself now: compare, and drop ours"; exit 1; }
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
    GOOS=freebsd GOARCH=${GOARCH:-amd64} go build -overlay "$work/overlay.json" -ldflags "$(link_flags)" -o "$1" \
        k8s.io/kubernetes/cmd/kubelet
    say "built $1"
}

# vet looks at the overlaid packages as the compiler sees them, with all that upstream has in them.
check() {
    go vet ./freebsd ./resources
    go test ./freebsd ./resources
    sed -n 's|/[^/ ]* .*||p' "$work/replacements" | sort -u >"$work/directories"
    packages=
    for module in k8s.io/kubernetes k8s.io/mount-utils; do
        into=$(directory "$module")
        packages="$packages $(sed -n "s|^$into|$module|p" "$work/directories" | tr '\n' ' ')"
    done
    for arch in amd64 arm64; do
        say "vetting for $arch"
        # shellcheck disable=SC2086 # a list of words
        GOOS=freebsd GOARCH=$arch go build -overlay "$work/overlay.json" ./freebsd ./resources $packages
        GOOS=freebsd GOARCH=$arch go vet ./freebsd ./resources
    done
}

write_overlay
case ${1:-} in
check) check ;;
*)
    mkdir -p "$target"
    build "${1:-$target/kubelet-freebsd-${GOARCH:-amd64}}"
    ;;
esac
