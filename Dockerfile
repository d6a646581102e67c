# The server in a container. For a CPU, or for a GPU with NVIDIA's container runtime:
#   docker build --tag descore --build-arg DEVICE=cpu --build-arg TORCH_INDEX=URL .
#   docker build --tag descore --build-arg DEVICE=cuda .
# URL is the package index of torch without CUDA, as the installation page of PyTorch names it. Without it the CPU image
# works too, and is some gigabytes larger.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ARG DEVICE=cuda
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN python -m venv /opt/descore \
 && case "$DEVICE" in cpu|cuda) ;; *) echo "DEVICE: expected cpu or cuda, got $DEVICE" >&2; exit 1 ;; esac \
 && if [ "$DEVICE" = cpu ] && [ -n "$TORCH_INDEX" ]; then \
      /opt/descore/bin/pip install --constraint constraints.txt --index-url "$TORCH_INDEX" torch; \
    fi \
 && /opt/descore/bin/pip install --constraint constraints.txt '.[serve,parquet]'

FROM python:${PYTHON}
ARG DEVICE=cuda
LABEL org.opencontainers.image.title="descore" \
      org.opencontainers.image.licenses="Apache-2.0" \
      descore.device="${DEVICE}"
COPY --from=build /opt/descore /opt/descore
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin descore
ENV PATH=/opt/descore/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /home/descore
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=4 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
ENTRYPOINT ["descore", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--model", "/model", "--api-key-env", "DESCORE_KEY"]
