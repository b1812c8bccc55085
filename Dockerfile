# Build with: docker build -t provider-agent .
# Two stages, so that compiler, build backend and sources are not part of the final image.

ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
# For the hot modules of the agent, which mypyc compiles.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# Pinned packages first: their layer stays cached while only our own sources change.
COPY requirements/compile.txt requirements/image-build.txt requirements/image.txt requirements/
RUN python -m venv /build \
    && /build/bin/pip install --require-hashes --only-binary :all: -r requirements/compile.txt
# Only `nkeys`, a pure Python package that NATS's client needs, has no wheel.
RUN python -m venv /opt/provider-agent \
    && /opt/provider-agent/bin/pip install --require-hashes --only-binary :all: \
        -r requirements/image-build.txt \
    && /opt/provider-agent/bin/pip install --require-hashes --only-binary :all: \
        --no-binary nkeys --no-build-isolation -r requirements/image.txt
COPY pyproject.toml hatch_build.py README.md LICENSE agent.example.toml ./
COPY src src
COPY protocol protocol
COPY adapters adapters
COPY agent agent
COPY coordinator coordinator
COPY conformance conformance
RUN HATCH_BUILD_HOOKS_ENABLE=1 /build/bin/hatchling build --target wheel --directory /dist \
    && /opt/provider-agent/bin/pip install --no-index --no-deps /dist/*.whl \
    && /opt/provider-agent/bin/pip uninstall --yes pip setuptools

FROM ${PYTHON_IMAGE} AS runtime
LABEL org.opencontainers.image.title="provider-agent" \
      org.opencontainers.image.description="Connects your inference servers to a coordinator and relays their responses byte for byte." \
      org.opencontainers.image.licenses="Apache-2.0"
# The volume holds the identity key: without it the coordinator does not recognize the agent.
RUN install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/provider-agent \
    && install --directory /etc/provider-agent
COPY --from=build /opt/provider-agent /opt/provider-agent
COPY agent.example.toml /etc/provider-agent/
# Without PROVIDER_AGENT_CONFIG: /etc/provider-agent/agent.toml is read if it is mounted, else variables suffice.
ENV PATH=/opt/provider-agent/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PROVIDER_AGENT_IDENTITY_KEY_PATH=/var/lib/provider-agent/identity.key \
    PROVIDER_AGENT_OBSERVABILITY_LOG_FORMAT=json
VOLUME /var/lib/provider-agent
# Numeric, so that Kubernetes can verify runAsNonRoot.
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["provider-agent", "health"]
ENTRYPOINT ["provider-agent"]
CMD ["run"]
