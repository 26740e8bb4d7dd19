"""What a driver asks before workers load pickles: whether strangers could have written them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cerebro.driver.versions import MAY_GO_ON
from cerebro.journal.entries import loaded
from cerebro.journal.ledger import Ledger, owner
from cerebro.journal.paths import RunPaths
from cerebro.results.plain_models import check_model_trusted
from cerebro.trust import check_not_planted, check_place, check_trusted

PICKLES = (
    "with backend 'python' checkpoints are pickles, so whoever writes there runs code on the "
    "workers: "
)
ANYWAY = "if you trust them all, pass trust_folder=True"


@dataclass(frozen=True)
class Trust:
    """Looks at folders unless the user trusts them `anyway`, and at more if it `loads_pickles`.

    Its methods raise `UntrustedFolder`, and `StorageError`.
    """

    loads_pickles: bool
    anyway: bool

    @property
    def needed(self) -> bool:
        """Whether pickles will be loaded, and the user has not said that they are trusted."""
        return self.loads_pickles and not self.anyway

    def check_root(self, root: Path) -> None:
        """Look at the folder in which a run's own folder is going to be made."""
        if self.needed:
            check_place(
                root,
                f"{PICKLES}choose another ckpt_root, or take that right away (chmod o-w, or o+t); "
                f"{ANYWAY}",
            )
        elif not self.anyway:
            check_not_planted(root, f"choose another ckpt_root; {ANYWAY}")

    def check_left(self, paths: RunPaths) -> None:
        """Look at a folder that a new run finds under its name, whatever the backend.

        Anybody may have made it, to lie in wait there.
        """
        if not self.anyway:
            check_trusted(
                paths.root,
                loaded(paths),
                "a run is started in a folder that is there already only if nobody else can have "
                f"put anything in it: choose another run_name, or remove the folder; {ANYWAY}",
            )

    def check_run(self, paths: RunPaths) -> None:
        """Look at a run that is resumed."""
        if self.needed:
            check_trusted(paths.root, loaded(paths), f"{PICKLES}the run is not resumed; {ANYWAY}")
        elif not self.anyway:
            check_not_planted(paths.root, f"the run is not resumed; {ANYWAY}")

    def check_checkpoint(self, checkpoint: str | None) -> None:
        """Look at what a model starts with that is no version of this run."""
        if self.needed and checkpoint is not None:
            check_model_trusted(checkpoint, f"{PICKLES}no model begins with it; {ANYWAY}")

    def check_beginnings(self, ledger: Ledger) -> None:
        """Look at what the models of a run have started with, which may be read again."""
        for model in ledger.models.values():
            if model.version <= 1 and model.state in MAY_GO_ON:
                self.check_beginning(model.start_checkpoint, ledger)

    def check_beginning(self, checkpoint: str | None, ledger: Ledger) -> None:
        """Look at what a model of a run starts with, unless that is a version of the run."""
        if self.needed and checkpoint is not None and owner(checkpoint, ledger) is None:
            self.check_checkpoint(checkpoint)
