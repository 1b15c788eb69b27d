# One image for every role; `command` in compose.yaml names the role.
FROM python:3.11-slim

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/bahi bahi
WORKDIR /opt/bahi

COPY requirements.lock ./
RUN pip install --require-hashes -r requirements.lock

COPY pyproject.toml ./
COPY src ./src
COPY schemas ./schemas
RUN pip install --no-deps --no-build-isolation --editable .

USER bahi
ENV BAHI_HOME=/var/lib/bahi BAHI_HTTP_HOST=0.0.0.0
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["bahi"]
CMD ["run"]
