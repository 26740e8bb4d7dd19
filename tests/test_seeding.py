"""Packages with generators of their own are seeded where they are imported, and only there."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys

import numpy as np
import pytest

from cerebro import seeding
from cerebro.backends.base import Options, UnitTask, UserFunctions
from cerebro.backends.python import PythonHandler

TORCH = """
class random:
    state = None
    get_rng_state = staticmethod(lambda: random.state)
    set_rng_state = staticmethod(lambda state: setattr(random, "state", state))

class cuda:
    is_initialized = staticmethod(lambda: False)

def manual_seed(seed):
    random.state = [seed]

def draw():
    random.state = [*random.state, "drawn"]
"""
"""What of PyTorch is used."""


@pytest.fixture
def torch_is_there(tmp_path, monkeypatch):
    """A package "torch" that can be imported, and is not."""
    (tmp_path / "torch.py").write_text(TORCH)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(seeding, "_seed", None)
    yield
    sys.modules.pop("torch", None)


def test_what_is_imported_is_seeded_and_nothing_is_imported(torch_is_there):
    seeding.seed_generators(5)
    assert "torch" not in sys.modules
    import torch

    assert torch.random.state is None
    seeding.seed_generators(6)
    assert torch.random.state == [6]


def test_what_is_imported_later_is_seeded_then(torch_is_there):
    seeding.seed_at_import()
    seeding.seed_at_import()
    seeding.seed_generators(7)
    import torch

    assert torch.random.state == [7]
    torch.draw()
    import torch as again

    assert again.random.state == [7, "drawn"]


def test_generators_are_left_as_they_were(torch_is_there):
    import torch

    seeding.seed_generators(8)
    torch.draw()
    before = random.getstate(), np.random.get_state()[1].tolist()
    with seeding.seeded(9):
        assert torch.random.state == [9]
        random.random()
        np.random.rand()
    assert torch.random.state == [8, "drawn"]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_a_unit_of_a_plain_model_draws_from_its_own_seed(torch_is_there):
    import torch

    def train_fn(model, data, train=True):
        model.append(torch.random.state)
        return 0, 0

    tool = PythonHandler(
        UserFunctions(lambda path: 0, lambda data, config: [torch.random.state], train_fn),
        Options(),
    )
    task = UnitTask(0, 0, True, 0, "p", {}, 1)
    made = tool.run(task, 0, None).state
    assert pickle.loads(made) == [[task.init_seed], [task.unit_seed]]


def test_real_pytorch_gives_a_unit_the_same_numbers():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    drawn = []
    for _ in range(2):
        seeding.seed_generators(3)
        drawn.append(torch.rand(3).tolist())
        with seeding.seeded(4):
            torch.rand(5)
        drawn[-1] += torch.rand(3).tolist()
    assert drawn[0] == drawn[1]


@pytest.mark.tf
@pytest.mark.processes
def test_tensorflow_in_plain_functions_is_seeded():
    code = """
import sys
from cerebro.backends.base import Options, UnitTask, UserFunctions
from cerebro.backends.python import PythonHandler
import tensorflow as tf
draws = tf.function(lambda: tf.random.uniform([]))
model_fn = lambda data, config: [float(draws()), float(tf.random.uniform([]))]
train_fn = lambda model, data, train=True: (float(draws()), float(tf.random.uniform([])))
tool = PythonHandler(UserFunctions(lambda path: 0, model_fn, train_fn), Options())
runs = [tool.run(UnitTask(0, 0, True, 0, "p", {}, 1), 0, None) for _ in range(2)]
print(len({(run.loss, run.error, run.state) for run in runs}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr
