# One image for every role: `docker run IMAGE api`, `… IMAGE worker-settle`, or any command, as in `… IMAGE alembic upgrade head`.
# Settings come from the environment (docs/configuration.md).
# The digest is that of the index of all architectures. It pins the image even if the tag changes later.
ARG PYTHON=python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON} AS build
WORKDIR /app
RUN python -m venv /venv
COPY requirements.lock ./
RUN /venv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements.lock
COPY gateway gateway
COPY tasks tasks
COPY celeryconfig.py ./
RUN /venv/bin/python -m compileall -q gateway tasks celeryconfig.py

FROM ${PYTHON}
# The folders are mount points: a new volume gets their owner. HOME is writable for tools that need it.
RUN useradd --system --uid 10001 --user-group --create-home --home-dir /var/lib/gateway gateway \
    && install -d -o gateway -g gateway -m 0700 /var/lib/gateway/keys /var/lib/gateway/metrics /var/lib/gateway/beat
WORKDIR /app
COPY --from=build /venv /venv
COPY --from=build /app /app
COPY alembic.ini Procfile docker-entrypoint.sh ./
COPY migrations migrations
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FLASK_APP=gateway.app \
    HOST=0.0.0.0 \
    PORT=8000 \
    LOG_FORMAT=json \
    KEYS_DIR=/var/lib/gateway/keys \
    BEAT_STATE_DIR=/var/lib/gateway/beat
USER 10001:10001
EXPOSE 8000 5555
ENTRYPOINT ["/app/docker-entrypoint.sh"]
CMD ["api"]
