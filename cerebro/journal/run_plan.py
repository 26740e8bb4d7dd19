"""What a run is to do, as the journal's first records say."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cerebro.formatting import shorten
from cerebro.hopper.placement.registry import TOGETHER
from cerebro.hopper.units import Split
from cerebro.hopper.values import same
from cerebro.metrics.direction import MODES
from cerebro.metrics.rules import MEANS
from cerebro.protocol.bounds import FolderName, Index, Name, Path, RunId, Seed, Url
from cerebro.protocol.types import checked_fields, fits, needed

Matrix = list[list[int]]

START = "init_ckpt_path"
"""The key of a configuration that names a checkpoint."""

PARENT = "init_mst"
"""The key with the configuration of the model that it starts with."""

WARM_START_KEYS = (START, "init_mst_id", PARENT)
"""Keys of a configuration that say where a model starts; no hyperparameters."""


@dataclass(frozen=True)
class RunPlan:
    """Everything that determines a run's results, apart from the data and the functions' code.

    `id` names the run on the workers, whatever folder it lies in; `name` is its folder's.
    `functions` are fingerprints by role: of the four, or of the search procedure in place of
    `mst_eval_fn`. That is described by `search`, and finds the configurations: `configs` is empty
    then. `fingerprint_version` is their version, and `parts` what they are over: of each role, by
    name, the digest of a variable, of code or of an attribute, its value in short, and the part
    that holds it, if any; None where that was not recorded.

    Availability `None` means shared storage: every worker may read every partition. `replay` is the
    folder of the run that this one repeats, `placement` the policy that chooses who goes where:
    another one may do so when the run is resumed. By `metric` and `mode` ("min" or "max") models
    are compared. `metric_rules` says what metrics are: by `MEANS` each is the mean over partitions,
    and `error_metric` is the error as it is; by `EXACT` those that add up are exact, and the error
    is low where the metric is good. `global_step` says whether optimizers of V1 graphs advance the
    global step: those of older runs do not.
    """

    id: RunId
    name: FolderName
    workers: list[Url]
    train_partitions: list[Path]
    valid_partitions: list[Path]
    train_availability: Matrix | None
    valid_availability: Matrix | None
    configs: list[dict[str, Any]]
    backend: Name
    seed: Seed
    deterministic: bool
    keep_data: bool
    functions: dict[str, str]
    replay: Path | None = None
    placement: Name = TOGETHER
    search: str | None = None
    error_metric: str | None = None
    fingerprint_version: Index = 1
    metric: str = "valid_error"
    mode: str = "min"
    metric_rules: Index = MEANS
    global_step: bool = False
    parts: dict[str, dict[str, list[str | None]]] | None = None

    def partitions(self, split: Split) -> list[str]:
        """Return the partitions' paths of one split."""
        return self.train_partitions if split is Split.TRAIN else self.valid_partitions

    def availability(self, split: Split) -> Matrix | None:
        """Return the availability matrix of one split; None for shared storage."""
        return self.train_availability if split is Split.TRAIN else self.valid_availability

    def to_json(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> RunPlan:
        """From such a dictionary; fields of later versions are left out.

        Raises `ValueError` for a field that is missing, not of its type, or out of its range.
        """
        plan = cls(**checked_fields("the plan", content, cls))
        if not plan.workers or not plan.train_partitions:
            raise ValueError("the plan needs at least one worker and one train partition")
        for split in Split:
            _check_matrix(plan, split)
        for number, config in enumerate(plan.configs):
            check_configuration(f"the plan's configs[{number}]", config)
        if plan.mode not in MODES:
            raise ValueError(f"the plan's mode is {shorten(plan.mode)}: it must be one of {MODES}")
        return plan


def _check_matrix(plan: RunPlan, split: Split) -> None:
    """Raise `ValueError` for a matrix that does not say 0 or 1 of each worker and partition."""
    rows, columns = len(plan.workers), len(plan.partitions(split))
    matrix = plan.availability(split)
    if matrix is None:
        return
    if len(matrix) != rows or any(len(row) != columns for row in matrix):
        raise ValueError(
            f"the plan's {split.value}_availability is {shorten(matrix)}: it must have {rows} rows "
            f"(workers) of {columns} values (partitions)"
        )
    wrong = next((value for row in matrix for value in row if value not in (0, 1)), None)
    if wrong is not None:
        raise ValueError(
            f"the plan's {split.value}_availability has the value {shorten(wrong)}: each must be "
            "0 or 1"
        )


_KEYS_READ: dict[str, Any] = {
    "init_ckpt_path": Path | None,
    "init_mst_id": Index | None,
    "seed": Seed | None,
}
"""Keys of a configuration that this library reads itself."""


def check_configuration(what: str, config: dict[str, Any]) -> None:
    """Raise `ValueError` for a configuration that was read and cannot be one.

    Its values are the user's; an integer must be one that a float can come near to.
    """
    for name, hint in _KEYS_READ.items():
        if not fits(config.get(name), hint):
            raise ValueError(
                f"{what} has {name}={shorten(config[name])}: it must be "
                f"{needed(config[name], hint)}"
            )
    left: list[Any] = [config]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
        elif type(value) is int and not fits(value, Seed):
            raise ValueError(f"{what} holds {shorten(value)}: it must be {needed(value, Seed)}")


Plan = RunPlan
"""Older pickles of results have it by this name."""

COMPARED = (
    "configs",
    "partitions",
    "seed",
    "backend",
    "error_metric",
    "input_fn",
    "model_fn",
    "train_fn",
    "search",
)
"""What has to be the same where a run is resumed or replayed, unless it is named as changed."""


def differences(before: RunPlan, now: RunPlan) -> list[str]:
    """The names of what differs, among `COMPARED`."""

    def value(plan: RunPlan, name: str) -> Any:
        if name == "partitions":
            return plan.train_partitions, plan.valid_partitions
        in_functions = name.endswith("_fn") or name == "search"
        return plan.functions.get(name) if in_functions else getattr(plan, name)

    return [name for name in COMPARED if not same(value(before, name), value(now, name))]


def hyperparameters(mst: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the keys that say where it starts."""
    return {key: value for key, value in mst.items() if key not in WARM_START_KEYS}
