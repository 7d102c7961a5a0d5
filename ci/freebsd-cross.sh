#!/bin/sh
# Builds Cellblock for FreeBSD on a Debian 12 (amd64) machine, from package registries alone: the Rust compiler and the
# source of its standard library from Debian, the C compiler, linker and FreeBSD's headers and stub libraries (zig) from
# PyPI. Nothing is installed on the machine: all of it goes into one cache directory, which later runs reuse.
#
#   ci/freebsd-cross.sh prepare      make the toolchain in the cache; done already: nothing
#   ci/freebsd-cross.sh cargo ...    cargo with that toolchain, for x86_64-unknown-freebsd
#   ci/freebsd-cross.sh check        clippy without a warning for the whole workspace, and the linked binary
#   ci/freebsd-cross.sh link         both programs, linked
#
# CELLBLOCK_CROSS_ARCH    x86_64, or aarch64: its standard library and wrappers are made when they are first needed
# CELLBLOCK_CROSS_CACHE   the cache (target/freebsd-cross of this tree)
# CARGO_TARGET_DIR        where cargo builds (target/freebsd of this tree)
set -eu

# A matched pair: the compiler, and the source that its standard library is built from. Debian signs them.
rust=1.96.0+dfsg1-1~deb12u2
debian_packages="rustc-web cargo-web rust-web-clippy rust-web-src libstd-rust-web-dev libstd-rust-web-1.96"
# zig stands for clang, lld and FreeBSD's C library. pip checks the hash.
zig=0.17.1
zig_sha256=ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54
# What a binary needs at least; it runs on FreeBSD 15 too.
freebsd=14.3
arch=${CELLBLOCK_CROSS_ARCH:-x86_64}
# Raised when a step below changes: an older cache is then made anew.
recipe=1

tree=$(cd "$(dirname "$0")/.." && pwd)
cache=${CELLBLOCK_CROSS_CACHE:-$tree/target/freebsd-cross}
stamp=$cache/done-$recipe-$rust-$zig-$freebsd

say() { echo "freebsd-cross: $*" >&2; }

# What differs between the architectures: zig's wrappers and the stub libraries have it in their names, but for x86_64.
choose() {
    target=$1-unknown-freebsd
    zig_target=$1-freebsd.$freebsd
    case $1 in
    x86_64) suffix= ;;
    aarch64) suffix=-$1 ;;
    *) say "CELLBLOCK_CROSS_ARCH is $1, not x86_64 or aarch64"; exit 2 ;;
    esac
    stubs=$cache/stubs$suffix
}

