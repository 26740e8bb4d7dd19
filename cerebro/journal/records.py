"""The journal's records: one class for each kind, and how each stands on disk.

Only this module knows the names that fields have there. A line's content becomes a record when the
journal is read (`parse`), and a record becomes content when it is written (`to_json`); in between,
fields are attributes. Fields that are not known are kept in `extra`, and kinds that are not known
in an `UnknownRecord`: a later version may write some.

docs/journal.md says what each field means.
"""

from __future__ import annotations

import operator
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, TypedDict

from cerebro.formatting import shorten
from cerebro.hopper.units import ModelState, Split
from cerebro.journal.run_plan import RunPlan
from cerebro.journal.worker_states import WorkerState
from cerebro.protocol.types import fits

FORMAT = 2
"""Raised when what was written could be misunderstood by those who know the format before."""


class Header(TypedDict):
    """What every record that a driver makes has: the driver's seconds, and its generation."""

    t: float
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What all records have.

    `t` is in seconds since the run began, by the driver's clock; `generation` is the driver's.
    `seq` counts from 1 over the whole journal, and is 0 before the record is written. `extra` are
    fields, by their name on disk, that this version does not know.
    """

    KIND: ClassVar[str] = ""
    LEFT_OUT: ClassVar[tuple[str, ...]] = ()
    """Fields that are not written where they are None."""

    BEHIND: ClassVar[tuple[str, ...]] = ("seq",)
    """Fields that are written last."""

    t: float
    generation: int
    seq: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The name of its kind on disk."""
        return self.KIND

    def to_json(self) -> dict[str, Any]:
        """Return the content of its line, as JSON has it."""
        content: dict[str, Any] = {}
        for name, left_out, write in _SHAPES[self.KIND].layout:
            value = getattr(self, name)
            if value is not None or not left_out:
                content[name] = value if write is None or value is None else write(value)
        for name, value in self.extra.items():
            # Of a field that holds fields, those that are not known.
            content[name] = {**content[name], **value} if name in content else value
        return content

    def __reduce__(self) -> tuple[Any, ...]:
        # As on disk: a pickle must not depend on the order of a class's fields.
        return parse, (self.to_json(), self.generation)


class Predecessor(NamedTuple):
    """Where the generation before ends: its last record's `seq`, its bytes, and their SHA-256."""

    generation: int
    length: int
    sha256: str
    seq: int


