#!/bin/sh
# Compiles floor.c with the compiler of ci/freebsd-cross.sh into a directory; prints the program's path.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${CELLBLOCK_CROSS_CACHE:-$here/../../../target/freebsd-cross}
"$cache/bin/zigcc" -O2 -o "$1/floor" "$here/floor.c"
echo "$1/floor"
