"""The distribution `cerebro-dl`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "cerebro" / "version.py").read_text())

LINT = ["ruff>=0.4", "mypy>=1.8", "pre-commit>=3.5"]
TEST = [
    "pytest>=7.4",
    "pytest-timeout>=2.2",
    "pytest-xdist>=3.5",
    "coverage[toml]>=7.10",
    "hypothesis>=6.80",
    "nbclient>=0.8",
    "nbformat>=5.9",
    "ipykernel>=6.25",
    "mfusepy>=3.0; sys_platform == 'linux'",
    "tensorboard>=2.15",
]

setup(
    name="cerebro-dl",
    version=VERSION[1],
    description="Model selection for deep learning by model hopper parallelism",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["cerebro", "cerebro.*"]),
    package_data={"cerebro": ["py.typed"], "cerebro.report": ["*.js", "*.css"]},
    install_requires=["tensorflow>=2.15", "numpy", "pandas"],
    # PyTorch is what `benchmarks/model.py` compares the example with, SciPy finds the bounds of
    # `benchmarks/simulation.py`.
    extras_require={
        "test": TEST,
        "dev": [*TEST, *LINT],
        "benchmark": ["torch>=2.0", "scipy>=1.9"],
    },
    entry_points={
        "console_scripts": [
            "cerebro=cerebro.cli.main:main",
            "cerebro-standalone-worker=cerebro.cli.worker:main",
        ],
    },
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
