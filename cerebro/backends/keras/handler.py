"""The Keras backend.

`model_fn(config) -> compiled keras.Model`, or `model_fn(data, config)`; and no `train_fn`, or
`train_fn(model, data, train=True) -> (loss, error)` or `(loss, error, examples)`.

Where random numbers come from, so that a unit gives the same bits wherever and however often it
runs (see `cerebro.seeding`):

- All generators (Python's, NumPy's, TensorFlow's, and Keras' own global one) are seeded before
  `input_fn` by ("input", path), before `model_fn` by ("init", model), before each unit by ("unit",
  model, epoch, split, partition).
- Layers that draw, such as dropout, have a `keras.random.SeedGenerator`. Its state is part of the
  version, as the optimizer's step counter is, and continues from unit to unit.
- A `tf.data.Dataset` that shuffles or draws is another one at every pass. So `input_fn` makes it
  anew for each unit, with the unit's seed.

A model is built once on a worker, and kept with its compiled functions for as long as it is the
same as one that is built anew (`BuiltModel.can_be_kept`); a version is loaded into it for each
unit.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from cerebro.backends.base import (
    Handler,
    Options,
    UnitRun,
    UnitTask,
    UserFunctions,
    timed,
    user_code,
)
from cerebro.backends.buffers import BufferPool
from cerebro.backends.checkpoint_files import read_file
from cerebro.backends.checksum import write_with_checksum
from cerebro.backends.keras import datasets, fitting, probing, runtime
from cerebro.backends.keras.compiled_metrics import compiled_metrics
from cerebro.backends.keras.constants import NAME, check_constants
from cerebro.backends.keras.held import shared_by
from cerebro.backends.keras.models import BuiltModel, Key, ModelCache, build_model
from cerebro.backends.keras.returns import check_shared, takes_data
from cerebro.backends.keras.scope import restored_generators, seed_all
from cerebro.backends.keras.weights_format import State, parse
from cerebro.backends.probe import Probe, Prover, read_probe, remove_probe, write_probe
from cerebro.backends.returns import train_result
from cerebro.backends.tf.runtime import device_names, is_resource_error
from cerebro.errors import ConfigurationError
from cerebro.formatting import shorten
from cerebro.seeding import derive
from cerebro.validation import plain_integer

FILE = "model.weights.h5"

BATCH_SIZE = 32
"""Keras' own, where the configuration has no "batch_size"."""


HDF5_SECONDS = 120
"""HDF5 takes less than a millisecond for each array, of which a file has a few thousand."""


