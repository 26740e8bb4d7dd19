"""The example's script as a module."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "behavior_classification.py"


@pytest.fixture(scope="session")
def example():
    """`examples/behavior_classification.py`, imported and not run."""
    pytest.importorskip("tensorflow", reason="the example is written for TensorFlow")
    spec = importlib.util.spec_from_file_location("behavior_classification", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
