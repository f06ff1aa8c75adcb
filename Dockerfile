# syntax=docker/dockerfile:1
ARG DEBIAN=trixie

FROM rust:1-slim-${DEBIAN} AS build
WORKDIR /millstream
COPY . .
# The mounts keep what was fetched and built, so that a change of ours does not build the dependencies again.
# With traces: where no OTEL_EXPORTER_OTLP_ENDPOINT is set they cost nothing that could be measured (docs/tracing.md).
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/millstream/target,sharing=locked \
    cargo build --release --locked --features otel --bin millstream \
    && cp target/release/millstream /usr/local/bin/millstream

FROM debian:${DEBIAN}-slim
# curl is for the health check of docker-compose.yml.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin millstream
COPY --from=build /usr/local/bin/millstream /usr/local/bin/millstream
USER millstream
EXPOSE 8080
ENTRYPOINT ["millstream"]
CMD ["serve", "--config", "/etc/millstream/millstream.toml"]
