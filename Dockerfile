# An image that runs `ddim`, for CPUs or, with another index of torch, for NVIDIA GPUs:
#
#   docker build -t ddim .
#   docker build -t ddim:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   docker build -t ddim:hub --build-arg EXTRAS=metrics,sweep,web,hub,onnx .
#
#   docker run --rm -it -v "$PWD:/work" ddim train photos/
#   docker run --rm -it -v "$PWD:/work" --gpus all ddim:cuda train photos/

FROM python:3.12-slim AS wheel
COPY pyproject.toml README.md LICENSE /source/
COPY src /source/src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM python:3.12-slim
# torch.compile needs a C++ compiler.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" 'torch>=2.10' 'torchvision>=0.25'
COPY --from=wheel /wheels /wheels
# The optional parts of pyproject.toml that are installed.
ARG EXTRAS=metrics,sweep,web
# hadolint ignore=DL3013
RUN wheel=$(ls /wheels/ddim-*.whl) && pip install --no-cache-dir "${wheel}[${EXTRAS}]"
# Files that the container writes into a mounted folder should not belong to root. Another user: docker run --user.
RUN useradd --create-home --uid 1000 ddim
USER 1000
# Any user of the container can write there.
ENV DDIM_CACHE=/tmp/ddim-cache MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["ddim"]
CMD ["--help"]
