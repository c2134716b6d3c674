#!/usr/bin/env bash
# Builds the image `cartwheel` on a Debian machine that reaches no registry: a base image from Debian's packages, and the binary as
# it was built here.
#
#     scripts/image.sh            both, and the release binary first
#     scripts/image.sh FOLDER     with FOLDER/cartwheel
#
# The base is of this machine's own Debian, for the binary links the C++ library of the system it was built on. It is kept as
# `cartwheel-base` and made once.

set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

base=cartwheel-base
image="${CARTWHEEL_IMAGE:-cartwheel}"

root=()
[ "$(id -u)" -eq 0 ] || root=(sudo)
folder=""
# A binary that stays behind would go into every image that is built here later, whatever the sources are by then.
clean() {
    rm -f dist/cartwheel
    [ -z "$folder" ] || "${root[@]}" rm -rf "$folder"
}
trap clean EXIT

if [ "$#" -gt 0 ]; then
    binary="$1/cartwheel"
else
    scripts/setup.sh build
    rocksdb_env
    cargo build --release --locked --quiet -p cartwheel-node --bin cartwheel
    binary="${CARGO_TARGET_DIR:-$PWD/target}/release/cartwheel"
fi

if ! docker image inspect "$base" >/dev/null 2>&1; then
    command -v debootstrap >/dev/null 2>&1 ||
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends debootstrap </dev/null >/dev/null
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    # From where this machine has its own packages.
    mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $codename" 2>/dev/null | head -n 1)
    folder=$(mktemp -d)
    echo "image: making $base of $codename" >&2
    "${root[@]}" debootstrap --variant=minbase --include=libstdc++6 "$codename" "$folder/tree" ${mirror:+"$mirror"} >"$folder/log" 2>&1 ||
        { tail -n 20 "$folder/log" >&2 && exit 1; }
    # Lists and archives of packages are two thirds of it.
    "${root[@]}" rm -rf "$folder"/tree/var/lib/apt/lists/* "$folder"/tree/var/cache/apt/*
    "${root[@]}" tar -C "$folder/tree" -c . | docker import - "$base" >/dev/null
fi

mkdir -p dist
cp "$binary" dist/cartwheel
# Debug information is four fifths of it, and of no use where nobody debugs.
strip --strip-debug dist/cartwheel
# The builder that every engine has.
said=$(DOCKER_BUILDKIT=0 docker build -t "$image" --build-arg BASE="$base" --build-arg BUILDER="$base" . 2>&1) ||
    { tail -n 20 <<<"$said" >&2 && exit 1; }
echo "image: $image, $(($(docker image inspect -f '{{.Size}}' "$image") >> 20)) MiB" >&2
