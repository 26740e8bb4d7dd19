"""Every name in a run's folder, down to the folder of a version.

<run>/
  driver.json                 who drives the run now
  workers.json                the workers' URLs
  provenance.json             versions, devices, seed, partitions, faults
  history.csv models.csv units.csv
  report.html                 what `Result.report` wrote
  journal/<generation>.jsonl  what happened; everything else follows from it
  logs/scheduler.log, logs/workers.log, logs/<model>.log
  tensorboard/model-<model>/  event files
  code/<digest>               the functions, for whoever reads a plain model
  models/<model>/v<version>-g<generation>-a<attempt>/   published versions
  probe/                      used at the start, to see that all hosts share the folder
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from cerebro.storage import TEMPORARY, WRITTEN_ASIDE, is_folder, make_folder, names_in

PUBLISHED = r"v[0-9]{6,}-g[0-9]+-a[0-9]+"
VERSION_NAME = re.compile(rf"{PUBLISHED}|{re.escape(TEMPORARY)}{PUBLISHED}-[0-9a-f]+")
"""The folder of a version, or the temporary one that it is made in."""

CHECKPOINT = re.compile(rf"(?:.*/)?(models/(?:0|[1-9][0-9]*)/{PUBLISHED}/[^/\0]+)", re.DOTALL)
"""The path of a checkpoint in any run's folder; the group is what is relative to that."""

GENERATION = r"(?:(?!0{6})[0-9]{6}|[1-9][0-9]{6,15})"
"""A generation as its file is named: at least six digits, and no zeros in front of more."""


def is_run(folder: Path) -> bool:
    """Tell whether a folder is that of a run. Raises `StorageError` where that cannot be seen."""
    return is_folder(RunPaths(folder).journal)


def runs_in(folder: Path) -> list[str]:
    """The names of the runs that lie in a folder, a `ckpt_root`, without those closed to this user.

    Raises `StorageError`.
    """
    return [name for name in names_in(folder) if os.path.lexists(folder / name / "journal")]


def relative_in_run(checkpoint: str) -> str | None:
    """What a checkpoint's path is relative to the folder of its run, whichever that is.

    None for a path that is not that of a version.
    """
    match = CHECKPOINT.fullmatch(checkpoint)
    if match is None or os.path.basename(checkpoint) in (os.curdir, os.pardir):
        return None
    return match[1]


def folder_of(checkpoint: str) -> str | None:
    """The folder of the run that an absolute path of a version lies in; None for other paths."""
    relative = relative_in_run(checkpoint)
    if relative is None or not os.path.isabs(checkpoint):
        return None
    return checkpoint[: -len(relative) - 1] or os.sep


def same_folder(one: str | Path, other: str | Path) -> bool:
    """Tell whether two paths lead to one folder; False where one of them leads nowhere."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # of text that no file system has, as a configuration may
        return False


class RunPaths:
    """The names of one run."""

    def __init__(self, run_dir: str | Path) -> None:
        self.root = Path(run_dir)
        self.driver = self.root / "driver.json"
        self.workers = self.root / "workers.json"
        self.provenance = self.root / "provenance.json"
        self.history = self.root / "history.csv"
        self.models_table = self.root / "models.csv"
        self.units = self.root / "units.csv"
        self.report = self.root / "report.html"
        self.journal = self.root / "journal"
        self.logs = self.root / "logs"
        self.tensorboard = self.root / "tensorboard"
        self.models = self.root / "models"
        self.code = self.root / "code"
        self.probe = self.root / "probe"

    def create(self) -> None:
        """Make the folders below the run's own, which exists.

        Raises `UnsafePath` for one that is a link, and `OSError`.
        """
        for folder in (self.journal, self.logs, self.models, self.probe):
            make_folder(folder)

    def generation(self, number: int) -> Path:
        """A journal file."""
        return self.journal / f"{number:06d}.jsonl"

    def generations(self) -> list[int]:
        """The journal files that are there, ascending; none of other names than drivers give.

        Raises `StorageError`.
        """
        files = map(os.path.splitext, names_in(self.journal))
        return sorted(
            int(name)
            for name, ending in files
            if ending == ".jsonl" and re.fullmatch(GENERATION, name)
        )

    def version(self, model: int, version: int, generation: int, attempt: int) -> Path:
        """The folder of a version, a name that is used once."""
        return self.models / str(model) / f"v{version:06d}-g{generation}-a{attempt}"

    def code_file(self, digest: str) -> Path:
        """The file with the code that versions name by this digest."""
        return self.code / digest

    @classmethod
    def of_version(cls, checkpoint: str | Path) -> RunPaths:
        """The names of the run in whose folder a version lies."""
        return cls(Path(checkpoint).absolute().parents[3])

    def present(self, relative: str) -> str:
        """The absolute path, today, of what the journal names relative to the run's folder."""
        return str(self.root.absolute() / relative)

    def relative(self, checkpoint: str) -> str | None:
        """A version of this run relative to its folder; None for any other path."""
        found = relative_in_run(checkpoint)
        return found if found is not None and self.present(found) == checkpoint else None

    def unreferenced(self, kept: Iterable[str]) -> list[Path]:
        """Version folders, finished or temporary, other than those of the checkpoints in `kept`.

        They are told apart by their own names, which are used once in a run: the folder of the
        run may have been moved, or be reached by another path.
        """
        names = {Path(checkpoint).parts[-3:-1] for checkpoint in kept}
        found = []
        for folder in self.models.iterdir():
            if folder.name.isdigit() and folder.is_dir() and not folder.is_symlink():
                found += [p for p in folder.iterdir() if VERSION_NAME.fullmatch(p.name)]
        return [path for path in found if path.parts[-2:] not in names]

    def temporary(self) -> list[Path]:
        """Files that a driver was writing when it was killed."""
        found = [p for f in (self.root, self.journal) for p in f.glob(f"{TEMPORARY}*")]
        return [path for path in found if WRITTEN_ASIDE.fullmatch(path.name)]

    def scheduler_log(self) -> Path:
        """The original's log of launches and completions."""
        return self.logs / "scheduler.log"

    def workers_log(self) -> Path:
        """When workers came and went, and why."""
        return self.logs / "workers.log"

    def model_log(self, model: int) -> Path:
        """The original's log of one model."""
        return self.logs / f"{model}.log"
