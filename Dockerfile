# The whole service in one container, as a user of its own.
#
#   docker build -t aitp .
#   docker run -d --name aitp --env-file aitp.env --stop-timeout 50 -p 8001:8001 -v aitp-data:/app/data aitp
#
# --stop-timeout 50 leaves time for SHUTDOWN_GRACE_SECONDS and for delivering what was finished: Docker's own 10 seconds
# cut calls off that were paid for. /app/data holds the ledger: a volume on a local disk, one container at a time.

FROM python:3.11-slim-bookworm AS build
WORKDIR /app
# Only what decides which packages are installed, so that changed code doesn't install them again.
COPY bin ./bin
COPY requirements.txt requirements-build.txt ./
RUN root=/app && . bin/venv.sh && ensure_venv requirements.txt
COPY aitp ./aitp
RUN .venv/bin/python -m compileall -q aitp

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /app --no-create-home aitp \
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
