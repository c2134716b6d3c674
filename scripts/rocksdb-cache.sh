#!/usr/bin/env bash
# Prints the variables that point a build at a RocksDB that is built already:
#
#     eval "$(scripts/rocksdb-cache.sh)"      ROCKSDB_LIB_DIR=… ROCKSDB_STATIC=1
#
# RocksDB is 345 C++ files, about fifteen minutes on two cores, and cargo builds it again for every profile, every target
# folder and whenever a feature elsewhere changes what bindgen is built with. So it is built once, in release, and kept:
#
#     1. our own cache, keyed by version, features, C++ flags and architecture;
#     2. a seed: a packed library that somebody else built (CARTWHEEL_ROCKSDB_SEED=FILE.a.xz);
#     3. the source, with cargo itself, which fills the cache.
#
# A ROCKSDB_LIB_DIR that is set already wins. Progress goes to stderr, only the variables to stdout.

set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

say() { echo "rocksdb: $*" >&2; }
print() { printf 'export ROCKSDB_LIB_DIR=%q ROCKSDB_STATIC=1\n' "$1"; }

if [ -n "${ROCKSDB_LIB_DIR:-}" ]; then
    print "$ROCKSDB_LIB_DIR"
    exit 0
fi

# The lock file names the version that will be built; the manifest the features.
version=$(awk '$1 == "name" { name = $3 } $1 == "version" && name == "\"rocksdb\"" { gsub(/"/, "", $3); print $3; exit }' Cargo.lock)
features=$(sed -n 's/^rocksdb = .*features = \[\([^]]*\)\].*/\1/p' Cargo.toml)
[ -n "$version" ] || { say "Cargo.lock names no rocksdb" && exit 1; }
[ -n "$features" ] || { say "Cargo.toml names no features of rocksdb on one line" && exit 1; }
arch=$(uname -m)
key=$(printf '%s\n' "$features" "${CXXFLAGS:-}" "${ROCKSDB_CXX_STD:-}" | sha256sum | cut -c1-12)
dir="$CARTWHEEL_CACHE/rocksdb-$version-$key-$arch"
seed="${CARTWHEEL_ROCKSDB_SEED-../shared/cache/librocksdb-$version-lz4-zstd.a.xz}"

if [ -f "$dir/librocksdb.a" ]; then
    print "$dir"
    exit 0
fi

mkdir -p "$CARTWHEEL_CACHE"
exec 9>"$dir.lock"
flock -n 9 || { say "another build is filling the cache; waiting for it" && flock 9; }
tmp="$dir.tmp"

# Whatever an interrupted run left behind is worthless, and only the holder of the lock may say so.
finish() {
    mv "$tmp/librocksdb.a.part" "$tmp/librocksdb.a"
    rm -rf "$dir"
    mv "$tmp" "$dir"
    say "kept in $dir"
}

# The seed was built with lz4 and zstd on x86-64 and with no flags of anybody's own; anything else must be built.
seed_fits() {
    [ -n "$seed" ] && [ -f "$seed" ] && [ "$arch" = x86_64 ] && [ -z "${CXXFLAGS:-}${ROCKSDB_CXX_STD:-}" ] &&
        [ "$features" = '"lz4", "zstd", "bindgen-runtime", "multi-threaded-cf"' ]
}

if [ ! -f "$dir/librocksdb.a" ]; then
    rm -rf "$tmp"
    mkdir -p "$tmp"
    if seed_fits && xz -dc "$seed" >"$tmp/librocksdb.a.part"; then
        say "unpacked from $seed"
    else
        say "building RocksDB $version from source, once: about 15 minutes on two cores"
        target="$CARTWHEEL_CACHE/build-rocksdb"
        # Without the lock's descriptor: a compiler that outlives an interrupted build must not hold it.
        CARGO_TARGET_DIR="$target" ROCKSDB_COMPILE=1 \
            cargo build --release --locked -p librocksdb-sys </dev/null 1>&2 9>&-
        # An older build of another version may lie beside it: the newest is the one that was just made.
        built=$(find "$target/release/build" -path '*/librocksdb-sys-*/out/librocksdb.a' -printf '%T@ %p\n' |
            sort -rn | head -1 | cut -d' ' -f2-)
        [ -n "$built" ] || { say "cargo built no librocksdb.a under $target" && exit 1; }
        cp "$built" "$tmp/librocksdb.a.part"
        rm -rf "$target"
    fi
    finish
fi
print "$dir"
