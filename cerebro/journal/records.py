"""The journal's records: one class for each kind, and how each is written.

Only this module knows the names that fields have there. A line's content becomes a record when the
journal is read (`parse`), and a record becomes content when it is written (`to_json`); in between,
fields are attributes. Fields that are not known are kept in `extra`, and kinds that are not known
in an `UnknownRecord`: a later version may write some.

Anybody may have written a journal, so every known field is checked for type and range as it is
read; the bounds are those of `cerebro.protocol.bounds`, which hold for what workers say as well.

docs/journal.md says what each field means.
"""

from __future__ import annotations

import operator
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, ClassVar, NamedTuple, TypedDict

from cerebro.formatting import shorten
from cerebro.hopper.units import ModelState, Split
from cerebro.journal.run_plan import RunPlan, check_configuration
from cerebro.journal.worker_states import WorkerState
from cerebro.protocol.bounds import (
    LARGEST,
    LONGEST_SECONDS,
    Count,
    Digest,
    Examples,
    Facts,
    Formed,
    Index,
    Number,
    Path,
    Process,
    Representable,
    RunId,
    Seconds,
    States,
    UnixTime,
    Url,
    Versions,
    Within,
)
from cerebro.protocol.types import checked_fields, fits, needed

FORMAT = 2
"""Raised when what was written could be misunderstood by those who know the format before."""


class DoesNotFit(ValueError):
    """A record that cannot follow those before it, `seq` its number: the journal is damaged."""

    def __init__(self, record: Record, why: str) -> None:
        super().__init__(f"this {record.kind!r} record {why}")
        self.seq = record.seq


class Header(TypedDict):
    """What every record that a driver makes has: the driver's seconds, and its generation."""

    t: float
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What all records have.

    `t` is in seconds since the run started, by the driver's clock; `generation` is the driver's.
    `seq` counts from 1 over the whole journal, and is 0 before the record is written. `extra` are
    fields, by their name on disk, that this version does not know.
    """

    KIND: ClassVar[str] = ""
    LEFT_OUT: ClassVar[tuple[str, ...]] = ()
    """Fields that are not written where they are None."""

    BEHIND: ClassVar[tuple[str, ...]] = ("seq",)
    """Fields that are written last."""

    t: Seconds
    generation: Count
    seq: Count = 0
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

    generation: Count
    length: Count
    sha256: Digest
    seq: Count


class NewModelEntry(NamedTuple):
    """A model that a decision adds.

    It starts in `epoch` with `checkpoint`, which is relative on disk where it is a version of this
    run, and has the epochs of `parent` before that; None where it is not warm-started. `place` is
    its place in the list of configurations, where that was extended by it after the run had
    started; None where the procedure has added the model.
    """

    model: Index
    mst: dict[str, Any]
    epoch: Index
    parent: Index | None
    checkpoint: Path | None
    place: Index | None = None
    extra: Mapping[str, Any] = types.MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRecord(Record):
    """The first record of each file: a driver takes the run up, or continues in another file.

    `time` is the Unix time at `t`, `run` the id by which workers know the run. `folder` is the
    absolute path at which the driver has the run's folder; earlier versions did not write it, and
    where it is missing it is taken from the checkpoints that they committed.
    """

    KIND = "generation"
    LEFT_OUT = ("folder",)
    BEHIND = ("kind", "seq", "format", "predecessor")

    run: RunId
    time: UnixTime
    driver: Process = field(default_factory=dict)
    versions: Versions = field(default_factory=dict)
    git_commit: str | None = None
    folder: Path | None = None
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
    base: UnixTime | None = None
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

    worker: Index
    url: Url
    state: WorkerState
    reason: str | None = None
    facts: Facts | None = None
    devices: list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedRecord(Record):
    """An attempt to run a unit is about to be ordered; it starts from the version `reads`."""

    KIND = "started"

    attempt: Count
    worker: Index
    model: Index
    epoch: Index
    split: Split
    partition: Index
    reads: Count


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

    attempt: Count
    loss: Number
    error: Number
    examples: Examples | None
    metrics: dict[str, Number] = field(default_factory=dict)
    states: States | None = None
    phases: dict[str, Seconds]
    output: str = ""
    ran: Seconds | None = None
    checkpoint: Path | None = None
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

    attempt: Count
    failure: str
    message: str
    traceback: str = ""
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFailedRecord(Record):
    """A model ends as `FAILED`; `attempt` is -1 where none did it."""

    KIND = "model_failed"

    model: Index
    attempt: Annotated[int, Within(-1, LARGEST)]
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

    model: Index
    version: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRecord(Record):
    """A version is about to be deleted."""

    KIND = "dropped"

    model: Index
    version: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord(Record):
    """What the procedure said of models that have ended an epoch."""

    KIND = "decision"

    asked: tuple[Index, ...]
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
    """Models that had ended continue, and why."""

    KIND = "reopened"
    BEHIND = ("t", "generation", "seq")

    models: tuple[Index, ...]
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
    types_of = (*content, *map(type, content.values()))
    layout = shape.layouts.get(types_of)
    if layout is None:
        layout = _lay_out(shape, content)
        if len(shape.layouts) < LAYOUTS_KEPT:
            shape.layouts[types_of] = layout
    for name, low, high in layout.ranges:
        if not low <= content[name] <= high:
            raise _refusal(shape, name, content[name])
    for name, passes in layout.tests:
        if not passes(content[name]) and not fits(content[name], shape.fields[name].hint):
            raise _refusal(shape, name, content[name])
    for name, hint in layout.asked:
        if not fits(content[name], hint):
            raise _refusal(shape, name, content[name])
    values: dict[str, Any] = {"generation": generation, **content}
    del values["kind"]
    extra = {name: values.pop(name) for name in layout.extra}
    for name, codec in layout.codecs:
        value = values[name]
        if codec.known is not None and not codec.known.issuperset(value):
            extra[name] = {k: v for k, v in value.items() if k not in codec.known}
        try:
            values[name] = codec.read(value)
        except _UnknownState:
            return _unknown(content, generation)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the {name} of this {kind!r} record: {error}") from None
    if extra:
        values["extra"] = extra
    if shape.cls is PlanRecord:
        values["recorded"] = content["plan"]
    record: Record = shape.cls(**values)
    return record


def _refusal(shape: _Shape, name: str, value: Any) -> ValueError:
    hint = shape.fields[name].hint
    return ValueError(
        f"the {name} of this {shape.cls.KIND!r} record is {shorten(value)}: it must be "
        f"{needed(value, hint)}"
    )


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
    header = (("t", t, Seconds), ("seq", seq, Count), ("generation", generation, Count))
    for name, value, hint in header:
        if not fits(value, hint):
            raise ValueError(f"its {name} is {shorten(value)}: it must be {needed(value, hint)}")
    return UnknownRecord(t=t, generation=generation, seq=typing.cast(int, seq), content=content)


# --- how fields stand on disk -------------------------------------------------------------------


class _UnknownState(ValueError):
    """A worker's state that a later version has introduced."""


