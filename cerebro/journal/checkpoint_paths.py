"""Where checkpoints lie: on disk relative to the run's folder, in memory by its present place.

So a folder can be moved, renamed or copied. Journals of earlier versions have absolute paths: what
was committed is a version of the run by definition, wherever the run lay then.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cerebro.formatting import shorten
from cerebro.journal.paths import RunPaths, folder_of, relative_in_run, same_folder
from cerebro.journal.records import CommittedRecord, DecisionRecord, NewModelEntry, Record
from cerebro.journal.run_plan import PARENT, START

MEANT = "a version of this run, models/<model>/v<version>-g<generation>-a<attempt>/<file>"


class CheckpointPaths:
    """Translates the records of one run, which are read in the journal's order.

    `place` is where the run lay when the checkpoint that was read last was committed, by what an
    earlier version of the library has written; None where none did.
    """

    def __init__(self, paths: RunPaths) -> None:
        self.place: str | None = None
        self._paths = paths
        self._committed: set[str] = set()

    def read(self, record: Record) -> Record:
        """Return a record that has been read, with paths by the folder's present place.

        Raises `ValueError` for a path that is no version of the run where there must be one.
        """
        if isinstance(record, CommittedRecord) and record.checkpoint is not None:
            return replace(record, checkpoint=self._own(record.checkpoint))
        if isinstance(record, DecisionRecord) and record.add:
            return replace(record, add=tuple(map(self._entry_read, record.add)))
        return record

    def written(self, record: Record) -> Record:
        """Return a record as it is written.

        Raises `ValueError` where a version that was committed does not lie in the run's folder.
        """
        if isinstance(record, CommittedRecord) and record.checkpoint is not None:
            relative = self._paths.relative(record.checkpoint)
            if relative is None:
                raise ValueError(f"{record.checkpoint} is not {MEANT}, in {self._paths.root}")
            return replace(record, checkpoint=relative)
        if isinstance(record, DecisionRecord) and record.add:
            return replace(record, add=tuple(map(self._entry_written, record.add)))
        return record

    def _own(self, recorded: str) -> str:
        """The checkpoint of a version that was committed."""
        relative = relative_in_run(recorded)
        place = folder_of(recorded)
        if relative is None or (place is None and relative != recorded):
            raise ValueError(f"its checkpoint is {shorten(recorded)}: it must be {MEANT}")
        if place is not None:
            self.place = place
            self._committed.add(recorded)
        return self._paths.present(relative)

    def _entry_read(self, new: NewModelEntry) -> NewModelEntry:
        recorded = new.checkpoint
        if recorded is not None:
            if not os.path.isabs(recorded) and relative_in_run(recorded) != recorded:
                raise ValueError(
                    f"the checkpoint that model {new.model} begins with is {shorten(recorded)}: it "
                    f"must be an absolute path, or {MEANT}"
                )
            recorded = self._present(recorded)
        return new._replace(checkpoint=recorded, mst=_translated(new.mst, self._present))

    def _present(self, recorded: str) -> str:
        """A path by the present place of the run's folder; of another run as it is."""
        relative = relative_in_run(recorded)
        if relative is not None and (relative == recorded or recorded in self._committed):
            return self._paths.present(relative)
        return recorded

    def _entry_written(self, new: NewModelEntry) -> NewModelEntry:
        checkpoint = None if new.checkpoint is None else self._recorded(new.checkpoint)
        return new._replace(checkpoint=checkpoint, mst=_translated(new.mst, self._recorded))

    def _recorded(self, path: str) -> str:
        """A path as it is written; absolute if it is of another run."""
        relative = relative_in_run(path)
        if relative is None:
            return path
        path = os.path.abspath(path)
        own = self._paths.present(relative) == path
        return relative if own or same_folder(str(folder_of(path)), self._paths.root) else path


def _translated(mst: dict[str, Any], translate: Callable[[str], str]) -> dict[str, Any]:
    """A configuration with the paths of checkpoints in it translated: its own, its parents'."""
    start, parent = mst.get(START), mst.get(PARENT)
    if isinstance(start, str):
        mst = {**mst, START: translate(start)}
    if isinstance(parent, dict):
        mst = {**mst, PARENT: _translated(parent, translate)}
    return mst