# The compiler and the libraries that it loads, as Debian packages them, unpacked beside the machine's own.
fetch_rust() {
    say "fetching $debian_packages $rust from Debian"
    mkdir -p "$cache/deb/partial" "$cache/apt/lists/partial" "$cache/apt/cache"
    wanted=
    for package in $debian_packages; do wanted="$wanted $package=$rust"; done
    apt="apt-get -q -y -o Debug::NoLocking=1 -o Dir::Cache::archives=$cache/deb -o APT::Sandbox::User="
    # shellcheck disable=SC2086 # two lists of words
    if ! $apt --no-install-recommends --download-only install $wanted >"$cache/apt.log" 2>&1; then
        # The machine's package lists do not know them: fetch lists of our own, and leave the machine's alone.
        apt="$apt -o Dir::State::lists=$cache/apt/lists -o Dir::Cache=$cache/apt/cache"
        # shellcheck disable=SC2086
        { $apt update && $apt --no-install-recommends --download-only install $wanted; } >"$cache/apt.log" 2>&1 ||
            { cat "$cache/apt.log" >&2; say "Debian's bookworm-security does not have $rust"; exit 1; }
    fi
    rm -rf "$cache/rust"
    mkdir "$cache/rust"
    for package in "$cache"/deb/*.deb; do dpkg-deb -x "$package" "$cache/rust"; done
    rm -rf "$cache/deb" "$cache/apt"
}

fetch_zig() {
    say "fetching ziglang $zig from PyPI"
    mkdir -p "$cache/wheel"
    echo "ziglang==$zig --hash=sha256:$zig_sha256" >"$cache/wheel/requirements.txt"
    python3 -m pip download -q --no-deps --only-binary :all: --require-hashes \
        --platform manylinux_2_12_x86_64 -d "$cache/wheel" -r "$cache/wheel/requirements.txt"
    rm -rf "$cache/zig"
    mkdir "$cache/zig"
    python3 -m zipfile -e "$cache"/wheel/ziglang-*.whl "$cache/zig"
    chmod +x "$cache/zig/ziglang/zig"
    rm -rf "$cache/wheel"
}

# Compiler and archiver under names that cargo and the cc crate can call. zig knows its own triples only, and gives C code
# traps for undefined behaviour that FreeBSD's compiler does not.
write_wrappers() {
    mkdir -p "$cache/bin" "$stubs"
    for pair in cc:zigcc c++:zigc++; do
        cat >"$cache/bin/${pair#*:}$suffix" <<WRAPPER
#!/bin/bash
export ZIG_GLOBAL_CACHE_DIR="$cache/zig-cache" ZIG_LOCAL_CACHE_DIR="$cache/zig-cache"
arguments=()
for argument in "\$@"; do
    case \$argument in
    --target=* | -m64) ;;
    *) arguments+=("\$argument") ;;
    esac
done
exec "$cache/zig/ziglang/zig" ${pair%:*} -target $zig_target -fno-sanitize=undefined "\${arguments[@]}" -L"$stubs"
WRAPPER
    done
    for tool in ar ranlib; do
        printf '#!/bin/sh\nZIG_GLOBAL_CACHE_DIR="%s" exec "%s" %s "$@"\n' \
            "$cache/zig-cache" "$cache/zig/ziglang/zig" $tool >"$cache/bin/zig$tool"
    done
    # The libc crate names these libraries; none of their functions is called, and --as-needed drops them again.
    : >"$stubs/empty.c"
    chmod +x "$cache"/bin/*
    for library in kvm.so.7 memstat.so.3 procstat.so.1 devstat.so.7; do
        "$cache/bin/zigcc$suffix" -shared -Wl,-soname,"lib$library" -o "$stubs/lib${library%.*}" "$stubs/empty.c"
    done
}

with_toolchain() {
    # cargo and the cc crate have the target in the names of variables.
    lower=$(echo "$target" | tr - _)
    upper=$(echo "$lower" | tr '[:lower:]' '[:upper:]')
    # Debian's bin first on PATH and a CARGO_HOME without a bin: else the machine's own clippy answers.
    env -u RUSTC -u RUSTC_WRAPPER -u RUSTUP_TOOLCHAIN -u RUSTFLAGS -u CARGO \
        PATH="$cache/rust/usr/bin:$PATH" LD_LIBRARY_PATH="$cache/rust/usr/lib/x86_64-linux-gnu" \
        CARGO_HOME="$cache/cargo" CARGO_BUILD_TARGET="$target" \
        "CARGO_TARGET_${upper}_LINKER=$cache/bin/zigcc$suffix" \
        "CC_$lower=$cache/bin/zigcc$suffix" "CXX_$lower=$cache/bin/zigc++$suffix" \
        "AR_$lower=$cache/bin/zigar" "RANLIB_$lower=$cache/bin/zigranlib" \
        "$@"
}

# The standard library, which Debian has for Linux only, from its source into the compiler's directory.
build_std() {
    say "building the standard library for $target"
    work=$cache/std
    rm -rf "$work"
    mkdir -p "$work/src"
    printf '[package]\nname = "std-for-freebsd"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n' >"$work/Cargo.toml"
    echo '#![no_std]' >"$work/src/lib.rs"
    # panic_abort must itself be compiled to abort, whatever the profile says.
    cat >"$work/rustc" <<'WRAPPER'
#!/bin/sh
case " $* " in
*" --crate-name panic_abort "*) exec "$@" -Cpanic=abort ;;
*) exec "$@" ;;
esac
WRAPPER
    chmod +x "$work/rustc"
    # RUSTC_BOOTSTRAP, for -Zbuild-std, in this one call.
    (cd "$work" && with_toolchain env RUSTC_BOOTSTRAP=1 RUSTC_WRAPPER="$work/rustc" RUSTFLAGS=-Cembed-bitcode=yes \
        CARGO_TARGET_DIR="$work/target" \
        cargo build -q --release -Zbuild-std=core,alloc,std,panic_unwind,panic_abort,proc_macro,test)
    into=$(with_toolchain rustc --print sysroot)/lib/rustlib/$target/lib
    mkdir -p "$into"
    cp "$work/target/$target/release/deps"/*.rlib "$into/"
    rm -f "$into"/libstd_for_freebsd-*
    rm -rf "$work"
}

prepare() {
    choose "$arch"
    [ -e "$stamp$suffix" ] && return
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
    # The other architecture is added to a toolchain that is there.
    choose x86_64
    if [ ! -e "$stamp" ]; then
        say "making the toolchain in $cache (0.3 GB to fetch)"
        rm -f "$cache"/done-*
        fetch_rust
        fetch_zig
        finish_arch
    fi
    choose "$arch"
    [ -e "$stamp$suffix" ] || finish_arch
    exec 9>&-
}

finish_arch() {
    write_wrappers
    build_std
    : >"$stamp$suffix"
}

run_cargo() {
    export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$tree/target/freebsd}"
    with_toolchain cargo "$@"
}

case ${1:-} in
prepare)
    prepare
    ;;
cargo)
    shift
    prepare
    run_cargo "$@"
    ;;
check)
    prepare
    cd "$tree"
    # A clean clone is built once: neither incremental files nor debug information are of use.
    export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=false
    # Clippy is check with more to say; the build then proves that it links.
    run_cargo clippy --locked --workspace --all-targets -- -D warnings
    run_cargo build --locked -p cri --bin cellblock
    say "linked ${CARGO_TARGET_DIR:-$tree/target/freebsd}/$target/debug/cellblock"
    ;;
link)
    prepare
    cd "$tree"
    export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=false
    run_cargo build --locked --workspace --bin cellblock --bin cellblock-monitor
    say "linked cellblock and cellblock-monitor in ${CARGO_TARGET_DIR:-$tree/target/freebsd}/$target/debug"
    ;;
*)
    echo "usage: $0 prepare | cargo ARGUMENT ... | check | link" >&2
    exit 2
    ;;
esac
