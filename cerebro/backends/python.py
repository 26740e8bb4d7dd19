"""The plain backend: a model is any Python object that can be pickled.

`model_fn(data, config) -> model` and `train_fn(model, data, train=True) -> (loss, error)` or
`(loss, error, examples)`, which changes the model in place. A version is the model's pickle in
one file, followed by the name of its code and a checksum (`cerebro.backends.plain_model`), of which
`pickle.load` on the open file need not know.
"""

from __future__ import annotations

import copy
import os
import sys
import time
from typing import Any

from cerebro import shipping
from cerebro.backends.base import Handler, UnitRun, UnitTask, user_code
from cerebro.backends.checksum import write_with_checksum
from cerebro.backends.finite import NonFinite, count_non_finite
from cerebro.backends.plain_model import FILE, naming_code, read_whole
from cerebro.backends.returns import is_keras, train_result
from cerebro.errors import BadReturn
from cerebro.seeding import derive, seed_generators


class PythonHandler(Handler):
    """Trains plain Python objects. A state is the model's pickle."""

    def load(self, path: str, seed: int) -> Any:
        _seed(derive(seed, "input", path))
        with user_code("input_fn"):
            return self.functions.input_fn(path)

    def read(self, checkpoint: str) -> bytes:
        return read_whole(checkpoint)

    def write(self, state: bytes, directory: str) -> str:
        write_with_checksum(os.path.join(directory, FILE), state)
        return FILE

    def run(self, task: UnitTask, data: Any, state: bytes | None) -> UnitRun:
        begun = time.perf_counter()
        if state is None:
            _seed(task.init_seed)
            with user_code("model_fn"):
                model = self.functions.model_fn(data, copy.deepcopy(dict(task.config)))
            if is_keras(model, "Model"):
                raise BadReturn(
                    "model_fn returned a keras.Model, whose optimizer, compiled functions and "
                    "random generators a pickle does not hold as they are: use backend='keras'",
                    function="model_fn",
                )
        else:
            model = shipping.loads(state)
        odd = count_non_finite(model) if state is None and task.train else 0.0
        built = time.perf_counter()
        _seed(task.unit_seed)
        train_fn = self.functions.train_fn
        assert train_fn is not None
        with user_code("train_fn"):
            returned = train_fn(model, data, train=task.train)
        ran = time.perf_counter()
        loss, error, examples = train_result(returned)
        found = NonFinite()
        new = self._pickled(model, found) if task.train else None
        finite: bool | None = not found.count
        if found.count:
            odd = odd if state is None else count_non_finite(shipping.loads(state))
            finite = None if found.count <= odd else False
        phase = "build" if state is None else "restore"
        phases = {"build": 0.0, "restore": 0.0, phase: built - begun, "run": ran - built}
        phases["fetch"] = time.perf_counter() - ran
        return UnitRun(loss, error, examples, new, phases, finite=lambda: finite)

    def _pickled(self, model: Any, found: NonFinite) -> bytes:
        try:
            pickled, needs_code = shipping.dumped(model, into=found, met=found.met)
        except Exception as error:
            raise BadReturn(
                f"model_fn returned a {type(model).__name__}, which cannot be saved between units "
                f"({error}): return an object that pickle can take",
                function="model_fn",
            ) from error
        if not needs_code or self.options.code is None:
            return pickled
        return naming_code(pickled, self.options.code)


def _seed(seed: int) -> None:
    """Seed the generators that are there, TensorFlow's too if the user has imported it."""
    seed_generators(seed)
    tensorflow: Any = sys.modules.get("tensorflow")
    if tensorflow is not None:
        tensorflow.random.set_seed(seed)
