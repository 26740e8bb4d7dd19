"""The proof that a model computes the same on another worker: what travels, and what is compared.

A model is more than its variables: what `model_fn` computed from the data or from its surroundings
while it built the model is in it too, and need not be the same at the next build. So the worker
that saves a model notes what it computes for a few inputs, in a file beside the version; the one
that restores it computes the same, and compares. That file is the probe.

A *place* is where a model is built: an executor, and the partition if `model_fn` was given the
data. A probe names the places that are known to compute the same. Each new place adds itself, in
the next version; when a model comes back to one of them the probe has served, and is removed.

Both backends use this; how a model is made to compute is their own affair.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import struct
import uuid
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cerebro.backends.base import UnitTask
from cerebro.backends.checkpoint_files import read_file
from cerebro.backends.checksum import CHECKSUM, damaged, is_whole, write_with_checksum
from cerebro.errors import ModelDiffers, VersionDamaged, VersionRefused
from cerebro.formatting import message_of

logger = logging.getLogger(__name__)

FILE = "probe.bin"

ROWS = 32
"""Examples in a probe at most."""

INPUT_BYTES = 2**20
"""What the inputs of a probe take at most, unless one example alone takes more."""

EXAMPLE_BYTES = 2**24
"""A model whose examples are larger is not probed."""

OUTPUT_VALUES = 2**14
"""Values that are compared of each output of a model."""

STEP_VALUES = 64
"""Values that are compared of what each layer, or op, gives."""

STEPS = 512
"""Layers, or ops, of which a probe knows what they give."""

TOLERANCES = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}
"""How much an output may differ, relative to the largest value of that output."""

OTHER_TOLERANCE = 1e-1
"""The same for types with fewer bits."""

ACCELERATED_TOLERANCE = 1e-2
"""The least tolerance where a GPU takes part: some multiply with the bits of TF32."""

LEAST = 1e-6
"""Outputs are compared as if the largest were no smaller."""

FILE_BYTES = 2**28
"""A probe's file at most. The largest that are made have some tens of megabytes."""

DIMENSIONS = 64

_HEAD = struct.Struct(">Q")

_MALFORMED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
    struct.error,
)
"""What reading a head raises that somebody else has written: JSON, or arrays, may be anything."""

_REMEDY = (
    "What it computes must follow from its variables and its configuration alone. Look for a value "
    "that model_fn takes from the data, from a global variable, or from its surroundings (time, "
    "host, an unseeded generator), and for state that is in no variable. Compute it in input_fn, "
    "put it into the configuration, or keep it in a variable that is not trained"
)


@dataclass(frozen=True)
class Sample:
    """Some values of a tensor; `exact` ones are integers, texts or truth values."""

    shape: tuple[int, ...]
    exact: bool
    values: np.ndarray

    def deviation(self, other: Sample) -> float:
        """The largest difference, relative to the largest value; infinite if it has no number.

        Of exact values those of one example may differ: which of two nearly equal numbers is the
        larger is not the same on all hosts.
        """
        if self.shape != other.shape or self.exact != other.exact:
            return np.inf
        ours, theirs = self.values, other.values
        if self.exact:
            differ = np.count_nonzero(ours != theirs)
            allowed = len(ours) // self.shape[0] if len(self.shape) and self.shape[0] > 1 else 0
            return np.inf if differ > allowed else 0.0
        finite = np.isfinite(ours)
        if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True):
            return np.inf
        ours, theirs = ours[finite], theirs[finite]
        if not np.isfinite(theirs).all():
            return np.inf
        if not len(ours):
            return 0.0
        largest = max(np.abs(ours).max(), np.abs(theirs).max(), LEAST)
        return float(np.abs(ours - theirs).max() / largest)