class _Codec(NamedTuple):
    """How a field that JSON does not have is stored on disk: of which type, and the ways there and
    back. `known` are the fields of one that holds fields.
    """

    hint: Any
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]
    known: frozenset[str] | None = None


def _read_predecessor(content: dict[str, Any]) -> Predecessor:
    return Predecessor(**checked_fields("the end", content, Predecessor))


def _read_added(models: list[dict[str, Any]]) -> tuple[NewModelEntry, ...]:
    found = []
    for content in models:
        fields_ = checked_fields("a model", content, NewModelEntry)
        check_configuration("a model's mst", fields_["mst"])
        extra = {k: v for k, v in content.items() if k not in NewModelEntry._fields}
        found.append(NewModelEntry(**fields_, extra=extra))
    return tuple(found)


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


_SPLITS = {split.value: split for split in Split}  # an enum's own look-up takes longer


def _read_split(value: str) -> Split:
    found = _SPLITS.get(value)
    if found is None:
        raise ValueError(f"{shorten(value)} must be one of {', '.join(map(repr, _SPLITS))}")
    return found


def _read_stop(stop: dict[str, str]) -> dict[int, ModelState]:
    states = {_model_id(model): ModelState(state) for model, state in stop.items()}
    if ModelState.RUNNING in states.values():
        raise ValueError(f"{shorten(stop)} stops a model as RUNNING: name a state that ends it")
    return states


def _read_totals(totals: dict[str, list[int]]) -> dict[int, tuple[int, int]]:
    found = {}
    for model, units in totals.items():
        if len(units) != 2:
            raise ValueError(f"{shorten(units)} must be two numbers, of train and valid units")
        found[_model_id(model)] = (units[0], units[1])
    return found


def _model_id(key: str) -> int:
    """A model's id that is a key, which JSON has as text."""
    if not fits(key, _KEY):
        raise ValueError(f"the key {shorten(key)} is no model's id: it must be {needed(key, _KEY)}")
    return int(key)


_KEY = Annotated[str, Formed(r"0|[1-9]\d{0,8}", "a number of at most 9 digits")]

_value: Callable[[Any], Any] = operator.attrgetter("value")
_CODECS: dict[Any, _Codec] = {
    RunPlan: _Codec(dict[str, Any], RunPlan.from_json, operator.methodcaller("to_json")),
    Predecessor | None: _Codec(
        dict[str, Any] | None,
        _read_predecessor,
        Predecessor._asdict,
        frozenset(Predecessor._fields),
    ),
    Split: _Codec(str, _read_split, _value),
    WorkerState: _Codec(str, _read_state, _value),
    tuple[Index, ...]: _Codec(list[Index], tuple, list),
    dict[int, ModelState]: _Codec(
        dict[str, str],
        _read_stop,
        lambda stop: {str(model): state.value for model, state in stop.items()},
    ),
    dict[int, tuple[int, int]] | None: _Codec(
        dict[str, list[Count]] | None,
        _read_totals,
        lambda totals: {str(model): list(units) for model, units in totals.items()},
    ),
    tuple[NewModelEntry, ...]: _Codec(list[dict[str, Any]], _read_added, _write_added),
}
"""By the type that a field has here."""


