# One image for every process, and the page that the edge serves. The command says which process it is:
#
#     docker build -t parley:0.1.0 .
#     docker run parley:0.1.0 services.chat
#
# Nothing in it is written to: the root file system may be read-only. What must last lies in MongoDB.

# ---- The web client, to static files.
FROM node:22-bookworm-slim AS web
WORKDIR /src/web
COPY web/package.json web/package-lock.json web/.npmrc ./
RUN npm ci --no-audit --no-fund
COPY web/ ./
RUN npm run build

# ---- The Python packages, at the locked versions, in an environment without pip.
FROM python:3.11-slim-bookworm AS packages
RUN python -m venv --without-pip /opt/parley
COPY requirements.lock ./
RUN pip --python /opt/parley/bin/python install --no-cache-dir --no-deps --disable-pip-version-check -r requirements.lock

# ---- What runs.
FROM python:3.11-slim-bookworm
# The interpreter comes with an installer; whoever gets in should not find one.
RUN rm -rf /usr/local/lib/python3.11/ensurepip /usr/local/lib/python3.11/site-packages /usr/local/bin/pip* \
 && mkdir /usr/local/lib/python3.11/site-packages
COPY --from=packages /opt/parley /opt/parley
WORKDIR /app
COPY protos/ protos/
COPY services/ services/
COPY edge/ edge/
COPY --from=web /src/web/dist/ web/dist/
# Compiled here once, as nobody can write the results later.
RUN /opt/parley/bin/python -m compileall -q /opt/parley/lib protos services edge
ENV PATH=/opt/parley/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# By number, so that an orchestrator can see that it is not root; it owns nothing.
USER 10001:10001
EXPOSE 8080 8090 8091 8092 9090
# For plain Docker; Kubernetes asks by the probes of its own manifests.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9090/readyz', timeout=2)"]
ENTRYPOINT ["python", "-m"]