class NewModelEntry(NamedTuple):
    """A model that a decision adds.

    It begins in `epoch` with `checkpoint`, which is relative on disk where it is a version of this
    run, and has the epochs of `parent` before that; None where it is not warm-started. `place` is
    its place in the list of configurations, where that was extended by it after the run had
    started; None where the procedure has added the model.
    """

    model: int
    mst: dict[str, Any]
    epoch: int
    parent: int | None
    checkpoint: str | None
    place: int | None = None
    extra: Mapping[str, Any] = types.MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRecord(Record):
    """The first record of each file: a driver takes the run up, or goes on in another file.

    `time` is the Unix time at `t`, `run` the id by which workers know the run. `folder` is the
    absolute path at which the driver has the run's folder; earlier versions did not write it, and
    where it is missing it is taken from the checkpoints that they committed.
    """

    KIND = "generation"
    LEFT_OUT = ("folder",)
    BEHIND = ("kind", "seq", "format", "predecessor")

    run: str
    time: float
    driver: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    git_commit: str | None = None
    folder: str | None = None
    format: int = FORMAT
    predecessor: Predecessor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord(Record):
    """What a driver is to do. The first has `base`, the Unix time at `t` = 0.

    `totals` are the train and valid units of each model in the whole run, where its end is known.

    `recorded` is the plan as it was read: fields that this version adds, or does not know, make it
    another text than that of `plan`.
    """

    KIND = "plan"
    LEFT_OUT = ("base", "totals")
    BEHIND = ("generation", "seq")

    plan: RunPlan
    base: float | None = None
    totals: dict[int, tuple[int, int]] | None = None
    recorded: Mapping[str, Any] | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        content = Record.to_json(self)
        return content if self.recorded is None else {**content, "plan": dict(self.recorded)}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStateRecord(Record):
    """A worker comes, goes, or changes."""

    KIND = "worker"
    LEFT_OUT = ("reason", "facts", "devices")

    worker: int
    url: str
    state: WorkerState
    reason: str | None = None
    facts: dict[str, Any] | None = None
    devices: list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedRecord(Record):
    """An attempt to run a unit is about to be ordered; it starts from the version `reads`."""

    KIND = "started"

    attempt: int
    worker: int
    model: int
    epoch: int
    split: Split
    partition: int
    reads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedRecord(Record):
    """An attempt counts. `phases` are the worker's seconds; at `ran` the worker was free again.

    `checkpoint` is the version that a training unit made, on disk relative to the run's folder, in
    memory absolute (`cerebro.journal.checkpoint_paths`). `finite` says whether its weights are;
    None stands for "as those of the version before", and where nobody has looked. `states` is
    what a validation unit has told of its metrics (`cerebro.metrics.states`).
    """

    KIND = "committed"
    LEFT_OUT = ("states", "ran", "checkpoint", "finite")

    attempt: int
    loss: float
    error: float
    examples: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    states: dict[str, dict[str, Any]] | None = None
    phases: dict[str, float]
    output: str = ""
    ran: float | None = None
    checkpoint: str | None = None
    finite: bool | None = None

    def __post_init__(self) -> None:
        if "run" not in self.phases:
            raise ValueError(f"its phases have no 'run': {shorten(self.phases)}")

    @property
    def run_seconds(self) -> float:
        """Seconds inside `train_fn`."""
        return self.phases["run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRecord(Record):
    """An attempt does not count."""

    KIND = "failed"

    attempt: int
    failure: str
    message: str
    traceback: str = ""
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFailedRecord(Record):
    """A model ends as `FAILED`; `attempt` is -1 where none did it."""

    KIND = "model_failed"

    model: int
    attempt: int
    failure: str
    error: str = ""
    message: str
    function: str = ""
    traceback: str = ""
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidRecord(Record):
    """A version cannot be read, and no longer counts."""

    KIND = "void"

    model: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRecord(Record):
    """A version is about to be deleted."""

    KIND = "dropped"

    model: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord(Record):
    """What the procedure said of models that have ended an epoch."""

    KIND = "decision"

    asked: tuple[int, ...]
    stop: dict[int, ModelState]
    add: tuple[NewModelEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptedRecord(Record):
    """A driver stops before the end."""

    KIND = "interrupted"
    BEHIND = ("generation", "seq")

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReopenedRecord(Record):
    """Models that had ended go on, and why."""

    KIND = "reopened"
    BEHIND = ("t", "generation", "seq")

    models: tuple[int, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRecord(Record):
    """No model is running: the run has ended."""

    KIND = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownRecord(Record):
    """A record of a later version: of a kind, or a worker in a state, that is not known here."""

    content: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.content["kind"])

    def to_json(self) -> dict[str, Any]:
        return {**self.content, "seq": self.seq}


KINDS: dict[str, type[Record]] = {
    kind.KIND: kind
    for kind in (
        GenerationRecord,
        PlanRecord,
        WorkerStateRecord,
        StartedRecord,
        CommittedRecord,
        FailedRecord,
        ModelFailedRecord,
        VoidRecord,
        DroppedRecord,
        DecisionRecord,
        InterruptedRecord,
        ReopenedRecord,
        EndRecord,
    )
}
"""The kinds of records that this version knows, by their name on disk."""


def parse(content: Mapping[str, Any], generation: int) -> Record:
    """Make a record of a line's content, in the file of a generation.

    Raises `ValueError` where a field that its kind needs is missing or has another type.
    """
    kind = content.get("kind")
    if type(kind) is not str:
        raise ValueError(f"its kind is {shorten(kind)}: it must be a string")
    shape = _SHAPES.get(kind)
    if shape is None:
        return _unknown(content, generation)
    known = shape.fields
    values: dict[str, Any] = {"generation": generation}
    extra: dict[str, Any] | None = None
    for name, value in content.items():
        if name not in known:
            if name != "kind":
                extra = {**(extra or {}), name: value}
            continue
        plain, inner, hint, codec = known[name]
        quick = type(value) in plain and (
            inner is None or inner.issuperset(map(type, value.values()))
        )
        if not quick and not fits(value, hint):
            raise ValueError(
                f"the {name} of this {kind!r} record is {shorten(value)}: it must be {_words(hint)}"
            )
        if codec is not None and value is not None:
            if codec.known is not None and not codec.known.issuperset(value):
                rest = {k: v for k, v in value.items() if k not in codec.known}
                extra = {**(extra or {}), name: rest}
            try:
                value = codec.read(value)
            except _UnknownState:
                return _unknown(content, generation)
            except (TypeError, ValueError) as error:
                raise ValueError(f"the {name} of this {kind!r} record: {error}") from None
        values[name] = value
    if extra is not None:
        values["extra"] = extra
    if shape.cls is PlanRecord:
        values["recorded"] = content.get("plan")
    if not shape.required <= values.keys():
        missing = ", ".join(sorted(shape.required - values.keys()))
        raise ValueError(f"this {kind!r} record has no {missing}")
    record: Record = shape.cls(**values)
    return record


def is_plan(content: Mapping[str, Any]) -> bool:
    """Whether a line's content is that of a `PlanRecord`, which is not looked into."""
    return content.get("kind") == PlanRecord.KIND


def predecessor(content: Mapping[str, Any], generation: int) -> Predecessor | None:
    """Return where the generation before ends, by the content of a file's first line.

    None where it names none, or cannot be understood.
    """
    try:
        record = parse(content, generation)
    except ValueError:
        return None
    return record.predecessor if isinstance(record, GenerationRecord) else None


def later_format(content: Mapping[str, Any]) -> tuple[int, Any] | None:
    """The format and version that a file's first record names, where this version is too old."""
    format_ = content.get("format", FORMAT)
    if not isinstance(format_, int) or format_ <= FORMAT:
        return None
    versions = content.get("versions")
    return format_, versions.get("cerebro") if isinstance(versions, dict) else None


def _unknown(content: Mapping[str, Any], generation: int) -> UnknownRecord:
    t, seq = content.get("t", 0.0), content.get("seq")
    generation = content.get("generation", generation)
    for name, value, hint in (("t", t, float), ("seq", seq, int), ("generation", generation, int)):
        if not fits(value, hint):
            raise ValueError(f"its {name} is {shorten(value)}: it must be {_words(hint)}")
    return UnknownRecord(t=t, generation=generation, seq=typing.cast(int, seq), content=content)


def _words(hint: Any) -> str:
    """A type, for a message."""
    return hint.__name__ if typing.get_origin(hint) is None and hint is not Any else str(hint)


# --- how fields stand on disk -------------------------------------------------------------------


class _UnknownState(ValueError):
    """A worker's state that a later version has introduced."""


class _Codec(NamedTuple):
    """How a field that JSON does not have stands on disk: of which type, and the ways there and
    back. `known` are the fields of one that holds fields.
    """

    hint: Any
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]
    known: frozenset[str] | None = None


def _checked(what: str, content: Mapping[str, Any], cls: Any) -> dict[str, Any]:
    """The known fields of an object; `ValueError` for one that is missing or of another type."""
    hints = {n: h for n, h in typing.get_type_hints(cls).items() if n != "extra"}
    defaults = getattr(cls, "_field_defaults", vars(cls))
    missing = [name for name in hints if name not in content and name not in defaults]
    if missing:
        raise ValueError(f"{what} has no {', '.join(missing)}")
    found = {name: content[name] for name in hints if name in content}
    for name, value in found.items():
        if not fits(value, hints[name]):
            raise ValueError(
                f"{what}'s {name} is {shorten(value)}: it must be {_words(hints[name])}"
            )
    return found


def _read_plan(content: dict[str, Any]) -> RunPlan:
    return RunPlan.from_json(_checked("the plan", content, RunPlan))


def _read_predecessor(content: dict[str, Any]) -> Predecessor:
    return Predecessor(**_checked("it", content, Predecessor))


def _read_added(models: list[dict[str, Any]]) -> tuple[NewModelEntry, ...]:
    return tuple(
        NewModelEntry(
            **_checked("a model", content, NewModelEntry),
            extra={k: v for k, v in content.items() if k not in NewModelEntry._fields},
        )
        for content in models
    )


def _write_added(models: tuple[NewModelEntry, ...]) -> list[dict[str, Any]]:
    return [
        {n: v for n, v in new._asdict().items() if n != "extra" and (n, v) != ("place", None)}
        | dict(new.extra)
        for new in models
    ]


def _read_state(value: str) -> WorkerState:
    try:
        return WorkerState(value)
    except ValueError:
        raise _UnknownState from None


_value: Callable[[Any], Any] = operator.attrgetter("value")
_CODECS: dict[Any, _Codec] = {
    RunPlan: _Codec(dict[str, Any], _read_plan, operator.methodcaller("to_json")),
    Predecessor | None: _Codec(
        dict[str, Any] | None,
        _read_predecessor,
        Predecessor._asdict,
        frozenset(Predecessor._fields),
    ),
    Split: _Codec(str, Split, _value),
    WorkerState: _Codec(str, _read_state, _value),
    tuple[int, ...]: _Codec(list[int], tuple, list),
    dict[int, ModelState]: _Codec(
        dict[str, str],
        lambda stop: {int(model): ModelState(state) for model, state in stop.items()},
        lambda stop: {str(model): state.value for model, state in stop.items()},
    ),
    dict[int, tuple[int, int]] | None: _Codec(
        dict[str, list[int]] | None,
        lambda totals: {int(model): (train, valid) for model, (train, valid) in totals.items()},
        lambda totals: {str(model): list(units) for model, units in totals.items()},
    ),
    tuple[NewModelEntry, ...]: _Codec(list[dict[str, Any]], _read_added, _write_added),
}
"""By the type that a field has here."""


class _FieldCodec(NamedTuple):
    """One field on disk: `plain` and `inner` are types, of it and of what it holds, that it may
    have for sure, which is quicker to see than whether it fits its hint.
    """

    plain: frozenset[type]
    inner: frozenset[type] | None
    hint: Any
    codec: _Codec | None


class _Shape(NamedTuple):
    """What the fields of a kind are on disk. `layout` has those that are written, in order: name,
    whether None is left out, and how it is written.
    """

    cls: type[Any]
    fields: dict[str, _FieldCodec]
    required: frozenset[str]
    layout: tuple[tuple[str, bool, Callable[[Any], Any] | None], ...]


_NUMBERS: frozenset[type] = frozenset((int, float))


def _field(hint: Any) -> _FieldCodec:
    codec = _CODECS.get(hint)
    hint = hint if codec is None else codec.hint
    if hint == dict[str, float]:
        return _FieldCodec(frozenset([dict]), _NUMBERS, hint, codec)
    plain: set[type] = set()
    for part in typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
        plain.update(_NUMBERS if part is float else [part] if type(part) is type else [])
    return _FieldCodec(frozenset(plain), None, hint, codec)


def _shape(cls: type[Record]) -> _Shape:
    hints = typing.get_type_hints(cls)
    own = [f for f in fields(cls) if f.name not in ("extra", "recorded")]
    found = {f.name: _field(hints[f.name]) for f in own}
    without = [f.name for f in own if f.default is MISSING and f.default_factory is MISSING]
    front = dict.fromkeys(("kind", "t", "generation", *(f.name for f in own)))
    names = [name for name in front if name not in cls.BEHIND]
    if cls is GenerationRecord:
        names.remove("generation")  # it is the file's
    writers = {name: known.codec.write for name, known in found.items() if known.codec is not None}
    layout = tuple(
        (name, name in cls.LEFT_OUT, writers.get(name)) for name in (*names, *cls.BEHIND)
    )
    return _Shape(cls, found, frozenset((*without, "seq")), layout)


_SHAPES = {kind: _shape(cls) for kind, cls in KINDS.items()}
