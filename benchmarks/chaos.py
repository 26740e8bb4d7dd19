"""Chaos: a search under hundreds of faults, and the proof that they changed nothing.

    python benchmarks/chaos.py --seed 1 --faults 300 --backend python
    python benchmarks/chaos.py --seed 1 --faults 30 --backend tf
    python benchmarks/chaos.py --seed 1 --faults 20 --backend keras

A driver process trains six models on three workers while, at random times, executors, workers and
the driver are killed, crashed, stopped, ended and started again, links are cut, ports become black
holes or refuse, packets are lost, and storage gets full or read-only; everything is healed after a
while. Between two drivers the run's folder is renamed, or a copy of it goes on and the original has
to stay as it is. Some partitions can be read by two workers, some by one, those for validation by
all (`--availability` chooses otherwise). The workers stand in network namespaces, and storage is a
file system of its own, where that can be had (Linux, root); else on loopback, with fewer kinds of
faults, which the table says.

Then the journal is counted: every (model, epoch, split, partition) must be committed exactly once.
And everything is trained again along the same orders of visits: by a replay of the run on workers
that nothing disturbs, and without workers, one unit after another in one process. All metrics and
the last weights must be the same in all three, bit for bit. Nothing may be left: no process, no
version that is not needed. The exit status is 1 if anything is not as it must be; logs and journal
are then kept in a folder that the table names.

The seed determines which faults there are, where, and how long they last; when they meet what the
processes are doing is up to the machine.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cerebro
from testbed import chaos_checks, requirements
from testbed.chaos_bed import AVAILABILITIES, TEMPOS, WORKERS, Bed
from testbed.chaos_faults import Scene, kinds
from testbed.chaos_storm import Storm, seeded
from testbed.supervised_driver import SupervisedDriver

END_SECONDS = 180.0
"""How long the run may take from the healing of the last fault to its end."""

INTERRUPTED = 130
"""The exit status after Ctrl-C or SIGTERM."""

Say = Callable[[str], None]


@dataclass
class Report:
    """What there is to say at the end; `wrong` is empty if all is as promised."""

    rows: list[tuple[str, object]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, name: str, value: object) -> None:
        """A row of the table."""
        self.rows.append((name, value))

    def show(self) -> None:
        """Print the table."""
        width = max(len(name) for name, _ in self.rows)
        for name, value in self.rows:
            print(f"{name:<{width}}  {value}")
        for line in self.wrong[:50]:
            print(f"WRONG: {line}")


def main() -> int:
    """The command."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parse.add_argument("--seed", type=int, default=1)
    parse.add_argument("--faults", type=int, default=300)
    parse.add_argument("--backend", choices=sorted(TEMPOS), default="python")
    parse.add_argument("--availability", choices=sorted(AVAILABILITIES), default="mixed")
    arguments = parse.parse_args()
    with_tf = arguments.backend != "python"
    requirements.require(
        requirements.linux(),
        requirements.packages("tensorflow") if with_tf else "",
        requirements.memory(5.0 if with_tf else 1.0),
        requirements.disk(1.0),
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:5.0f} s] {text}", flush=True)

    report = Report()
    try:
        with Bed(arguments.backend, arguments.availability, arguments.seed) as bed:
            if rage(bed, arguments.seed, arguments.faults, report, say):
                examine(bed, report, say)
            if report.wrong:
                report.add("evidence", keep_evidence(bed))
    except KeyboardInterrupt:
        say("interrupted; processes, network and storage are taken away again")
        return INTERRUPTED
    report.add("wall time", f"{time.monotonic() - begun:.0f} s")
    report.show()
    return 1 if report.wrong else 0


