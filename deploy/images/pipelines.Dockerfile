# syntax=docker/dockerfile:1
# The controller, Celery's processes, and an MLflow server: what decides and trains.
#
#   docker build -f deploy/images/pipelines.Dockerfile -t sluice-pipelines .
#
# A release pins the base by digest: --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:…
# An index of packages of your own: --build-arg PIP_INDEX_URL=…
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG PIP_INDEX_URL=""
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/sluice
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY registry registry
COPY serving serving
COPY drift drift
COPY pipelines pipelines
COPY deploy deploy
RUN /opt/sluice/bin/pip install --constraint constraints.txt '.[gateway,kafka,pipelines,drift,reports,postgres,s3,tracing]'

FROM ${PYTHON_IMAGE} AS final
RUN groupadd --gid 10001 sluice && useradd --uid 10001 --gid sluice --no-create-home --home-dir /tmp sluice \
    && install --directory --owner=sluice --group=sluice --mode=0700 /var/lib/sluice
COPY --from=build /opt/sluice /opt/sluice
ENV PATH=/opt/sluice/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp \
    SLUICE_HOME=/var/lib/sluice SLUICE_PROBE_ADDRESS=tcp:0.0.0.0:8790
WORKDIR /var/lib/sluice
VOLUME ["/var/lib/sluice", "/tmp"]
EXPOSE 8720 8790
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=6 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8790/live', timeout=4)"]
ENTRYPOINT ["sluice"]
CMD ["run", "controller"]