class KerasHandler(Handler):
    """Trains compiled Keras models; a state is the bytes of a weights file.

    With `max_steps` it is a guest in the user's own process (see `for_check`): a unit has so many
    batches, where it is known how to cut the data; nothing is kept between units; and the random
    generators are put back after each call.
    """

    _deadline: float | None = None
    """An executor ends if HDF5 does not come back; the user's own process does not."""

    def __init__(
        self, functions: UserFunctions, options: Options, max_steps: int | None = None
    ) -> None:
        super().__init__(functions, options)
        self._max_steps = max_steps
        self._kept = ModelCache()
        self._buffers = BufferPool()
        self._prover = Prover()

    @classmethod
    def prepare_process(cls, options: Options) -> None:
        KerasHandler._deadline = HDF5_SECONDS
        runtime.prepare_process(options)

    @classmethod
    def seed_process(cls, seed: int) -> None:
        seed_all(seed)

    @classmethod
    def for_check(cls, functions: UserFunctions, options: Options, steps: int) -> KerasHandler:
        return cls(functions, options, max_steps=steps)

    def load(self, path: str, seed: int) -> Any:
        with self._settings():
            return self._load(path, derive(seed, "input", path))

    def read(self, checkpoint: str) -> State:
        state = parse(read_file(checkpoint), checkpoint, KerasHandler._deadline)
        check_constants(state.arrays.get(NAME), checkpoint)
        state.probe = read_probe(checkpoint)
        return state

    def write(self, state: State, directory: str) -> str:
        write_with_checksum(f"{directory}/{FILE}", state.file)
        if state.probe is not None:
            write_probe(state.probe, directory)
        return FILE

    def recycle(self, state: State) -> None:
        if state.buffer is not None:
            self._buffers.give_back(state.buffer)

    def run(self, task: UnitTask, data: Any, state: State | None) -> UnitRun:
        with self._settings():
            return self._run(task, data, state)

    def is_resource_error(self, error: BaseException) -> bool:
        return is_resource_error(error)

    def forget(self, model: int) -> None:
        self._kept.drop(model)
        # Models and their functions are full of reference cycles.
        gc.collect()

    def close(self) -> None:
        self._kept.clear()

    def devices(self) -> list[str]:
        return device_names(self.options)

    def _settings(self) -> AbstractContextManager[None]:
        return nullcontext() if self._max_steps is None else restored_generators()

    def _load(self, path: str, seed: int) -> Any:
        seed_all(seed)
        with user_code("input_fn"):
            return self.functions.input_fn(path)

    def _run(self, task: UnitTask, data: Any, state: State | None) -> UnitRun:
        phases = {"build": 0.0, "restore": 0.0, "run": 0.0, "fetch": 0.0}
        batch_size = _batch_size(task.config, strict=self.functions.train_fn is None)
        with timed(phases, "build"):
            given, data = data, self._fitted(data)
            key, model = self._model(task, given, data, state, batch_size)
        place = self._prover.place(key[1])
        with model.scope.entered():
            with timed(phases, "restore"):
                if state is not None:
                    model.restore(state, train=task.train)
                    self._prove(task, model, state, place)
                model.reset_states()
                model.scope.seed(task.unit_seed)
            with timed(phases, "run"):
                if self._max_steps is not None:
                    data = datasets.shortened(data, self._max_steps, batch_size)
                elif datasets.is_dataset(data) and datasets.draws(data):
                    data = self._fitted(self._load(task.path, task.unit_seed))
                    model.scope.seed(task.unit_seed)
                fitted = self._train(task, model, data, batch_size)
            with timed(phases, "fetch"):
                new = model.fetch(self._buffers) if task.train else None
                if new is not None:
                    new.probe = self._probe(task, model, data, state, place)
                if self._max_steps is None and model.can_be_kept(fetched=task.train):
                    self._kept.put(key, model)
        run = UnitRun(
            fitted.loss, fitted.error, fitted.examples, new, phases, fitted.metrics, fitted.states
        )
        return run if new is None else replace(run, finite=new.weights_are_finite)

    def _fitted(self, data: Any) -> Any:
        """The data as `fit` gets them; a `train_fn` of the user's has what `input_fn` gave."""
        return datasets.as_arrays(data) if self.functions.train_fn is None else data

    def _model(
        self, task: UnitTask, given: Any, data: Any, state: State | None, batch_size: int
    ) -> tuple[Key, BuiltModel]:
        """A model to restore `state` into; one with its initial weights if there is none.

        `given` is what `input_fn` returned, which `model_fn` may look at.
        """
        model_fn = self.functions.model_fn
        key = (task.model, task.path if takes_data(model_fn) else "")
        strict = self.functions.train_fn is None
        if strict:
            datasets.check_data(data)
        kept = self._kept.take(key)
        if kept is not None and state is not None and kept.serves(given, state):
            return key, kept
        batch = datasets.first_batch(data, batch_size)
        if not strict:
            check_shared(shared_by(self.functions.train_fn))
        made = build_model(model_fn, task, given, batch, strict=strict, initial=state is None)
        if strict:
            with made.scope.entered():
                names = made.keras_model.get_metrics_result()
                made.metrics = compiled_metrics(made.keras_model)
            fitting.check_metrics(names, made.metrics, self.functions)
        return key, made

    def _prove(self, task: UnitTask, model: BuiltModel, state: State, place: str) -> None:
        """Make sure that a model which was built here computes what it did where it was saved.

        It has been restored, and its constants are the same.
        """
        probe = state.probe
        if probe is None or self._max_steps or _is_another(task, model, state):
            return
        if self._prover.is_due(task, probe, place):
            probing.prove(probe, model, task, self.options)
            self._prover.is_proven(probe, place)
            # Whatever its layers have changed while they were called.
            model.restore(state, train=task.train)

    def _probe(
        self, task: UnitTask, model: BuiltModel, data: Any, state: State | None, place: str
    ) -> Probe | None:
        """What the model computes, for the next place; None once that need not be known."""
        if self._max_steps is not None:
            return None
        if state is not None and _is_another(task, model, state):
            state = None
        before = None if state is None else state.probe
        places = self._prover.places(task, state, before, place)
        if places is not None:
            return probing.record(model, data, task, places, self.options, before)
        if before is not None:
            remove_probe(before)
        return None

    def _train(
        self, task: UnitTask, model: BuiltModel, data: Any, batch_size: int
    ) -> fitting.Fitted:
        train_fn = self.functions.train_fn
        if train_fn is None:
            return fitting.fit(
                model.keras_model,
                data,
                train=task.train,
                batch_size=batch_size,
                metrics=model.metrics,
                functions=self.functions,
            )
        with user_code("train_fn"):
            returned = train_fn(model.keras_model, data, train=task.train)
        return fitting.Fitted(*train_result(returned))


def _is_another(task: UnitTask, model: BuiltModel, state: State) -> bool:
    """Whether a state is of a model that may be another function by right."""
    return task.warm_start or not model.is_of(state)


def _batch_size(config: Mapping[str, Any], *, strict: bool) -> int:
    """The configuration's, of which a `train_fn` of the user's may think as it likes."""
    given = config.get("batch_size", BATCH_SIZE)
    size = plain_integer(given)
    if size is not None and size > 0:
        return size
    if strict:
        raise ConfigurationError(
            f"batch_size={shorten(given)} in the configuration: the number of examples in a batch "
            "is an integer above 0; leave it out for 32"
        )
    return BATCH_SIZE
