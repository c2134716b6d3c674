#!/usr/bin/env bash
# Everything that CI tests, in the order in which a failure is cheapest to find.
#
#     scripts/test.sh              all stages
#     scripts/test.sh clippy doc   some of them
#
# The first stage that fails ends the run. Each says how long it took, and the tests say how many they were in their own
# words, from which .ci/run adds up its closing line.

set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"
target="${CARGO_TARGET_DIR:-$PWD/target}"

# Two at a time: a three-node cluster is six busy threads, and a starved machine fails tests that are right.
NEXTEST=(cargo nextest run --locked --no-fail-fast --test-threads "${CARTWHEEL_TEST_THREADS:-2}")

stage_fmt() { cargo fmt --all --check; }

stage_clippy() {
    cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
    # The node without C++, as simulations build it. Its library only: the binary stands on the real disk.
    cargo clippy -p cartwheel-node --lib --no-default-features --locked --quiet -- -D warnings
    # What only a build with bugs in it has.
    cargo clippy -p cartwheel-tests --bin sim --features planted --locked --quiet -- -D warnings
    cargo clippy -p cartwheel-ring --test models --features planted --locked --quiet -- -D warnings
}

stage_deny() {
    cargo deny --locked check --hide-inclusion-graph licenses bans sources
    echo "NOT CHECKED: security advisories. Their database comes from the network: run \`cargo deny check advisories\`."
}

# One build for all tests: with another choice of packages cargo would unify features differently and start over. The
# process tests meet the binary as a copy, so that another build in the same target folder can't swap it under them.
stage_build() { cargo build --workspace --bins --tests --locked --quiet; }

with_binary() {
    stage_build
    [ "$(id -u)" -eq 0 ] || echo "NOT CHECKED: that an interrupt takes a mounted disk away. To mount one takes root."
    bin_dir=$(mktemp -d)
    trap 'rm -rf "$bin_dir"' EXIT
    cp "$target/debug/cartwheel" "$bin_dir/cartwheel"
    export CARTWHEEL_BIN="$bin_dir/cartwheel"
}

# Only the final run of all stages takes them together; one by one they are for people who wait.
stage_tests() { with_binary && "${NEXTEST[@]}" --workspace; }
stage_unit() { stage_build && "${NEXTEST[@]}" --workspace -E 'not package(cartwheel-tests)'; }
stage_process() { with_binary && "${NEXTEST[@]}" --workspace -E 'package(cartwheel-tests)'; }

# In release, and for its own sake without RocksDB: the simulated disk is in memory. Where seeds are run with and without safety rules
# that are switched off they are built once, with the switches in, of which none is turned for the plain ones: a seed runs the same.
simulation=()
build_simulation() { cargo build --release -p cartwheel-tests --bin sim "${simulation[@]}" "$@" --locked --quiet; }

stage_sim() {
    build_simulation
    local one=()
    [ -z "${SEED:-}" ] || one=(--seed "$SEED" --trace)
    "$target/release/sim" "${one[@]}" --seeds "${SEEDS:-300}" --seed-start "${SEED_START:-1}" --seconds "${SIM_SECONDS:-60}"
}

stage_planted() { build_simulation --features planted && "$target/release/sim" --bugs --seeds "${SEEDS:-2000}"; }

# A check that nobody has seen fail may be blind: each of these is noticed within some seeds, and together they cover the checkers
# of lost values, of sessions, of majorities and of lifetimes, the rest at the end, and the watch on dots, on receipts and on leaves. All
# of them, to the last, are for `make planted`.
stage_checkers() {
    local bug bugs=()
    for bug in one-epoch ack-before-sync leaf-apart merge-equal-counts last-write-wins own-calendar whole-clock \
        repairs-equal forward-twice reap-at-once reads-target old-tables; do
        bugs+=(--bug "$bug")
    done
    build_simulation --features planted
    "$target/release/sim" "${bugs[@]}" --seeds 100
}

