# The steps of docs/installation.md.  docker build -t stmn_plugin .
# On PyPI torch for Linux brings CUDA. For the CPU alone, name an index that has such packages:
#   docker build -t stmn_plugin --build-arg PIP_EXTRA_INDEX_URL=URL_OF_THE_CPU_INDEX .
FROM python:3.12-slim
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir ".[report]"
# batches travel through /dev/shm, of which a container has 64 MB by default:
#   docker run --rm --shm-size 4g [--gpus all] -v "$PWD:/work" stmn_plugin train --config stmn_synthetic
WORKDIR /work
ENTRYPOINT ["python", "-m", "stmn_plugin"]
CMD ["--help"]
