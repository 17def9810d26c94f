# The whole service in one container, as a user of its own.
#
#   docker build -t aitp .
#   docker run -d --name aitp --env-file aitp.env --stop-timeout 50 -p 8001:8001 -v aitp-data:/app/data aitp
#
# --stop-timeout 50 leaves time for SHUTDOWN_GRACE_SECONDS and for delivering what was finished: Docker's own 10 seconds
# cut calls off that were paid for. /app/data holds the ledger: a volume on a local disk, one container at a time.
# Nothing else needs to be written but /app/run, so this confines it further, as docker-compose.yml does:
#
#   --read-only --tmpfs /app/run:mode=0700,uid=10001,gid=10001 --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges
#
# podman before 4.4 refuses uid= and gid= there: give it a volume, `-v aitp-run:/app/run`, which has the image's owner.
#
# With packages of others (docs/EXTENDING.md): a directory `extensions` beside this file, with an extensions.txt in it, as
# pip reads requirements, and whatever that names by a relative path.
#
# The tag names one version. To be certain of the very bytes, name them: `docker buildx imagetools inspect IMAGE --format
# '{{.Manifest.Digest}}'` tells the digest, `docker build --build-arg PYTHON_IMAGE=IMAGE@sha256:…` uses it.

ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
FROM ${PYTHON_IMAGE} AS build
WORKDIR /app
# Only what decides which packages are installed, so that changed code doesn't install them again.
COPY bin ./bin
COPY requirements.txt requirements-build.txt ./
COPY aitp/__init__.py ./aitp/__init__.py
RUN root=/app && . bin/venv.sh && ensure_venv requirements.txt
# Named with a file that is there, because there may be no extensions.
COPY requirements.txt extension[s] ./extensions/
RUN if [ -e extensions/extensions.txt ]; then root=/app && . bin/venv.sh && install_extensions extensions; fi \
    && rm -r /app/extensions
# pip and the packages' own tests are a quarter of it, and of no use any more.
RUN .venv/bin/python -m pip uninstall --quiet --yes pip setuptools wheel \
    && find .venv -type d -name tests -prune -exec rm -rf {} +
COPY aitp ./aitp
# --build-arg REVISION="$(git rev-parse --short=12 HEAD)": what `aitp --version` and aitp_build_info tell of it.
ARG REVISION=
RUN test -z "$REVISION" || echo "$REVISION" >aitp/REVISION
RUN .venv/bin/python -m compileall -q aitp

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 aitp \
    && useradd --uid 10001 --gid aitp --home-dir /app --no-create-home --shell /usr/sbin/nologin aitp \
    && install -d -o aitp -g aitp -m 0700 /app/data /app/run
WORKDIR /app
COPY etc ./etc
COPY --from=build /app ./
ENV PATH=/app/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
USER aitp
VOLUME /app/data
EXPOSE 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", "\
import os; from urllib.request import ProxyHandler, build_opener; \
port = os.environ.get('METRICS_PORT') or 8001; \
build_opener(ProxyHandler({})).open(f'http://127.0.0.1:{port}/health', timeout=4)"]
CMD ["aitp", "run"]
