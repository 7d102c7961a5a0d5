#!/bin/sh
# Counts lines of Rust by crate: product, tests and e2e. Tests are files below tests/ and conformance/, files called tests.rs or
# conformance.rs, and what follows the first `#[cfg(test)]` or `#[test]` of a file, but for a lone `mod x;`.
set -eu
cd "$(dirname "$0")/.."
git ls-files '*.rs' | xargs awk '
    FNR == 1 {
        crate = FILENAME
        sub(/\/(src|tests|benches|build\.rs|fuzz_targets).*/, "", crate)
        test = FILENAME ~ /(^|\/)(tests|conformance)(\/|\.rs$)/
        pending = 0
    }
    pending && /^(pub(\([a-z]+\))? )?mod [a-z_]+;/ { test = 0; tests[crate] += 2; pending = 0; next }
    pending { tests[crate]++; pending = 0 }
    !test && /^#\[(cfg\(test\)|test)\]/ { test = 1; pending = 1; next }
    { if (test) tests[crate]++; else product[crate]++; crates[crate] = 1 }
    END {
        printf "%-16s %8s %8s\n", "crate", "product", "tests"
        for (crate in crates) {
            line = sprintf("%-16s %8d %8d", crate, product[crate], tests[crate])
            if (crate ~ /^(e2e|fuzz)/) { e2e += product[crate] + tests[crate] } else { p += product[crate]; t += tests[crate] }
            print line | "sort"
        }
        close("sort")
        printf "%-16s %8d %8d\n%-16s %8d\n", "all but e2e", p, t, "e2e, fuzz", e2e
    }'
