"""The saved versions of a run's models: which are kept, and the deletion of the others.

The driver alone deletes published versions, and only once the journal says so. A driver that was
replaced deletes nothing: by then the folder is another one's. Whoever names a version, the journal
or a worker, nothing is deleted but folders of versions in `models/` of this run's own folder.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cerebro.errors import ResumeRefused, StorageError
from cerebro.hopper.retention import Retention
from cerebro.hopper.units import ModelState
from cerebro.journal.best import score, value
from cerebro.journal.ledger import AttemptRecord, EpochRecord, Ledger, ModelRecord, owner
from cerebro.journal.ownership import replaced
from cerebro.journal.paths import VERSION_NAME, RunPaths
from cerebro.storage import FolderIdentity, make_folder, remove_below, storage_errors

logger = logging.getLogger(__name__)

MAY_GO_ON = (ModelState.RUNNING, ModelState.FAILED)
"""States of models that may have to read again the version that they started with."""

Version = tuple[int, int]
"""A model and the number of one of its versions."""


def left_behind(paths: RunPaths, models: Iterable[ModelRecord]) -> int:
    """Count the versions of models that the journal names, where not one of them is there.

    0 where some are: somebody has copied the run's folder without its versions, or they belong to
    an earlier journal. Raises `StorageError`.
    """
    named = {Path(c).parts[-3:-1] for model in models for c in model.checkpoints.values()}
    with storage_errors("read", paths.models):
        there = {path.parts[-2:] for path in paths.unreferenced(())}
    return 0 if named & there else len(named)


def check_versions_came_along(paths: RunPaths, ledger: Ledger) -> None:
    """Raise `ResumeRefused` where not one version is there of those that models continue from.

    Raises `StorageError`.
    """
    missing = left_behind(paths, (m for m in ledger.models.values() if m.state in MAY_GO_ON))
    if missing:
        raise ResumeRefused(
            f"{paths.models} holds none of the versions that the journal names, {missing} of "
            "models that continue: put the models/ of the run there, as it was when its journal "
            "was copied, then resume it"
        )


def make_model_folders(paths: RunPaths, ledger: Ledger) -> None:
    """Have a folder for each model with versions: a worker to which it is missing as well as the
    version takes storage for not mounted, and waits for it.

    Raises `UnsafePath` and `StorageError`.
    """
    for model in ledger.models.values():
        if model.checkpoints:
            folder = paths.models / str(model.id)
            with storage_errors("create", folder):
                make_folder(folder)


class Versions:
    """Keeps account of versions as a run proceeds, from the state in its ledger.

    `reach` gives the last generation that this driver has claimed; `pinned` versions are kept until
    so many new models have started with them; with `keep_epoch_ends` those that models had at the
    end of their last epoch are kept too, for models to come. Methods that return versions return
    those that nobody needs any more; they are deleted by the next `delete`, which belongs after
    the journal records that they were dropped.
    """

    def __init__(
        self,
        paths: RunPaths,
        ledger: Ledger,
        reach: Callable[[], int],
        pinned: Mapping[Version, int],
        *,
        keep_epoch_ends: bool = False,
    ) -> None:
        self._paths = paths
        self._ledger = ledger
        self._reach = reach
        self._retention = Retention(keep_epoch_ends=keep_epoch_ends)
        self._readers: dict[int, Version] = {}
        self._pinned = Counter(pinned)
        self._doomed: list[str] = []
        self._folder: FolderIdentity | None = None
        with contextlib.suppress(OSError):
            self._folder = FolderIdentity.of(paths.root)
        self._cleaner = ThreadPoolExecutor(1, thread_name_prefix="cleaner")
        self._restore()

    def _restore(self) -> None:
        """Tell the retention what the journal knows of versions, epochs and their readers."""
        for pinned in self._pinned.elements():
            self._retention.pin(*pinned)
        for model in self._ledger.models.values():
            for version in sorted(model.checkpoints):
                self._retention.committed(model.id, version)
            kept = [epoch for epoch in model.epochs if epoch.version in model.checkpoints]
            for epoch in kept:
                assert epoch.version is not None
                self._retention.epoch_ended(model.id, epoch.version, self._score(epoch))
            before = self._best_whatever_is_wrong(kept)
            if before is not None and before.ruined and before.finite is None and before.version:
                # A driver that knew of no ruined epochs kept it as the best: it stays.
                self._retention.pin(model.id, before.version)
        for model in self._ledger.models.values():
            source = owner(model.start_checkpoint, self._ledger) if model.start_checkpoint else None
            if source is not None and model.version <= 1 and model.state in MAY_GO_ON:
                self._retention.pin(*source)
                self._readers[model.id] = source

    # --- what happens to versions ----------------------------------------------------------------

    def committed(self, model: int, version: int) -> list[Version]:
        """A model's version is committed."""
        dropped = self._drop(model, self._retention.committed(model, version))
        if version >= 2:  # version 1, if it is damaged, is made again from the parent's
            dropped += self.released([model])
        return dropped

    def voided(self, model: int, version: int) -> None:
        """A model's version turned out to be unusable."""
        self._retention.voided(model, version)

    def epoch_ended(self, model: int, version: int) -> list[Version]:
        """A model's epoch, its last in the ledger, ended at a version."""
        epochs = self._ledger.models[model].epochs
        self._retention.ruined(model, [e.version for e in epochs if e.ruined and e.version])
        value = self._score(epochs[-1])
        return self._drop(model, self._retention.epoch_ended(model, version, value))

    def _score(self, epoch: EpochRecord) -> float:
        plan = self._ledger.the_plan
        return score(epoch, plan.metric, plan.mode)

    def _best_whatever_is_wrong(self, epochs: Iterable[EpochRecord]) -> EpochRecord | None:
        plan = self._ledger.the_plan
        values = ((value(epoch, plan.metric, plan.mode), epoch) for epoch in epochs)
        numbers = [pair for pair in values if not math.isnan(pair[0])]
        return min(numbers, key=lambda pair: pair[0])[1] if numbers else None

    def read_by(self, child: int, checkpoint: str | None) -> list[Version]:
        """A new model starts with a checkpoint."""
        source = owner(checkpoint, self._ledger) if checkpoint else None
        if source is None:
            return []
        self._retention.pin(*source)
        self._readers[child] = source
        if not self._pinned[source]:
            return []
        self._pinned[source] -= 1
        return self._drop(source[0], self._retention.unpin(*source))

    def released(self, models: Iterable[int]) -> list[Version]:
        """Models do not need the versions any more that they started with."""
        sources = [self._readers.pop(model) for model in models if model in self._readers]
        return [v for s in sources for v in self._drop(s[0], self._retention.unpin(*s))]

    def _drop(self, model: int, versions: list[int]) -> list[Version]:
        dropped = []
        for version in versions:
            self._retention.dropped(model, version)
            checkpoint = self._ledger.models[model].checkpoints.get(version)
            if checkpoint is not None:
                dropped.append((model, version))
                self._doomed.append(os.path.dirname(checkpoint))
        return dropped

    # --- deleting --------------------------------------------------------------------------------

    def delete(self) -> None:
        """Delete what was dropped, on a thread of its own."""
        for folder in self._doomed:
            self._cleaner.submit(self._remove, folder)
        self._doomed.clear()

    def discard_orphan(self, checkpoint: str) -> None:
        """Delete a version that was published and does not count.

        A report that comes again is of a version that counts, and changes nothing; nor does one of
        what is no version of this run's models.
        """
        relative = self._paths.relative(checkpoint)
        model = self._ledger.models.get(int(Path(relative).parts[1])) if relative else None
        if model is None:
            return
        folder = os.path.dirname(checkpoint)
        if folder not in map(os.path.dirname, model.checkpoints.values()):
            self._cleaner.submit(self._remove, folder)

    def is_of(self, checkpoint: str, attempt: AttemptRecord) -> bool:
        """Tell whether a checkpoint is where the attempt was told to publish its version."""
        folder = self._paths.version(
            attempt.unit.model, attempt.reads + 1, attempt.generation, attempt.number
        )
        in_run = self._paths.relative(checkpoint) is not None
        return in_run and os.path.dirname(checkpoint) == str(folder)

    def sweep(self) -> None:
        """Delete versions, finished or not, that the journal does not know of.

        They are left by workers, or a driver, that were killed. Nobody writes here now but
        workers that were given up, whose work is void.
        """
        checkpoints = (c for m in self._ledger.models.values() for c in m.checkpoints.values())
        with storage_errors("read", self._paths.models):
            stale = self._paths.unreferenced(checkpoints)
        for path in stale:
            self._remove(str(path.absolute()))

    def close(self) -> None:
        """Stop deleting; what is left is swept."""
        self._cleaner.shutdown(cancel_futures=True)

    def _remove(self, folder: str) -> None:
        """Delete the folder of a version; nothing else, whatever the path."""
        path = Path(folder)
        model, name = path.parts[-2:]
        of_a_version = model.isdecimal() and VERSION_NAME.fullmatch(name) is not None
        if not of_a_version or path.parents[1] != self._paths.models.absolute():
            logger.warning("%s is not a version of this run: it is not deleted", folder)
            return
        # Where nobody can tell whose the run is, the folder stays, and is swept later.
        with contextlib.suppress(StorageError):
            if not replaced(self._paths, self._reach):
                below = (self._paths.models.name, model, name)
                remove_below(self._paths.root, below, self._folder)
