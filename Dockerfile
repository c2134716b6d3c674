# The image of a node: the one binary, a user of its own, and a healthcheck.
#
#   docker build -t cartwheel .                                   where a registry can be reached
#   docker build -t cartwheel --build-arg BASE=… --build-arg BUILDER=… .
#
# Without a registry `scripts/image.sh` makes the base image from Debian's packages, and lays a binary that is built already
# into dist/, so that the first stage has nothing to do. Both stages are of one Debian: the binary links the C++ library of the
# system it was built on.

ARG BASE=debian:bookworm-slim
ARG BUILDER=rust:1.95-bookworm

FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
RUN if [ -x dist/cartwheel ]; then \
        cp dist/cartwheel /cartwheel; \
    else \
        scripts/setup.sh build && cargo build --release --locked -p cartwheel-node --bin cartwheel && \
        cp target/release/cartwheel /cartwheel; \
    fi

FROM ${BASE}
# The C++ library is all that the binary needs of a system; a slim image lacks it.
RUN ldconfig -p | grep -q libstdc++.so.6 || \
    { apt-get update && apt-get install -y --no-install-recommends libstdc++6 && rm -rf /var/lib/apt/lists/*; }
RUN groupadd --system --gid 10001 cartwheel && \
    useradd --system --uid 10001 --gid cartwheel --home-dir /var/lib/cartwheel --shell /usr/sbin/nologin cartwheel && \
    install -d -o cartwheel -g cartwheel -m 0700 /var/lib/cartwheel /run/cartwheel
COPY --from=build /cartwheel /usr/local/bin/cartwheel
COPY scripts/container-node.sh /usr/local/bin/cartwheel-node

USER cartwheel
# The data; and what the nodes of a compose cluster share: their secret.
VOLUME /var/lib/cartwheel
ENV CARTWHEEL_DATA_DIR=/var/lib/cartwheel \
    CARTWHEEL_HTTP=0.0.0.0:8098 \
    CARTWHEEL_PEER=0.0.0.0:8099
EXPOSE 8098 8099
# It answers, whatever else it says: one that is not ready, or waits to be let in, must not be taken away, for it may be all that is left.
HEALTHCHECK --interval=2s --timeout=5s --start-period=30s --retries=5 \
    CMD ["cartwheel", "ping", "--url", "http://127.0.0.1:8098"]
STOPSIGNAL SIGTERM
CMD ["cartwheel-node"]
