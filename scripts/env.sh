# Sourced by the other scripts and by the Makefile's recipes: where things are kept outside the checkout.
#
# Sourcing it is quick and installs nothing. What takes long (RocksDB) is asked for by name:
#     . scripts/env.sh && rocksdb_env && cargo build
# so that `make fmt` or `make help` never starts a C++ build.

[ -n "${HOME:-}" ] || export HOME=/root
[ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"

# One folder for everything that is worth keeping between checkouts: tools, RocksDB, and CI's build artefacts.
CARTWHEEL_CACHE="${CARTWHEEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cartwheel}"
export CARTWHEEL_CACHE

# Last in the path: a cargo-nextest that the machine brings along is as good as ours.
export PATH="$PATH:$CARTWHEEL_CACHE/tools/bin"

# Points the build at a RocksDB that is built already, and builds that one first if there is none.
rocksdb_env() {
    local vars
    vars=$(scripts/rocksdb-cache.sh) || return 1
    eval "$vars"
}
