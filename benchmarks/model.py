"""How fast the example's model trains on one core.

    python benchmarks/model.py
    python benchmarks/model.py --quick

The CNN-BiLSTM of the example, batches of 16 BiLSTM windows of 42 ten-second windows, float32,
with Adam: as the example builds it (*ours*), with TensorFlow's own convolution and LSTM in their
places (*plain*), the same without oneDNN's operations (*basic*: TF_ENABLE_ONEDNN_OPTS=0, which is
all that some builds and processors have), and the same model in PyTorch (*torch*, left out with a
sentence where that is not installed). Each has a process of its own, one thread, all on one core;
they take turns, a pass each, and medians count. In ten-second windows a second of processor time,
which on one core is the time by the clock, but for what other work on the core takes.

The exit status is 1 if one of these ratios is below what is promised (`PROMISED`). `--quick` takes
fewer passes, and leaves amp_factor 4 out.

Three times the plain graph at amp_factor 2 is promised only by *basic*. Where oneDNN makes the
plain graph that is out of reach: a step needs 0.23 GFLOP a window by the definition of the layers,
a core of the machine of `docs/performance.md` makes 110 GFLOP a second in products of matrices,
and plain reaches three quarters of that.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from testbed.model_contender import BATCH, LENGTH
from testbed.requirements import cores, memory, packages, require

BATCHES = {1: 4, 2: 2, 4: 1}
"""Steps in a pass, by amp_factor."""
PROMISED = {
    1: {"plain": 1.35, "torch": 1.3},
    2: {"plain": 1.4, "basic": 3.0, "torch": 1.3},
    4: {"plain": 1.6, "torch": 1.5},
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parse.add_argument("--quick", action="store_true", help="fewer passes, without amp_factor 4")
    return parse


@contextlib.contextmanager
def contender(kind: str, amp_factor: int) -> Iterator[subprocess.Popen[str]]:
    """A contender that is warm, on this process's core; ended with the block."""
    command = [sys.executable, "-m", "testbed.model_contender"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    if kind == "basic":
        environment["TF_ENABLE_ONEDNN_OPTS"] = "0"
    with subprocess.Popen(
        [*command, kind, str(amp_factor), str(BATCHES[amp_factor])],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            answer(process, "warm")
            yield process
        finally:
            process.kill()


def answer(process: subprocess.Popen[str], wanted: str = "") -> str:
    """The next line that a contender prints. `RuntimeError` if it has ended instead."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line or (wanted and line != wanted):
        raise RuntimeError(f"{process.args!r} ended or said {line!r}")
    return line


def throughput(kinds: list[str], amp_factor: int, passes: int) -> dict[str, float]:
    """Ten-second windows a second of each kind: the median over passes that take turns."""
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    with contextlib.ExitStack() as stack:
        processes = {kind: stack.enter_context(contender(kind, amp_factor)) for kind in kinds}
        for _ in range(passes):
            for kind, process in processes.items():
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
                seconds[kind].append(float(answer(process)))
    windows = BATCHES[amp_factor] * BATCH * LENGTH
    return {kind: windows / statistics.median(taken) for kind, taken in seconds.items()}


def main() -> int:
    """Run the contest; returns the exit status."""
    arguments = parser().parse_args()
    require(cores(1), memory(6.0), packages("tensorflow", "h5py"))
    kinds = ["ours", "plain", "basic"]
    missing = packages("torch")
    if missing:
        print(f"torch is left out: {missing}")
    else:
        kinds.append("torch")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    heads = "".join(f"{'ours / ' + kind:>15}" for kind in kinds[1:])
    print(f"{'amp_factor':<12}{''.join(f'{kind:>10}' for kind in kinds)}{heads}")
    kept = True
    for amp_factor in (1, 2) if arguments.quick else (1, 2, 4):
        found = throughput(kinds, amp_factor, 5 if arguments.quick else 11)
        ratios = {kind: found["ours"] / found[kind] for kind in kinds[1:]}
        holds = all(
            ratios[kind] >= least
            for kind, least in PROMISED.get(amp_factor, {}).items()
            if kind in ratios
        )
        print(
            f"{amp_factor:<12}{''.join(f'{found[kind]:>10.0f}' for kind in kinds)}"
            f"{''.join(f'{ratio:>15.2f}' for ratio in ratios.values())}"
            f"{'' if holds else '  <- not what is promised'}",
            flush=True,
        )
        kept = kept and holds
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