class _FieldCodec(NamedTuple):
    """One field on disk; `optional`: it may be None. What is of a `plain` type, is between `low`
    and `high` and passes `quick_test`, where these are given, fits the hint for sure, which is
    quicker to see than whether it does.
    """

    optional: bool
    plain: frozenset[type]
    low: Any
    high: Any
    quick_test: Callable[[Any], bool] | None
    hint: Any
    codec: _Codec | None


class _Layout(NamedTuple):
    """What is left to see of lines with the same fields, each of the same type.

    `ranges` are the fields that have to be between two numbers, `tests` those that fit for sure if
    they pass one, and `asked` those whose hint has to be asked; `extra` are not known.
    """

    ranges: tuple[tuple[str, Any, Any], ...]
    tests: tuple[tuple[str, Callable[[Any], bool]], ...]
    asked: tuple[tuple[str, Any], ...]
    codecs: tuple[tuple[str, _Codec], ...]
    extra: tuple[str, ...]


LAYOUTS_KEPT = 256
"""Of one kind: its lines have few, unless somebody means to have this process grow."""


class _Shape(NamedTuple):
    """What the fields of a kind are on disk. `layout` has those that are written, in order: name,
    whether None is left out, and how it is written. `layouts` are by names and types.
    """

    cls: type[Any]
    fields: dict[str, _FieldCodec]
    required: frozenset[str]
    layout: tuple[tuple[str, bool, Callable[[Any], Any] | None], ...]
    layouts: dict[tuple[Any, ...], _Layout]


def _lay_out(shape: _Shape, content: Mapping[str, Any]) -> _Layout:
    """See which fields there are, and of which types; `ValueError` for one that is missing."""
    if not shape.required <= content.keys():
        missing = ", ".join(sorted(shape.required - content.keys()))
        raise ValueError(f"this {shape.cls.KIND!r} record has no {missing}")
    ranges, tests, asked, codecs, extra = [], [], [], [], []
    for name, value in content.items():
        known = shape.fields.get(name)
        if known is None:
            extra += [name] if name != "kind" else []
            continue
        if value is None and known.optional:
            continue
        if type(value) not in known.plain:
            asked.append((name, known.hint))
        elif known.low is not None:
            ranges.append((name, known.low, known.high))
        elif known.quick_test is not None:
            tests.append((name, known.quick_test))
        if known.codec is not None:
            codecs.append((name, known.codec))
    return _Layout(tuple(ranges), tuple(tests), tuple(asked), tuple(codecs), tuple(extra))


def _all_floats(numbers: dict[str, Any]) -> bool:
    return _FLOATS.issuperset(map(type, numbers.values()))


def _all_seconds(numbers: dict[str, Any]) -> bool:
    """Whether these are times: NaN makes the sum NaN, which is in no range."""
    times = numbers.values()
    return bool(
        times
        and _FLOATS.issuperset(map(type, times))
        and 0.0 <= sum(times) <= LONGEST_SECONDS
        and min(times) >= 0.0
    )


_FLOATS: frozenset[type] = frozenset((float,))
_QUICK_TESTS: tuple[tuple[Any, Callable[[Any], bool]], ...] = (
    (dict[str, Number], _all_floats),
    (dict[str, Seconds], _all_seconds),
)


def _field(hint: Any) -> _FieldCodec:
    codec = _CODECS.get(hint)
    hint = hint if codec is None else codec.hint
    one_of = typing.get_origin(hint) in (types.UnionType, typing.Union)
    parts = typing.get_args(hint) if one_of else (hint,)
    optional = type(None) in parts
    (part,) = (part for part in parts if part is not type(None))
    for known, quick_test in _QUICK_TESTS:
        if part == known:
            return _FieldCodec(optional, frozenset([dict]), None, None, quick_test, hint, codec)
    of, *bounds = typing.get_args(part) if typing.get_origin(part) is Annotated else (part,)
    quick = _FieldCodec(optional, frozenset(), None, None, None, hint, codec)
    if bounds == [Representable()]:
        return quick._replace(plain=_FLOATS)
    if len(bounds) == 1:
        (bound,) = bounds
        if not isinstance(bound, Within):
            return quick._replace(plain=frozenset([of]), quick_test=bound.holds)
        return quick._replace(plain=frozenset([of]), low=bound.low, high=bound.high)
    return quick._replace(plain=frozenset([of])) if type(of) is type and not bounds else quick


def _shape(cls: type[Record]) -> _Shape:
    hints = typing.get_type_hints(cls, include_extras=True)
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
    return _Shape(cls, found, frozenset((*without, "seq")) - {"generation"}, layout, {})


_SHAPES = {kind: _shape(cls) for kind, cls in KINDS.items()}