def rage(bed: Bed, seed: int, faults: int, report: Report, say: Say) -> bool:
    """Run the search under faults, to its end. False if it did not come to that."""
    command = ["-m", "testbed.chaos_driver", str(bed.settings_file)]
    log = bed.folder / "driver.log"
    commits = chaos_checks.Commits(lambda: bed.run_dir)
    with SupervisedDriver(command, Path(__file__).parent, log) as driver:
        scene = Scene(
            workers=bed.workers,
            hosts=bed.hosts,
            driver=driver,
            folder=bed.run_folder,
            disk=bed.disk,
            ckpt_root=bed.ckpt_root,
            heartbeat=bed.tempo.heartbeat,
            random=seeded(seed),
        )
        possible, left_out = kinds(scene)
        where = "network namespaces" if bed.hosts else "loopback"
        say(f"{WORKERS} workers on {where}, {len(possible)} kinds of faults")
        storm = Storm(
            scene,
            possible,
            faults,
            bed.tempo.pause,
            lambda text: say(f"{text}, {commits.look()} units, {driver.starts} drivers"),
        )
        try:
            storm.blow()
            early = driver.over.is_set()
            say("all faults are healed; the run may end")
            bed.stop_file.touch()
            driver.over.wait(END_SECONDS)
        finally:
            storm.calm()
    report.add("faults", storm.struck.total())
    for kind in possible:
        report.add(f"  {kind.name}", storm.struck[kind.name])
    for name, reason in left_out.items():
        report.add(f"  {name}", f"left out: {reason}")
    report.add("drivers", in_words(driver.exits))
    if driver.stop_seconds:
        report.add("  slowest end after SIGTERM", f"{max(driver.stop_seconds):.1f} s")
    report.add(
        "run's folder",
        f"renamed {bed.run_folder.renamed} times, a copy went on {bed.run_folder.copied} times",
    )
    report.add("workers started", sum(worker.starts for worker in bed.workers))
    report.wrong += [*scene.troubles, *driver.unexpected]
    if early:
        report.wrong.append("the run, or its driver, ended before the faults did")
    if not driver.ended:
        report.wrong.append(f"the run did not end within {END_SECONDS:.0f} s of the last fault")
    return driver.ended


def examine(bed: Bed, report: Report, say: Say) -> None:
    """Compare what the run has become with what it must be."""
    report.wrong += [*bed.idle(), *bed.leave(), *bed.run_folder.lost()]
    result = cerebro.load(bed.run_dir)
    units = chaos_checks.check_units(result)
    report.add("workers, by the journal", in_words(chaos_checks.worker_states(result)))
    report.add("attempts", in_words(chaos_checks.outcomes(result)))
    report.add("epochs", f"{result.models['epochs'].max()} of {len(result.models)} models")
    report.add("units committed", units.committed)
    report.add("units lost", len(units.lost))
    report.add("units committed twice", len(units.twice))
    report.wrong += [f"lost: {unit}" for unit in units.lost]
    report.wrong += [f"committed twice: {unit}" for unit in units.twice]
    report.wrong += chaos_checks.check_end(result)
    try:
        say(f"{units.committed} units are committed; now a replay of the run, undisturbed")
        replayed = chaos_checks.replay(bed.settings_file, bed.run_dir)
        say("now the same models without workers, one unit after another")
        runs = {"the run": bed.run_dir, "its replay": replayed}
        found = chaos_checks.check_weights(
            bed.settings_file, list(runs.values()), bed.reproducible()
        )
    except chaos_checks.NotDone as error:
        report.wrong.append(str(error))
        return
    for name, different in zip(runs, found, strict=True):
        report.add(
            f"weights and metrics of {name}", "different" if different else "identical, bit for bit"
        )
        report.wrong += [f"{name}: {text}" for text in different]


def in_words(counts: Mapping[str, int]) -> str:
    """Counts, the highest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in ordered) or "none"


def keep_evidence(bed: Bed) -> Path:
    """Copy logs and journal to a folder that stays."""
    kept = Path(tempfile.mkdtemp(prefix="cerebro-chaos-evidence-"))
    shutil.copytree(bed.folder, kept, dirs_exist_ok=True)
    return kept


if __name__ == "__main__":
    sys.exit(main())
