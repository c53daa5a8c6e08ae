# Training on a GPU, with your data mounted. On the machine: NVIDIA's driver and container toolkit.
#
#   docker build -f docs/docker/train.Dockerfile -t mrict-train .
#   docker run --rm --gpus all --user $(id -u):$(id -g) -v DATA:/data:ro -v OUT:/out mrict-train ./run_all.sh --data /data
#   docker run --rm --gpus all --user $(id -u):$(id -g) -v DATA:/data:ro -v OUT:/out mrict-train \
#     mrict preprocess --data /data --profile full
#
# DATA holds the patients, as ./run_all.sh --help says for --data. OUT is an existing folder of yours for the dataset
# cache, checkpoints and reports. The tests check commands, sources, Python and pins; they do not build the image.

# No CUDA image: torch's wheels bring CUDA, the container toolkit brings the driver, and the pins are of this Python.
FROM python:3.11-slim

ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 HOME=/tmp
WORKDIR /opt/mrict

COPY requirements.txt run_all.sh ./
RUN ./run_all.sh --setup-only
COPY . .

# the commands run as any user, who may write to /out alone
ENV PATH=/opt/mrict/.venv/bin:$PATH
ENV MRICT_DATA=/out/data MRICT_CHECKPOINTS=/out/checkpoints MRICT_REPORTS=/out/reports
RUN mkdir -m 777 /out

CMD ["./run_all.sh", "--help"]
