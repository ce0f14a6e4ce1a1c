# All commands on a CPU; docs/howto.md says how to build and run it.
FROM python:3.11-slim-bookworm

# g++: long trainings compile their updates; libosmesa6: scripts.record renders without a screen or a GPU
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libosmesa6 \
    && rm -rf /var/lib/apt/lists/*

# the packages first: a change of the code alone does not install them again; torch without CUDA is 4 GB smaller
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /opt/mtrl-surgery
COPY constraints.txt ./
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -c constraints.txt torch
COPY . .
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -c constraints.txt -e '.[video,report]'

# any user id may work here, so that files in a mounted folder belong to who runs it
RUN useradd --home-dir /work --create-home mtrl && chmod 1777 /work
USER mtrl
ENV HOME=/work USER=mtrl MUJOCO_GL=osmesa
WORKDIR /work
ENTRYPOINT ["mtrl-surgery"]
