#!/usr/bin/env bash
# Installs what is missing on a Debian machine that has the Rust toolchain, and nothing else.
#
#     scripts/setup.sh build    what `make up` needs: a C++ compiler, libclang, curl
#     scripts/setup.sh test     that, and what `make test` needs: cargo-nextest, cargo-deny, python3
#
# Where everything is there already it touches nothing: no apt, no network, no root, well under a second.

set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

NEXTEST=0.9.143
DENY=0.20.2

what="${1:-build}"
case "$what" in build | test) ;; *) echo "usage: scripts/setup.sh build|test" >&2 && exit 2 ;; esac

# libclang is a library that bindgen opens at run time: a command of that name would prove nothing.
has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null
}

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need clang clang
has_libclang || missing+=(libclang-dev)
need g++ g++
need make make
need curl curl
need xz xz-utils
need flock util-linux
need pgrep procps
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
[ "$what" = build ] || need python3 python3

if [ "${#missing[@]}" -gt 0 ]; then
    echo "setup: installing ${missing[*]}" >&2
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "setup: this machine has no apt-get; please install by hand: ${missing[*]}" >&2
        exit 1
    fi
    root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null 2>&1 || { echo "setup: neither root nor sudo; please install: ${missing[*]}" >&2 && exit 1; }
        root=(sudo)
    fi
    apt() { "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "$@" </dev/null; }
    # The lists of a fresh machine are empty, and those of an old one name files that are gone: then fetch them anew.
    apt install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
        { apt update && apt install -y --no-install-recommends "${missing[@]}"; } >&2
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "setup: no cargo found; install the Rust toolchain first: https://rustup.rs" >&2
    exit 1
fi

# Tools of the build are not users of it: its target folder and its RocksDB are none of their business. Little optimisation,
# because they are compiled more often than they spend a second running.
tool() {
    command -v "$1" >/dev/null 2>&1 && return 0
    echo "setup: building $1 $2 (once)" >&2
    env -u CARGO_TARGET_DIR -u RUSTFLAGS CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=false \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install --quiet --locked --root "$CARTWHEEL_CACHE/tools" "$1@$2" </dev/null >&2
}
if [ "$what" = test ]; then
    tool cargo-nextest "$NEXTEST"
    tool cargo-deny "$DENY"
fi
