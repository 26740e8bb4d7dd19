"""Where checkpoints lie: on disk relative to the run's folder, in memory by its present place.

So a folder can be moved, renamed or copied. Journals of earlier versions have absolute paths: what
was committed is a version of the run by definition, wherever the run lay then.
"""

from __future__ import annotations

import os
from dataclasses import replace

from cerebro.formatting import shorten
from cerebro.journal.paths import RunPaths, folder_of, relative_in_run
from cerebro.journal.records import CommittedRecord, DecisionRecord, NewModelEntry, Record

START = "init_ckpt_path"
"""The key of a configuration that names a checkpoint."""

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
        """Return a record as it stands on disk.

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
        if recorded is None:
            return new
        relative = relative_in_run(recorded)
        if os.path.isabs(recorded):
            # Warm starts from other runs stay where they are.
            return self._moved(new, relative) if recorded in self._committed else new
        if relative != recorded:
            raise ValueError(
                f"the checkpoint that model {new.model} begins with is {shorten(recorded)}: it "
                f"must be an absolute path, or {MEANT}"
            )
        return self._moved(new, relative)

    def _moved(self, new: NewModelEntry, relative: str | None) -> NewModelEntry:
        """A model that begins with a version of this run, by the present place of the folder."""
        assert relative is not None
        present = self._paths.present(relative)
        named = new.mst.get(START)
        mst = {**new.mst, START: present} if named in (relative, new.checkpoint) else new.mst
        return new._replace(checkpoint=present, mst=mst)

    def _entry_written(self, new: NewModelEntry) -> NewModelEntry:
        relative = None if new.checkpoint is None else self._paths.relative(new.checkpoint)
        if relative is None:
            return new
        names_it = new.mst.get(START) is not None
        mst = {**new.mst, START: relative} if names_it else new.mst
        return new._replace(checkpoint=relative, mst=mst)
