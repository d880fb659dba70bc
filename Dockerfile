# Three images from one file: `docker build --target gateway | runtime-cpu | runtime .` What each holds: docs/images.md.
#
# Bases are pinned by digest where one could be looked up. The GPU base is named by tag: a release passes its digest
# (--build-arg SGLANG_IMAGE=...@sha256:...), as .github/workflows/release.yml does.
ARG PYTHON_IMAGE=python:3.11.15-slim-trixie@sha256:db3ff2e1800a8581e2c48a27c3995339d47bdf046da21c7627accd3d51053a93
ARG SGLANG_IMAGE=lmsysorg/sglang:v0.5.23-runtime

# --- our package as a wheel: the same bytes for every image and, with SOURCE_DATE_EPOCH, for every build
FROM ${PYTHON_IMAGE} AS wheel
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
ARG SOURCE_DATE_EPOCH
ARG PIP_INDEX_URL
WORKDIR /src
COPY requirements requirements
RUN grep '^setuptools==' requirements/runtime-cpu.txt > setuptools.txt && pip install --no-deps -r setuptools.txt
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY draft_models draft_models
COPY loadtest loadtest
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

FROM wheel AS gateway-build
RUN python -m venv --without-pip /opt/aerie \
    && pip --python /opt/aerie/bin/python install --no-deps -r requirements/gateway.txt \
    && pip --python /opt/aerie/bin/python install --no-deps /wheels/*.whl

# --- the gateway: no torch, no sglang, no compiler, nothing that it would write
FROM ${PYTHON_IMAGE} AS gateway
ARG VERSION=0.1.0
ARG REVISION
ARG SOURCE_URL
LABEL org.opencontainers.image.title="aerie gateway" \
      org.opencontainers.image.description="OpenAI's API over SGLang runtimes that decode speculatively" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE_URL}"
# USER as a variable: libraries ask for the user's name, and any number may be the user
ENV PATH=/opt/aerie/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp USER=aerie AERIE_HOST=0.0.0.0
COPY --from=gateway-build /opt/aerie /opt/aerie
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=6 \
    CMD ["python", "-c", "import http.client as h, os, sys; c = h.HTTPConnection('127.0.0.1', int(os.environ.get('AERIE_PORT', 8000)), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["aerie"]
CMD ["gateway"]

# --- the CPU runtime: SGLang, the kernels compiled for every x86-64 level, the model converted, the draft
FROM wheel AS runtime-cpu-build
# versions of Debian's packages are the digest's and the day's: its mirrors keep no others
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# an index with CPU builds of torch, where the default one would bring CUDA (as scripts/setup.py)
ARG TORCH_INDEX_URL
RUN python -m venv --without-pip /opt/aerie \
    && grep '^torch==' requirements/runtime-cpu.txt > torch.txt \
    && pip --python /opt/aerie/bin/python install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -r torch.txt \
    && pip --python /opt/aerie/bin/python install --no-deps -r requirements/runtime-cpu.txt \
    && pip --python /opt/aerie/bin/python install --no-deps /wheels/*.whl
COPY draft_models/smollm2-135m-instruct-eagle3 /opt/aerie/lib/python3.11/site-packages/draft_models/smollm2-135m-instruct-eagle3
ENV PATH=/opt/aerie/bin:$PATH AERIE_CACHE_DIR=/var/cache/aerie
WORKDIR /var/cache/aerie
RUN cp "$(python -m service.runtime.cpu.build)" /opt/aerie/lib/cpu_ops.so \
    && python -c "from service.runtime.model_source import EMBEDDED, prepare; prepare(EMBEDDED, print)" \
    && rm -r cpu_ops && chmod -R a+rX .

FROM ${PYTHON_IMAGE} AS runtime-cpu
ARG VERSION=0.1.0
ARG REVISION
ARG SOURCE_URL
LABEL org.opencontainers.image.title="aerie CPU runtime" \
      org.opencontainers.image.description="SGLang with EAGLE-3 and SmolLM2-135M-Instruct on a machine without a GPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE_URL}"
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/aerie/bin:$PATH PYTHONUNBUFFERED=1 HOME=/var/cache/aerie USER=aerie \
    AERIE_CACHE_DIR=/var/cache/aerie AERIE_CPU_OPS=/opt/aerie/lib/cpu_ops.so AERIE_PROFILE=cpu
COPY --from=runtime-cpu-build /opt/aerie /opt/aerie
COPY --from=runtime-cpu-build --chown=10001:10001 /var/cache/aerie /var/cache/aerie
WORKDIR /tmp
USER 10001:10001
EXPOSE 30000
HEALTHCHECK --interval=10s --timeout=6s --start-period=240s --retries=3 \
    CMD ["python", "-c", "import http.client as h, sys; c = h.HTTPConnection('127.0.0.1', 30000, timeout=5); c.request('GET', '/ready'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["aerie"]
CMD ["runtime", "--runtime-host", "0.0.0.0"]

# --- the GPU runtime: SGLang's published image, and our package with the four it needs that SGLang has not
FROM ${SGLANG_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION
ARG SOURCE_URL
LABEL org.opencontainers.image.title="aerie GPU runtime" \
      org.opencontainers.image.description="SGLang's published image with aerie in it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE_URL}"
ARG SOURCE_DATE_EPOCH
ARG PIP_INDEX_URL
COPY --from=wheel /src/requirements/gateway.txt /tmp/aerie/gateway.txt
COPY --from=wheel /wheels /tmp/aerie/wheels
# --no-deps: nothing that SGLang has pinned is replaced. The last line fails the build where something is missing.
RUN grep -E '^(fastapi-offline|httptools|pydantic-settings|python-dotenv)==' /tmp/aerie/gateway.txt > /tmp/aerie/missing.txt \
    && python3 -m pip install --no-cache-dir --break-system-packages --no-deps -r /tmp/aerie/missing.txt /tmp/aerie/wheels/*.whl \
    && rm -r /tmp/aerie && mkdir -p /var/cache/aerie && chown 10001:10001 /var/cache/aerie \
    && aerie --help > /dev/null
# not the base's user: SGLang, its compilers' caches and the hub's downloads all write below HOME
ENV PYTHONUNBUFFERED=1 HOME=/var/cache/aerie USER=aerie AERIE_CACHE_DIR=/var/cache/aerie AERIE_PROFILE=h100
WORKDIR /tmp
USER 10001:10001
EXPOSE 30000
HEALTHCHECK --interval=10s --timeout=6s --start-period=900s --retries=3 \
    CMD ["python3", "-c", "import http.client as h, sys; c = h.HTTPConnection('127.0.0.1', 30000, timeout=5); c.request('GET', '/ready'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["aerie"]
CMD ["runtime", "--runtime-host", "0.0.0.0"]
