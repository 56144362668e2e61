"""Package metadata. Plain settings of the tools live in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "streamvln_gym/__init__.py").read_text()).group(1)

TRAIN = ["accelerate>=1.3", "peft>=0.15", "tensorboard"]
RL = ["stable-baselines3>=2.7.1"]
RAY = ["ray>=2.40"]
SERVE = ["fastapi>=0.115", "uvicorn>=0.35", "websockets>=15", "msgpack>=1.0.5"]
# habitat-lab pins numpy 1.26.4, hence Python 3.10 to 3.12; habitat-sim comes by conda (docs/habitat.md).
HABITAT = [
    "habitat-lab>=0.3.3,<0.4; python_version < '3.13'",
    "opencv-python<5; python_version < '3.13'",
    "setuptools; python_version == '3.12'",  # gym 0.23 imports distutils
]
VIEWER = ["rerun-sdk>=0.41; python_version >= '3.11'"]  # live viewer and recordings (docs/watching.md)
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "psutil>=5.9",
    "setuptools>=77",  # a test builds the wheel
    "embreex>=2.17.7.post6",  # ground truth of the renderer's depth
    "moviepy>=2.0",  # Gymnasium's RecordVideo
    "playwright>=1.50",  # drives the Chromium that looks at reports, if there is one
    *RL,
    *SERVE,
    *TRAIN,
]
# The site of docs/; the Material theme and mkdocstrings are plug-ins of mkdocs 1.
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6", "mkdocstrings-python>=1.16"]
DEV = [*TEST, "ruff>=0.9", "mypy>=1.11", "pre-commit>=3.7", "build>=1.2"]

setup(
    name="streamvln-gym",
    version=VERSION,
    description="Vision-and-language navigation as a Gymnasium environment, and StreamVLN as a policy object",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    # The top-level folder agents/ is the subpackage streamvln_gym.agents; nothing called `agents` is installed.
    packages=[*find_packages(include=["streamvln_gym", "streamvln_gym.*"]), "streamvln_gym.agents"],
    package_dir={"streamvln_gym": "streamvln_gym", "streamvln_gym.agents": "agents"},
    package_data={"streamvln_gym": ["py.typed", "assets/**/*", "models/assets/**/*", "evaluation/report/assets/*"]},
    install_requires=[
        "gymnasium>=1.1",
        "numpy>=1.26",
        "numba>=0.61",
        "trimesh>=4.5",
        "shapely>=2.1",
        "scipy>=1.11",
        "pillow>=10.4",
        "platformdirs>=4.0",
        "filelock>=3.12",
        "imageio>=2.34",
        "imageio-ffmpeg>=0.5",
        "torch>=2.9",
        "transformers>=5.0",
        "tokenizers>=0.21",
        "safetensors>=0.4.3",
        "tqdm>=4.66",
        "tyro>=0.9",
        "rich>=13.0",
        "jinja2>=3.1",
    ],
    extras_require={
        "train": TRAIN,
        "rl": RL,
        "ray": RAY,
        "serve": SERVE,
        "habitat": HABITAT,
        "viewer": VIEWER,
        "test": TEST,
        "docs": DOCS,
        "dev": DEV,
    },
    entry_points={"console_scripts": ["streamvln-gym=streamvln_gym.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
