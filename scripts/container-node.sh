#!/bin/sh
# Starts the node of a container: as `cartwheel node` does, and beside it what the nodes of one compose cluster share.
#
#   /run/cartwheel/secret    the cluster's secret, which the founder makes at the first `up`
#   /run/cartwheel/founded   that there is a cluster: whoever is empty from now on joins it, the founder too
#
# Without a folder for that (a node on its own: `docker run`) there is no secret but what the environment says.
set -eu

shared=/run/cartwheel
secret=$shared/secret

if [ "${CARTWHEEL_FOUNDER:-}" = yes ]; then
    if [ ! -s "$secret" ]; then
        umask 077
        head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$secret.new"
        mv "$secret.new" "$secret"
    fi
    # An empty disk of the founder is a new cluster once, and a lost disk from then on.
    [ -e "$shared/founded" ] || unset CARTWHEEL_SEEDS
elif [ -d "$shared" ] && [ -s "$secret" ]; then
    # It starts when the founder is well.
    [ -e "$shared/founded" ] || : >"$shared/founded"
fi
unset CARTWHEEL_FOUNDER
if [ -s "$secret" ] && [ -z "${CARTWHEEL_CLUSTER_SECRET:-}" ]; then
    export CARTWHEEL_CLUSTER_SECRET_FILE="$secret"
fi

# What was bound is no address for others here.
: "${CARTWHEEL_ADVERTISE_PEER:=$(hostname):8099}"
: "${CARTWHEEL_ADVERTISE_HTTP:=$(hostname):8098}"
export CARTWHEEL_ADVERTISE_PEER CARTWHEEL_ADVERTISE_HTTP

exec cartwheel node "$@"
