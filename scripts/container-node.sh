#!/bin/sh
# Starts the node of a container: as `cartwheel node` does, and beside it what the nodes of one compose cluster share.
#
#   /run/cartwheel/secret    the cluster's secret, which the founder makes at the first `up`
#   /run/cartwheel/founded   that there is a cluster: whoever is empty from now on joins it, the founder too
#
# CARTWHEEL_FOUNDER is `itself`, or the founder's address: whoever joins waits until that answers, once, before there is a cluster. From
# then on nobody waits for anybody, for the founder may be the one that is broken.
#
# Without it (a node on its own: `docker run`) there is no secret but what the environment says.
set -eu

shared=/run/cartwheel
secret=$shared/secret
tries_max=120

# A shell that is the container's first process ends at no signal that it does not ask for.
trap 'exit 143' TERM
trap 'exit 130' INT

await_founder() {
    echo "waiting for the founder at $1" >&2
    tries=0
    until [ -e "$shared/founded" ] || { [ -s "$secret" ] && cartwheel cluster status --url "$1" >/dev/null 2>&1; }; do
        if [ "$tries" -ge "$tries_max" ]; then
            echo "the founder at $1 does not answer, and there is no cluster yet" >&2
            exit 1
        fi
        sleep 1
        tries=$((tries + 1))
    done
    : >"$shared/founded"
}

case "${CARTWHEEL_FOUNDER:-}" in
"") ;;
itself)
    if [ ! -s "$secret" ]; then
        umask 077
        head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$secret.new"
        mv "$secret.new" "$secret"
    fi
    # An empty disk of the founder is a new cluster once, and a lost disk from then on.
    [ -e "$shared/founded" ] || unset CARTWHEEL_SEEDS
    ;;
*)
    [ -e "$shared/founded" ] || await_founder "$CARTWHEEL_FOUNDER"
    ;;
esac
unset CARTWHEEL_FOUNDER
if [ -s "$secret" ] && [ -z "${CARTWHEEL_CLUSTER_SECRET:-}" ]; then
    export CARTWHEEL_CLUSTER_SECRET_FILE="$secret"
fi

# What was bound is no address for others here.
: "${CARTWHEEL_ADVERTISE_PEER:=$(hostname):8099}"
: "${CARTWHEEL_ADVERTISE_HTTP:=$(hostname):8098}"
export CARTWHEEL_ADVERTISE_PEER CARTWHEEL_ADVERTISE_HTTP

exec cartwheel node "$@"