# A release build goes one event deeper. A process for each test, since a rule is switched off for a whole one.
stage_model() {
    "${NEXTEST[@]}" --release -p cartwheel-ring --test models --features planted exhaustive
}

stage_doctests() { cargo test --workspace --doc --locked --quiet; }

stage_doc() { RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked --quiet; }

stage_readme() { python3 scripts/readme.py README.md; }

# What needs containers is left out where there are none, and says so; with CARTWHEEL_DOCKER=required, as in CI, that is a failure.
without_docker() {
    echo "NOT CHECKED: $1"
    [ "${CARTWHEEL_DOCKER:-}" != required ] || { echo "test: CARTWHEEL_DOCKER=required, so this has to be checked" >&2 && return 1; }
}

# The image and the compose cluster, where there is a Docker engine. It needs no registry.
stage_compose() {
    if ! docker info >/dev/null 2>&1; then
        without_docker "the image and docker-compose.yml. There is no Docker engine that answers."
        return
    fi
    scripts/image.sh
    python3 scripts/compose.py
    python3 scripts/readme.py README.md --docker
}

# At the end of the stage of faults. Reports of runs that broke nothing say nothing new; of one that did, they and its history are all that
# will ever be known.
keep_if_broken() {
    if [ "$?" -eq 0 ]; then
        rm -rf "$1"
    else
        echo "test: the reports of the runs, and the history of the one that broke, are in $1" >&2
    fi
}

# Thirteen scenarios against processes, and two against the containers, with the image of the stage before. The calm one is as long as it
# takes until deletions are forgotten and their keys made again; shop events are through within a second, again and again.
stage_chaos() {
    local out calls=0
    out=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "keep_if_broken '$out'" EXIT
    cargo build --release --locked --quiet
    # A folder for each call: its page names its own runs only, and the next call begins one of its own.
    break_it() {
        calls=$((calls + 1))
        "$target/release/cartwheel" chaos run "$@" --seed "${CHAOS_SEED:-1}" --out "$out/$calls-$1"
    }
    break_it crash power-cut pause partition restart bad-links sync-fails clocks wipe membership-faults \
        --seconds "${CHAOS_SECONDS:-30}"
    break_it retail --seconds "${CHAOS_RETAIL_SECONDS:-15}"
    break_it calm --seconds "${CHAOS_CALM_SECONDS:-75}"
    if [ "$(id -u)" -eq 0 ]; then
        break_it disk-full --seconds "${CHAOS_DISK_SECONDS:-20}"
    else
        echo "NOT CHECKED: a full disk. The small one that is filled has to be mounted, as root may."
    fi
    if docker info >/dev/null 2>&1 && docker image inspect "${CARTWHEEL_IMAGE:-cartwheel}" >/dev/null 2>&1; then
        break_it crash overload --target compose --seconds "${CHAOS_SECONDS:-30}"
    else
        without_docker "faults in containers. There is no Docker engine that answers, or no image: \`make image\` makes it."
    fi
}

if [ "$#" -eq 0 ]; then
    scripts/setup.sh test
    simulation=(--features planted)
    set -- fmt deny clippy tests doctests doc sim checkers readme compose chaos
elif [ "$*" != fmt ]; then
    scripts/setup.sh test
fi

for stage in "$@"; do
    declare -F "stage_$stage" >/dev/null || { echo "test: no stage called $stage" >&2 && exit 2; }
    echo "── $stage"
    start=$SECONDS
    case "$stage" in fmt | deny | model | readme | compose) ;; *) rocksdb_env ;; esac
    # A subshell, and not `if stage_…`: in a condition bash would forget `set -e` inside.
    set +e
    (set -e && "stage_$stage") </dev/null
    code=$?
    set -e
    # The simulation's last word is its own: how many seeds, how many violations, and the first bad seed.
    if [ "$code" -ne 0 ]; then
        [ "$*" = sim ] || echo "── $stage FAILED after $((SECONDS - start)) s"
        exit 1
    fi
    [ "$*" = sim ] || echo "── $stage ok, $((SECONDS - start)) s"
done
