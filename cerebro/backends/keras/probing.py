"""What a Keras model computes for a few inputs, in inference mode: see `cerebro.backends.probe`.

The inputs are the first examples that the unit was given. Where looking at them would read on in an
input that cannot be read twice, they are made up by their shapes and types. A model that has no
`call` of its own, as some with a `train_step` have not, is probed model by model of those in it.
Later versions of a model are probed with the inputs of the first.

Functions that are compiled within a model run without being compiled, so that none is traced here
with other seeds than the training's.

The calls leave traces in a model's variables: it is to be restored before it is used. What is
compared here has the same constants already (see `constants`), which are compared for every version
and say what differs in the user's words. A probe is for what they cannot see.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cerebro.backends.base import Options, UnitTask
from cerebro.backends.keras.datasets import head, is_arrays, is_dataset
from cerebro.backends.keras.models import BuiltModel
from cerebro.backends.keras.private import all_layers, compiled_functions, watched_calls
from cerebro.backends.keras.runtime import keras, tf
from cerebro.backends.probe import (
    OUTPUT_VALUES,
    ROWS,
    STEP_VALUES,
    STEPS,
    Probe,
    Sample,
    Step,
    compare,
    mapped,
    raises_here,
    rows_within,
    sample,
    tolerance,
)
from cerebro.backends.tf.analysis import draws_random_numbers
from cerebro.backends.tf.runtime import is_resource_error, visible_gpus
from cerebro.formatting import message_of

logger = logging.getLogger(__name__)

UNKNOWN = 32
"""The size of a made-up input along an axis of unknown length."""

CALLS = 4
"""How many calls of one layer are looked at: a cell of a recurrent layer has one for each step."""

RECURRENT_ROWS = 4
"""Examples in a probe at most for a model with recurrent layers, whose steps take their time."""

WHOLE = -1
"""The place, among a model's layers, of the model itself."""

Inputs = dict[int, Any]
"""A structure of arrays for each call, by the place among the model's layers of what is called."""


def record(
    model: BuiltModel,
    data: Any,
    task: UnitTask,
    places: list[str],
    options: Options,
    before: Probe | None = None,
) -> Probe | None:
    """What a model computes as it is now; None, and a line in the log, if that cannot be had.

    `before` is the probe of the version that it continues.
    """
    why = "its inputs are not known"
    for inputs in _attempts(model.keras_model, data, before):
        seed = _seed_for(model)
        try:
            outputs, steps = _computed(model, inputs, seed)
        except Exception as error:
            # Whatever a model raises for inputs that it was not made for.
            why = message_of(error)
            continue
        allowed = _tolerance(model, options)
        return Probe(seed, places, allowed, inputs, outputs, steps)
    logger.debug("model %d cannot be probed: %s", task.model, why)
    return None


def prove(probe: Probe, model: BuiltModel, task: UnitTask, options: Options) -> None:
    """Raise `ModelDiffers` if a model computes something else than is in a probe."""
    try:
        outputs, steps = _computed(model, probe.inputs, probe.seed)
    except Exception as error:
        if isinstance(error, MemoryError) or is_resource_error(error):
            raise
        raise raises_here(task, error) from error
    compare(probe, outputs, steps, _tolerance(model, options), task)


def _tolerance(model: BuiltModel, options: Options) -> float:
    types = {layer.compute_dtype for layer in all_layers(model.keras_model)}
    floating = {name for name in types if name and "float" in name}
    return tolerance(floating, accelerated=bool(visible_gpus(options)))


@dataclass(frozen=True)
class Graph:
    """A model compiled for its probe: its seed and the forms of its inputs, and its steps' names.

    `run` takes inputs, and returns the outputs, and what is seen of each step.
    """

    key: tuple[int, Any]
    run: Any
    names: list[str]


def _computed(model: BuiltModel, inputs: Inputs, seed: int) -> tuple[list[Sample], list[Step]]:
    """(samples of the outputs, what each layer gives and is given) for inputs.

    Models run op by op. Recurrent layers would take a while for each of their steps, so models
    with one are compiled for this call.
    """
    model.reset_states()
    with _apart(), model.scope.aside(seed):
        tensors = mapped(tf.convert_to_tensor, inputs)
        if not _is_recurrent(model.keras_model):
            outputs, seen = _watched(model.keras_model, tensors)
            return outputs, [Step(*step) for step in seen]
        graph = _graph(model, tensors, seed)
        found, values = graph.run(tensors)
        samples = [sample(tensor.numpy(), OUTPUT_VALUES) for tensor in found]
        each = [[sample(t.numpy(), STEP_VALUES) for t in seen] for seen in values]
        return samples, [Step(n, v) for n, v in zip(graph.names, each, strict=True)]


def _watched(model: Any, inputs: Inputs) -> tuple[list[Any], list[tuple[str, list[Any]]]]:
    """(outputs, what is given to each layer and what it gives, in turn), as `_seen` has them."""
    steps: list[tuple[str, list[Any]]] = []
    calls: Counter[tuple[int, bool]] = Counter()

    def watch(layer: Any, given: bool, value: Any) -> None:
        calls[id(layer), given] += 1
        if calls[id(layer), given] <= CALLS and len(steps) < STEPS:
            name = f"layer {layer.path or layer.name!r} ({type(layer).__name__})"
            name = f"what is given to {name}" if given else name
            steps.append((name, _seen(value, STEP_VALUES)))

    found = []
    with watched_calls(watch):
        for place, x in inputs.items():
            called = model if place == WHOLE else model.layers[place]
            found += _seen(called(x, training=False), OUTPUT_VALUES)
    return found, steps


