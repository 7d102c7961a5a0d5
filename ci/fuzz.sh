#!/bin/sh
# Runs the fuzz targets, two at a time and FUZZ_SECONDS (60) each, with the stable compiler. What they find new is kept in the
# target directory and is where the next run begins; the corpus in fuzz/ is only read. A target that fails is told with the
# input that it failed on.
#
#   ci/fuzz.sh [TARGET…]
set -eu
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-60}
# The tool that builds them; any other version may want another compiler.
version=0.13.1
# Memory of one target, in MiB, where a few dozen are used: what takes more has no bound.
memory=1024
# One input, in seconds: what takes longer, on a slow machine that does other things too, does not end.
patience=60

# The step cannot run: in CI that is a failure.
cannot() {
    echo "fuzz: skipped: $1" >&2
    if [ "${CI:-}" = true ]; then exit 1; fi
    exit 0
}

[ "$(uname)" = Linux ] || cannot "libFuzzer's flags are those of Linux"
command -v c++ >/dev/null 2>&1 || cannot "there is no c++, which builds libFuzzer (Debian: g++)"

target=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
work=$target/fuzz
tools=${CELLBLOCK_FUZZ_CACHE:-$target/fuzz-tools}
PATH=$tools/bin:$PATH
export PATH
if [ "$(cargo fuzz --version 2>/dev/null || true)" != "cargo-fuzz $version" ]; then
    echo "fuzz: installing cargo-fuzz $version from crates.io into $tools"
    cargo install cargo-fuzz --version "=$version" --locked --root "$tools" --target-dir "$tools/build" --quiet ||
        cannot "cargo-fuzz cannot be installed"
    rm -rf "$tools/build"
fi

# The versions that the workspace is tested with, and what only the targets need besides. Sanitizers and coverage are flags that
# the stable compiler takes when it is told so; without a sanitizer: nearly all of this is safe code.
cp Cargo.lock fuzz/Cargo.lock
RUSTC_BOOTSTRAP=1 cargo fuzz build --fuzz-dir fuzz --sanitizer none --codegen-units 16 --target-dir "$work/build"
binaries=$(dirname "$(find "$work/build" -path '*/release/image_layer' -type f)")

# Fuzzes one target; its log is shown when it fails.
fuzz() {
    mkdir -p "$work/corpus/$1" "$work/artifacts/$1" "$work/scratch"
    log=$work/$1.log
    if TMPDIR=$work/scratch "$binaries/$1" -max_total_time="$seconds" -timeout="$patience" -rss_limit_mb="$memory" \
        -print_final_stats=1 -artifact_prefix="$work/artifacts/$1/" \
        "$work/corpus/$1" "fuzz/corpus/$1" >"$log" 2>&1; then
        echo "fuzz: $1: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs in $seconds s, no failure"
        return 0
    fi
    tail -n 40 "$log"
    echo "fuzz: $1 FAILED on: $(sed -n 's/.*Test unit written to //p' "$log"); the whole log: $log" >&2
    return 1
}

if [ $# -eq 0 ]; then
    # shellcheck disable=SC2046 # a list of words
    set -- $(cargo fuzz list --fuzz-dir fuzz)
fi
failed=0
while [ $# -gt 0 ]; do
    fuzz "$1" &
    one=$!
    if [ $# -gt 1 ]; then
        fuzz "$2" || failed=1
        shift
    fi
    wait $one || failed=1
    shift
done
rm -rf "$work/scratch"
exit $failed
