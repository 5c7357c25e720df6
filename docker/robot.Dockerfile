# The images that stand beside an arm, from the root of the repository (docker/README.md):
#   docker build -f docker/robot.Dockerfile --target robot -t alam-robot .
# Targets: robot (the arm and its cameras), robot-gpu (the same with CUDA and TensorRT), sim (the arm's twin in MuJoCo).
# None has torch for training. Real-time limits are the engine's to give (compose.yaml), devices the host's
# (host_setup.sh).
# hadolint global ignore=DL3008,DL3066

# --- what all of them have: ROS 2 Jazzy on Ubuntu 24.04, a user, the sources
FROM ros:jazzy-ros-base-noble AS sources

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        cmake g++ libusb-1.0-0 make python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# Ubuntu's image has a user of its own with the id that the first user of most machines has.
ARG UID=1000
RUN if id ubuntu >/dev/null 2>&1; then userdel --remove ubuntu; fi \
    && groupadd --system realtime \
    && useradd --create-home --uid "${UID}" --groups realtime,plugdev --shell /bin/bash robot

ENV PIP_NO_CACHE_DIR=1
WORKDIR /alam
COPY pyproject.toml constraints.txt LICENSE ./
COPY alam_models alam_models
COPY ros2_ws/src ros2_ws/src
COPY launch launch
COPY tools tools
COPY docker/entrypoint.sh docker/setup_robot.py docker/
COPY checkpoints checkpoints
ENTRYPOINT ["/alam/docker/entrypoint.sh"]

# --- the arm
FROM sources AS robot
RUN . /opt/ros/jazzy/setup.sh && python3 docker/setup_robot.py robot
USER robot
CMD ["ros2", "launch", "alam_bringup", "piper.launch.py", "--show-args"]

# --- the arm, with CUDA and TensorRT for the policy (provider:=cuda, provider:=tensorrt). TensorRT's package fetches its
# libraries from NVIDIA's own index while it is installed; the driver comes from the host through the container toolkit.
FROM robot AS robot-gpu
USER root
COPY docker/requirements-gpu.txt docker/
RUN .venv/bin/python -m pip uninstall --yes onnxruntime \
    && .venv/bin/python -m pip install --no-cache-dir -c .venv/.setup/constraints.txt -r docker/requirements-gpu.txt \
    && .venv/bin/python -c "import onnxruntime; assert 'TensorrtExecutionProvider' in onnxruntime.get_available_providers()"
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER robot

# --- the arm's twin: no hardware, and what renders it
FROM sources AS sim
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        libegl1 libgl1-mesa-dri libosmesa6 \
    && rm -rf /var/lib/apt/lists/*
RUN . /opt/ros/jazzy/setup.sh && python3 docker/setup_robot.py robot sim
USER robot
CMD ["ros2", "launch", "alam_bringup", "piper.launch.py", "--show-args"]
