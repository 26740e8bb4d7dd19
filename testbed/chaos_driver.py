"""The driver under chaos: a process of its own that begins or goes on with the search.

`python -m testbed.chaos_driver SETTINGS`, where SETTINGS is a file with the JSON of `Settings`. An
error of the library is printed as a line of JSON, `{"error": class, "message": text}`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import cerebro
from cerebro.errors import CerebroError, RunInterrupted
from testbed.chaos_search import CONFIGS, functions

Matrix = list[list[int]]


@dataclass(frozen=True)
class Settings:
    """What to run, and where."""

    workers: list[str]
    secret_file: str
    train: list[str]
    valid: list[str]
    train_availability: Matrix | None
    valid_availability: Matrix | None
    ckpt_root: str
    run_name: str
    backend: str
    seed: int
    heartbeat: float
    stop_file: str
    replay: str | None = None

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read them again."""
        return cls(**json.loads(path.read_text()))

    def save(self, path: Path) -> None:
        """Write them for a driver."""
        path.write_text(json.dumps(asdict(self)))


def main() -> int:
    """Drive the search to its end, or to the first error."""
    settings = Settings.load(Path(sys.argv[1]))
    fns = functions(settings.backend, settings.stop_file)
    try:
        cerebro.schedule(
            settings.workers,
            settings.train,
            settings.valid,
            settings.train_availability,
            settings.valid_availability,
            fns.input_fn,
            fns.model_fn,
            fns.train_fn,
            CONFIGS,
            fns.eval_fn,
            ckpt_root=settings.ckpt_root,
            backend=settings.backend,
            run_name=settings.run_name,
            resume="auto",
            seed=settings.seed,
            secret_file=settings.secret_file,
            heartbeat=settings.heartbeat,
            replay=settings.replay,
        )
    except (CerebroError, RunInterrupted) as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