def sample(value: Any, count: int) -> Sample:
    """Up to `count` values of an array, evenly spread over it."""
    array = np.asarray(value)
    flat = array.reshape(-1)
    flat = flat[:: max(1, -(-flat.size // count))]
    if flat.dtype.kind in "OSU":
        flat = np.array([zlib.crc32(_bytes(item)) for item in flat], np.int64)
    elif flat.dtype.kind == "c":
        flat = np.concatenate([flat.real, flat.imag])
    exact = flat.dtype.kind in "biu"
    return Sample(array.shape, exact, flat.astype(np.int64 if exact else np.float64))


@dataclass(frozen=True)
class Step:
    """What a layer, or an op, gives (or is given) on the way; `name` is for people."""

    name: str
    samples: list[Sample]


@dataclass
class Probe:
    """What a model computes for a few inputs, at the places that are known to compute the same.

    `inputs` is a structure of arrays, `outputs` what was computed, `steps` what was computed on
    the way, in its order. `seed` is set before. The last of `places` is where this was computed.
    """

    seed: int
    places: list[str]
    tolerance: float
    inputs: Any
    outputs: list[Sample]
    steps: list[Step]
    path: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


def tolerance(types: Iterable[str], *, accelerated: bool) -> float:
    """How much outputs may differ that are computed with these floating-point types."""
    found = max((TOLERANCES.get(name, OTHER_TOLERANCE) for name in types), default=0.0)
    return max(found, TOLERANCES["float32"], ACCELERATED_TOLERANCE if accelerated else 0.0)


def rows_within(example_bytes: int, most: int = ROWS) -> int:
    """How many examples of this size a probe may have, of `most` at most; 0 if none."""
    if example_bytes > EXAMPLE_BYTES:
        return 0
    return int(np.clip(INPUT_BYTES // max(1, example_bytes), 1, most))


class Prover:
    """Which versions carry a probe, and which are to be proven here: one for each executor."""

    def __init__(self) -> None:
        self._executor = uuid.uuid4().hex[:12]
        self._proven: set[tuple[str, str]] = set()

    def place(self, partition: str = "") -> str:
        """Name the place of a model that was built here, on the data of `partition` if any."""
        if not partition:
            return self._executor
        return f"{self._executor}/{zlib.crc32(partition.encode()):08x}"

    def is_due(self, task: UnitTask, probe: Probe | None, place: str) -> bool:
        """Whether a model comes here for the first time, with a probe of another place."""
        return (
            probe is not None
            and not task.warm_start
            and place not in probe.places
            and (probe.id, place) not in self._proven
        )

    def is_proven(self, probe: Probe, place: str) -> None:
        """Note that this place computes what is in the probe."""
        self._proven.add((probe.id, place))

    def places(
        self, task: UnitTask, state: Any, probe: Probe | None, place: str
    ) -> list[str] | None:
        """The places for the probe of the version that this unit makes; None if it needs none."""
        if not task.train:
            return None
        if state is None or task.warm_start:
            return [place]
        if probe is None:
            return None
        if place == probe.places[-1]:
            return probe.places
        return None if place in probe.places else [*probe.places, place]


def compare(
    probe: Probe, outputs: Sequence[Sample], steps: Sequence[Step], allowed: float, task: UnitTask
) -> None:
    """Raise `ModelDiffers` if the outputs differ by more than is allowed, naming where it starts.

    `allowed` is this place's tolerance; the probe has one of its own, and the larger one counts.
    """
    allowed = max(allowed, probe.tolerance)
    worst = _deviation(probe.outputs, outputs)
    if worst <= allowed:
        logger.debug("model %d computes the same here: deviation %.1e", task.model, worst)
        return
    where = _first_of(differ(probe.steps, steps, allowed))
    raise _another(
        task,
        f"for the same inputs and weights its outputs differ by {_said(worst)} "
        f"(allowed: {allowed:g}){where}",
    )


def raises_here(task: UnitTask, error: Exception) -> ModelDiffers:
    """Return the error for a model that raised `error` for the inputs of its probe."""
    return _another(
        task, f"for inputs that it took there it raises {type(error).__name__}: {message_of(error)}"
    )


def _another(task: UnitTask, how: str) -> ModelDiffers:
    return ModelDiffers(
        f"model {task.model} is another function here, built for {task.path}, than on the worker "
        f"that saved it: {how}. {_REMEDY}",
        function="model_fn",
    )


def _said(deviation: float) -> str:
    if deviation == np.inf:
        return "more than numbers can (their shapes, or which of them are finite)"
    return f"{deviation:.2g} of the largest"


def _deviation(ours: Sequence[Sample], theirs: Sequence[Sample]) -> float:
    if len(ours) != len(theirs):
        return np.inf
    return max((a.deviation(b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def differ(ours: Sequence[Step], theirs: Sequence[Step], allowed: float) -> list[str]:
    """Name the steps, in their order, that differ by more than is allowed."""
    differing: list[str] = []
    for before, now in zip(ours, theirs, strict=False):
        if before.name != now.name:
            return [*differing, f"{now.name}, where there was {before.name},"]
        if _deviation(before.samples, now.samples) > allowed:
            differing.append(now.name)
    return differing


def _first_of(differing: list[str]) -> str:
    """Where two computations part, for an error."""
    if not differing:
        return ""
    more = f", and {len(differing) - 1} after it" if len(differing) > 1 else ""
    return f", from {differing[0]} on{more}"


# --- the file ------------------------------------------------------------------------------------


def write_probe(probe: Probe, directory: str) -> None:
    """Write a probe into the folder of a version that is about to be published.

    One that no reader would take is left out.
    """
    values = _Values()
    content = {
        "id": probe.id,
        "seed": probe.seed,
        "places": probe.places,
        "tolerance": probe.tolerance,
        "inputs": values.packed(probe.inputs),
        "outputs": values.packed_samples(probe.outputs),
        "steps": [[step.name, values.packed_samples(step.samples)] for step in probe.steps],
    }
    head = json.dumps(content).encode()
    body = b"".join([_HEAD.pack(len(head)), head, *values.pieces])
    if len(body) > FILE_BYTES - CHECKSUM.size:
        logger.debug("the probe for %s is left out: it has %d bytes", directory, len(body))
        return
    write_with_checksum(os.path.join(directory, FILE), body)


def read_probe(checkpoint: str) -> Probe | None:
    """The probe beside a checkpoint; None if there is none.

    Raises `VersionDamaged` for a wrong checksum, `VersionRefused` for what is no probe, and
    `StorageError` where storage refuses.
    """
    path = os.path.join(os.path.dirname(checkpoint), FILE)
    try:
        os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError:
        pass  # reading it says why
    try:
        content = read_file(path, FILE_BYTES)
    except VersionRefused:
        raise
    except VersionDamaged:
        return None  # removed meanwhile, by a worker that had no more use for it
    if not is_whole(content):
        raise damaged(path, content)
    try:
        return _parsed(content, path)
    except _MALFORMED as error:
        raise VersionRefused(
            f"{path} is not what a version's probe holds, though its checksum is right: {error}"
        ) from error


def _parsed(content: bytes, path: str) -> Probe:
    (length,) = _HEAD.unpack_from(content)
    end = _HEAD.size + length
    if end > len(content) - CHECKSUM.size:
        raise ValueError("its head is longer than the file")
    head = json.loads(content[_HEAD.size : end])
    values = memoryview(content)[end : -CHECKSUM.size]
    allowed, places = head["tolerance"], head["places"]
    if not isinstance(allowed, (int, float)) or not 0 <= allowed <= OTHER_TOLERANCE:
        raise ValueError("its tolerance is none")
    if not (isinstance(places, list) and places and all(isinstance(p, str) for p in places)):
        raise ValueError("its places are no list of names")
    if not 0 <= _integer(head["seed"]) < 2**32:
        raise ValueError("its seed is out of range")
    return Probe(
        seed=head["seed"],
        places=places,
        tolerance=allowed,
        inputs=_unpacked(head["inputs"], values),
        outputs=_unpacked_samples(head["outputs"], values),
        steps=[Step(str(name), _unpacked_samples(found, values)) for name, found in head["steps"]],
        path=path,
        id=str(head["id"]),
    )


def remove_probe(probe: Probe) -> None:
    """Remove a probe that has served, and that nothing depends on."""
    with contextlib.suppress(OSError):
        os.unlink(probe.path)


class _Values:
    """The bytes of arrays, one behind the other, and structures of arrays as JSON."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._end = 0

    def packed(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {"dict": [[key, self.packed(item)] for key, item in value.items()]}
        if isinstance(value, (list, tuple)):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [self.packed(item) for item in value]}
        if value is None:
            return {"none": True}
        if value.dtype.kind in "OSU":
            texts = [_bytes(item) for item in value.reshape(-1)]
            at = self._add(b"".join(texts))
            return {"shape": value.shape, "lengths": [len(text) for text in texts], "at": at}
        return {"shape": value.shape, "type": value.dtype.name, "at": self._add(value.tobytes())}

    def packed_samples(self, samples: Iterable[Sample]) -> Any:
        return [[s.shape, s.exact, self.packed(s.values)] for s in samples]

    def _add(self, piece: bytes) -> int:
        self.pieces.append(piece)
        self._end += len(piece)
        return self._end - len(piece)


def _unpacked(content: Any, values: memoryview) -> Any:
    if "dict" in content:
        return {key: _unpacked(item, values) for key, item in content["dict"]}
    if "list" in content:
        return [_unpacked(item, values) for item in content["list"]]
    if "tuple" in content:
        return tuple(_unpacked(item, values) for item in content["tuple"])
    if "none" in content:
        return None
    shape, at = _shape(content["shape"]), _integer(content["at"])
    if "lengths" in content:
        texts = np.empty(len(content["lengths"]), object)
        for number, length in enumerate(content["lengths"]):
            texts[number] = bytes(_within(values, at, _integer(length)))
            at += length
        return texts.reshape(shape)
    dtype = _dtype(content["type"])
    size = math.prod(shape) * dtype.itemsize
    return np.frombuffer(_within(values, at, size), dtype).reshape(shape)


def _unpacked_samples(content: Any, values: memoryview) -> list[Sample]:
    samples = []
    for shape, exact, packed in content:
        found = _unpacked(packed, values)
        if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind not in "if":
            raise ValueError("a sample is no row of numbers")
        samples.append(Sample(_shape(shape), bool(exact), found))
    return samples


def _integer(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("a size, or a place, is no integer from 0 on")
    return value


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > DIMENSIONS:
        raise ValueError("a shape is no list of sizes")
    return tuple(map(_integer, value))


def _within(values: memoryview, at: int, size: int) -> memoryview:
    if at + size > len(values):
        raise ValueError("values are to lie beyond the end of the file")
    return values[at : at + size]


def _dtype(name: str) -> np.dtype:
    found: np.dtype
    try:
        found = np.dtype(name)
    except TypeError:
        import ml_dtypes  # of TensorFlow's: bfloat16 and smaller ones

        found = np.dtype(getattr(ml_dtypes, name))
        if found.name == name:
            return found
    if found.name != name or found.kind not in "biufc":
        raise ValueError("a type is none of numbers")
    return found


def _bytes(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode()


def mapped(function: Any, value: Any) -> Any:
    """A structure of dictionaries, lists and tuples with each leaf replaced.

    Raises `TypeError` for keys that JSON does not keep.
    """
    if isinstance(value, dict):
        if not all(isinstance(key, (str, int)) for key in value):
            raise TypeError("keys that are neither text nor integers")
        return {key: mapped(function, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        kind = list if isinstance(value, list) else tuple
        return kind(mapped(function, item) for item in value)
    return None if value is None else function(value)
