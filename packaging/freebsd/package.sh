#!/bin/sh
# Makes a package that pkg(8) adds, on a Linux machine without pkg(8): builds both programs for FreeBSD, stages them with what the
# port installs, and writes target/package/cellblock-VERSION.pkg, a tar by zstd with the two manifests of pkg-create(8) in front.
# The port's Makefile, pkg-plist, pkg-descr and pkg-message say what is in it. For FreeBSD on amd64, 14.3 and later.
#
# PROFILE                 release, or dev
# CARGO_TARGET_DIR        where cargo builds (target of this tree); the package goes to `package` there
# CELLBLOCK_CROSS_TARGET  where the programs for FreeBSD are built (`freebsd` there)
# SOURCE_DATE_EPOCH       the time of all files in the package (that of the last commit)
set -eu

tree=$(cd "$(dirname "$0")/../.." && pwd)
here=$tree/packaging/freebsd
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$tree/target}"
cross_target=${CELLBLOCK_CROSS_TARGET:-$CARGO_TARGET_DIR/freebsd}
profile=${PROFILE:-release}
built=$cross_target/x86_64-unknown-freebsd/$([ "$profile" = dev ] && echo debug || echo "$profile")
prefix=/usr/local
# __FreeBSD_version of the oldest release that ci/freebsd-cross.sh builds for: pkg(8) refuses the package on an older one.
oldest=1403000
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$tree/Cargo.toml" | head -1)
out=$CARGO_TARGET_DIR/package
package=$out/cellblock-$version.pkg
stamp=${SOURCE_DATE_EPOCH:-$(git -C "$tree" log -1 --format=%ct 2>/dev/null || date +%s)}

say() { echo "package: $*" >&2; }

for tool in zstd strip; do
    command -v "$tool" >/dev/null || { say "needs $tool (Debian: zstd binutils)"; exit 1; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
stage=$work/stage

# MODE FILE PATH: PATH below the prefix.
put() {
    mkdir -p "$stage$prefix/${3%/*}"
    install -m "$1" "$2" "$stage$prefix/$3"
}

# FILE: with the prefix in it, as the port's SUB_FILES.
substituted() { sed "s,%%PREFIX%%,$prefix,g" "$here/port/files/$1.in"; }

# What the port's do-install does, and USE_RC_SUBR. A program for FreeBSD does not run here: the one for this machine prints the
# completions.
fill_stage() {
    say "building"
    cd "$tree"
    CARGO_TARGET_DIR=$cross_target sh ci/freebsd-cross.sh cargo build --locked --profile "$profile" --workspace \
        --bin cellblock --bin cellblock-monitor
    cargo build -q --locked --workspace --bin cellblock
    for program in cellblock cellblock-monitor; do strip -s -o "$work/$program" "$built/$program"; done
    put 755 "$work/cellblock" sbin/cellblock
    put 755 "$work/cellblock-monitor" libexec/cellblock-monitor
    substituted cellblock >"$work/rc"
    put 755 "$work/rc" etc/rc.d/cellblock
    put 644 "$here/cellblock.toml.sample" etc/cellblock/cellblock.toml.sample
    put 644 "$here/newsyslog.conf.sample" etc/newsyslog.conf.d/cellblock.conf.sample
    for page in cellblock.8 cellblock.toml.5; do
        gzip -9n <"$here/man/$page" >"$work/page"
        put 644 "$work/page" "share/man/man${page##*.}/$page.gz"
    done
    "$CARGO_TARGET_DIR/debug/cellblock" completions bash >"$work/bash"
    put 644 "$work/bash" share/bash-completion/completions/cellblock
    "$CARGO_TARGET_DIR/debug/cellblock" completions zsh >"$work/zsh"
    put 644 "$work/zsh" share/zsh/site-functions/_cellblock
}

# What is staged must be what pkg-plist names, as the port's check-plist has it. The rc.d script is no part of a plist.
check_plist() {
    { sed 's/^@sample //' "$here/port/pkg-plist"; echo etc/rc.d/cellblock; } | sort >"$work/wanted"
    (cd "$stage$prefix" && find . -type f) | sed 's,^\./,,' | sort >"$work/staged"
    diff "$work/wanted" "$work/staged" >&2 || { say "pkg-plist and what is staged differ"; exit 1; }
}

# A variable of the port's Makefile.
port() { sed -n "s/^$1=[[:space:]]*//p" "$here/port/Makefile"; }

# NAME ...: the paths, as a list of Lua.
lua_list() { printf "'$prefix/%s', " "$@"; }

# pkg-create(8). A manifest is in UCL, which has here-documents: texts need no quoting.
compact_manifest() {
    cat <<UCL
name: "$(port PORTNAME)"
origin: "$(port CATEGORIES)/$(port PORTNAME)"
version: "$version"
comment: "$(port COMMENT)"
maintainer: "$(port MAINTAINER)"
www: "UNKNOWN"
abi: "FreeBSD:*:amd64"
arch: "freebsd:*:x86:64"
prefix: "$prefix"
flatsize: $(find "$stage" -type f -printf '%s\n' | awk '{sum += $1} END {print sum}')
licenselogic: "single"
licenses: ["$(port LICENSE)"]
categories: ["$(port CATEGORIES)"]
annotations: {FreeBSD_version: "$oldest"}
desc: <<EOD
$(cat "$here/port/pkg-descr")
EOD
UCL
}

# The scripts do what @sample of a plist does (Keywords/sample.ucl of the ports tree): a sample is copied where there is no file, and
# the copy goes with the package unless it was edited. pkg(8)'s Lua works below its -r too, which a script of the shell does not.
manifest() {
    compact_manifest
    echo "files: {"
    while read -r path; do
        echo "    \"$path\": \"1\$$(sha256sum <"$stage$path" | cut -d ' ' -f 1)\""
    done <"$work/files"
    echo "}"
    # shellcheck disable=SC2046 # a list of words
    samples=$(lua_list $(sed -n 's/^@sample \(.*\)\.sample$/\1/p' "$here/port/pkg-plist"))
    cat <<UCL
lua_scripts: {
post-install: [<<EOD
for _, file in ipairs({$samples}) do
    if not pkg.stat(file) then pkg.copy(file .. '.sample', file) end
end
EOD
]
pre-deinstall: [<<EOD
for _, file in ipairs({$samples}) do
    if pkg.filecmp(file .. '.sample', file) == 0 then
        os.remove(file)
    elseif pkg.stat(file) then
        pkg.print_msg(file .. ' was edited and stays')
    end
end
EOD
]
}
messages: $(substituted pkg-message)
UCL
}

[ "$(port DISTVERSION)" = "$version" ] || { say "the port has version $(port DISTVERSION), Cargo.toml $version"; exit 1; }
fill_stage
check_plist
find "$stage" -exec touch -h -d "@$stamp" {} +
(cd "$stage" && find . -type f) | sed 's,^\./,/,' | sort >"$work/files"
compact_manifest >"$work/+COMPACT_MANIFEST"
manifest >"$work/+MANIFEST"
# The manifests first, then absolute paths, in an order that does not change.
touch -d "@$stamp" "$work/+COMPACT_MANIFEST" "$work/+MANIFEST"
mkdir -p "$out"
# shellcheck disable=SC2046 # a list of words
tar -P -C "$work" --format=pax --pax-option=delete=atime,delete=ctime --owner=root:0 --group=wheel:0 --transform "s,^$stage/,/," \
    -cf "$work/package.tar" +COMPACT_MANIFEST +MANIFEST $(sed "s,^,$stage," "$work/files")
zstd -q -f -19 -T0 "$work/package.tar" -o "$package"
say "$package"
