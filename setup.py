"""Build file of fg_depth_ros: read by colcon (with a ROS installation) and by pip (without)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

NAME = "fg_depth_ros"
HERE = Path(__file__).resolve().parent


def version() -> str:
    """Version of the package, from its __init__.py (read, not imported: dependencies may be missing yet)."""
    text = (HERE / NAME / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if match is None:
        raise RuntimeError(f'{NAME}/__init__.py: no line __version__ = "..."')
    return match.group(1)


def shared_files(folder: str) -> list[tuple[str, list[str]]]:
    """(destination, files) pairs that install a folder of the repository below share/fg_depth_ros."""
    found: dict[str, list[str]] = {}
    for path in sorted((HERE / folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            relative = path.relative_to(HERE)
            found.setdefault(f"share/{NAME}/{relative.parent.as_posix()}", []).append(relative.as_posix())
    return sorted(found.items())


# The wheels of ROS 2 Kilted for machines without a ROS installation (x86-64 Linux).
# rclpy does not pull in a middleware, so one is named here.
ROS = [
    "ros-rclpy>=9.1,<10",
    "ros-rmw-fastrtps-cpp>=9.3,<10",
    "ros-ament-index-python>=1.11,<2",
    "ros-builtin-interfaces>=2.3,<3",
    "ros-diagnostic-msgs>=5.5,<6",
    "ros-lifecycle-msgs>=2.3,<3",
    "ros-rcl-interfaces>=2.3,<3",
    "ros-rosgraph-msgs>=2.3,<3",
    "ros-sensor-msgs>=5.5,<6",
    "ros-std-msgs>=5.5,<6",
    "ros-std-srvs>=5.5,<6",
    "ros-stereo-msgs>=5.5,<6",
]
# What data sets and recordings come in. Bags without ROS: rosbags reads them; mcap knows their records, which are
# written so that every message is safe as soon as it is there; zstandard packs them, and lz4 unpacks what other
# recorders wrote. MATLAB files (NYU): h5py reads those of version 7.3 only, scipy the older ones.
DATA = ["h5py>=3.6", "lz4>=3.0", "mcap>=1.3", "rosbags>=0.11", "scipy>=1.8", "zstandard>=0.20"]
TRAIN = ["pytorch-lightning>=2.2", "tensorboard>=2.14"]
# Faster engines for the networks than PyTorch: OpenVINO on CPUs; networks reach it in ONNX's format.
ENGINES = ["onnx>=1.15", "openvino>=2024.4"]
ONNX = ["onnx>=1.15", "onnxruntime>=1.17", "onnxscript>=0.1"]
# What "fg-depth view" shows with; 0.39 is the last one for Python 3.10.
VIEWER = ["rerun-sdk>=0.39"]
# Images that come as video (H.264, H.265), live and in bags: PyAV comes with its own FFmpeg, and decodes packet by
# packet, which OpenCV does not. 17 is the last one for Python 3.10.
VIDEO = ["av>=12.1"]
# colcon runs pytest only where an extra called "test" asks for it.
TEST = [
    "pytest>=7.0",
    "pytest-timeout>=2.1",
    "pytest-xdist>=3.2",  # the first with --dist worksteal
    "hypothesis>=6.0",
    "colcon-core>=0.15",
    "colcon-ros>=0.4",
    "colcon-python-setup-py>=0.2.8",
    "colcon-test-result>=0.3.8",
    # the last series whose "setup.py develop" and "setup.py install" do what colcon expects
    "setuptools>=64,<80",
]
DEV = ["ruff>=0.12", "mypy>=1.11", "import-linter>=2.0", "codespell>=2.3"]

setup(
    name=NAME,
    version=version(),
    description="Metric depth from a stereo camera with learned models, for ROS 2",
    author="The fg_depth_ros developers",
    maintainer="The fg_depth_ros developers",
    maintainer_email="fg_depth_ros@example.com",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["weights/*.safetensors", "py.typed", "evaluation/reports/*.j2"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *shared_files("launch"),
        *shared_files("config"),
        *shared_files("rviz"),
        *shared_files("docs"),
    ],
    zip_safe=False,
    install_requires=[
        "Jinja2>=3.0",
        "matplotlib>=3.5",
        "numpy>=1.21",
        # 5.0 gave the type codes new values
        "opencv-python-headless>=4.5.4,<5",
        "Pillow>=9.1",
        "PyYAML>=5.4",
        "rich>=12",
        "safetensors>=0.4",
        "scikit-image>=0.19",
        "torch>=2.1",
        "typer>=0.9",
    ],
    extras_require={
        "ros": ROS,
        "train": TRAIN,
        "data": DATA,
        "engines": ENGINES,
        "onnx": ONNX,
        "viewer": VIEWER,
        "video": VIDEO,
        "test": TEST,
        "dev": DEV,
    },
    entry_points={
        "console_scripts": [
            "stereo_depth_node = fg_depth_ros.nodes.entry_points:stereo_depth",
            "stereo_player_node = fg_depth_ros.nodes.entry_points:stereo_player",
            "replay_evaluator_node = fg_depth_ros.nodes.entry_points:replay_evaluator",
            "data_logger_node = fg_depth_ros.nodes.entry_points:data_logger",
            "bag_player_node = fg_depth_ros.nodes.entry_points:bag_player",
            "fg-depth = fg_depth_ros.cli:main",
        ]
    },
)