def _graph(model: BuiltModel, inputs: Inputs, seed: int) -> Graph:
    """The model compiled for inputs: kept with it, where it is trained by what was compiled once.

    Else what Python code in it does may be another thing by now. With random ops of TensorFlow's
    own a graph gives something else when it runs again.
    """
    key = (seed, mapped(lambda tensor: (tuple(tensor.shape), tensor.dtype), inputs))
    graph: Graph | None = model.probe_graph
    if graph is not None and graph.key == key and compiled_functions(model.keras_model):
        return graph
    names: list[str] = []

    def compute(inputs: Inputs) -> tuple[list[Any], list[list[Any]]]:
        found, steps = _watched(model.keras_model, inputs)
        here = tf.compat.v1.get_default_graph()
        # What cells compute within a loop is not to be had from outside of it.
        own = [(name, [t for t in seen if t.graph is here]) for name, seen in steps]
        names[:] = [name for name, _ in own]
        return found, [seen for _, seen in own]

    run = tf.function(compute, autograph=False).get_concrete_function(inputs)
    graph = Graph(key, run, names)
    model.probe_graph = None if draws_random_numbers(run.graph, set()) else graph
    return graph


def _seed_for(model: BuiltModel) -> int:
    """That of the graph that is kept, which has drawn what it holds; else one never used before.

    A random op that runs a second time with a seed continues where it stopped.
    """
    graph: Graph | None = model.probe_graph
    return graph.key[0] if graph is not None else int.from_bytes(os.urandom(4), "big") >> 1


def _is_recurrent(model: Any) -> bool:
    return any(isinstance(layer, keras.layers.RNN) for layer in all_layers(model))


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Nothing is compiled, printed or warned about inside the block."""
    eagerly = tf.config.functions_run_eagerly()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        with contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            tf.config.run_functions_eagerly(True)
            try:
                yield
            finally:
                tf.config.run_functions_eagerly(eagerly)


def _seen(value: Any, count: int) -> list[Any]:
    """Samples of the tensors in a structure; tensors that have no values yet as they are."""
    tensors = [leaf for leaf in keras.tree.flatten(value) if isinstance(leaf, tf.Tensor)]
    return [sample(t.numpy(), count) if hasattr(t, "numpy") else t for t in tensors]


# --- inputs --------------------------------------------------------------------------------------


def _attempts(model: Any, data: Any, before: Probe | None) -> Iterator[Inputs]:
    """Inputs to try in turn: what a version before was probed with is known to be taken."""
    if before is not None:
        yield before.inputs
    yield from _candidates(model, data)


def _candidates(model: Any, data: Any) -> Iterator[Inputs]:
    """Inputs to try in turn, the best first."""
    most = RECURRENT_ROWS if _is_recurrent(model) else ROWS

    def made(spec: Any) -> np.ndarray:
        return _made_up(spec, most)

    if is_arrays(data) or is_dataset(data):
        real = _real_inputs(model, data, most)
        if real is not None:
            yield {WHOLE: real}
    if is_dataset(data):
        spec = keras.utils.unpack_x_y_sample_weight(data.element_spec)[0]
        with contextlib.suppress(_CannotMake):
            yield {WHOLE: mapped(made, spec)}
    inputs = _symbolic_inputs(model)
    if inputs:
        with contextlib.suppress(_CannotMake):
            yield {WHOLE: _one_or_all(mapped(made, inputs))}
    parts = [
        (place, _symbolic_inputs(layer))
        for place, layer in enumerate(model.layers)
        if isinstance(layer, keras.Model)
    ]
    with contextlib.suppress(_CannotMake):
        found = {place: _one_or_all(mapped(made, x)) for place, x in parts if x}
        if found:
            yield found


def _symbolic_inputs(model: Any) -> list[Any]:
    try:
        return list(model.inputs or ())
    except AttributeError:  # a model that is a class of its own has none
        return []


def _one_or_all(inputs: list[Any]) -> Any:
    return inputs[0] if len(inputs) == 1 else inputs


def _batch_size(model: Any) -> int | None:
    """How many examples a model takes at a time, if not any number."""
    return next((x.shape[0] for x in _symbolic_inputs(model) if x.shape and x.shape[0]), None)


def _real_inputs(model: Any, data: Any, most: int) -> Any:
    """The first examples of the data, as many as may be and the model takes; None without."""
    size = _batch_size(model)

    def rows(example_bytes: int) -> int:
        count = rows_within(example_bytes, most)
        return (size or count) if count else 0

    found = head(data, rows)
    if found is None or (size and any(len(array) != size for array in keras.tree.flatten(found))):
        return None
    return found


class _CannotMake(Exception):
    """Inputs of such a shape or type cannot be made up."""


def _made_up(spec: Any, most: int) -> np.ndarray:
    """An array of `most` examples for a `tf.TensorSpec`, or a symbolic tensor of Keras'."""
    shape = getattr(spec, "shape", None)
    if shape is None or (shape.__class__ is tf.TensorShape and shape.rank is None):
        raise _CannotMake
    if isinstance(spec, (tf.RaggedTensorSpec, tf.SparseTensorSpec)) or getattr(
        spec, "sparse", False
    ):
        raise _CannotMake
    axes = [size or UNKNOWN for size in shape[1:]]
    dtype = tf.as_dtype(spec.dtype)
    rows = rows_within(int(np.prod(axes, dtype=np.int64)) * max(1, dtype.size), most)
    if not len(shape) or not rows:
        raise _CannotMake
    full = ((shape[0] or rows), *axes)
    generator = np.random.default_rng(0)
    if dtype == tf.string:
        texts = generator.integers(0, 10, full).astype(str)
        return texts.astype(object)
    if dtype == tf.bool or dtype.is_integer:
        return generator.integers(0, 2, full).astype(dtype.as_numpy_dtype)
    return generator.normal(size=full).astype(dtype.as_numpy_dtype)
