"""One contender of `benchmarks/model.py`, in a process of its own: `KIND AMP_FACTOR PASSES`.

Prints a line when it is warm, and after that, for every line that it is given, the seconds of
processor time that one pass over its data took. The end of its input ends it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH, LENGTH = 16, 42
SAMPLES, AXES = 100, 3
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def config(amp_factor: int) -> dict[str, Any]:
    """The example's configuration, with BiLSTM windows of 7 minutes."""
    return {
        "learning_rate": 1e-3,
        "reg_param": 1e-3,
        "amp_factor": amp_factor,
        "win_size_mins": LENGTH // 6,
        "batch_size": BATCH,
    }


def data(batches: int) -> dict[str, Any]:
    """What the example's `input_fn` returns: one segment of so many batches."""
    rng = np.random.default_rng(0)
    count = batches * BATCH * LENGTH
    return {
        "acceleration": rng.normal(size=(count, SAMPLES, AXES)).astype(np.float32),
        "labels": rng.integers(0, 2, count).astype(np.float32),
        "offsets": np.array([0, count]),
        "shuffle_seed": 0,
        "path": "made up",
    }


def tensorflow_pass(amp_factor: int, batches: int, *, plain: bool) -> Callable[[], None]:
    """A pass of the example's own `train_fn` over its graph, in a session as an executor has it."""
    sys.path.insert(0, str(EXAMPLES))
    import behavior_classification as example

    from cerebro.backends.base import Options
    from cerebro.backends.tf import TensorFlowHandler, graphs, runtime, sessions
    from testbed import plain_layers

    options = Options(threads=1)
    TensorFlowHandler.prepare_process(options)
    if plain:
        for name in ("strided_convolutions", "bidirectional_lstm"):
            setattr(example, name, getattr(plain_layers, name))
    unit = graphs.build(example.model_fn, data(batches), config(amp_factor), train=True, seed=1)
    session = sessions.UnitSession(graph=unit.graph, config=runtime.session_config(options))
    sessions.initialise(session, unit, list(unit.variables))

    def run() -> None:
        sessions.prepare(session, unit)
        with unit.graph.as_default(), session.as_default():
            example.train_fn(session, unit.train_step, unit.loss, unit.error)

    return run


def torch_pass(amp_factor: int, batches: int) -> Callable[[], None]:
    """The same model, loss and optimizer in PyTorch, with data ready in memory."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(1)
    widths = [1, *(width * amp_factor for width in (32, 64, 128, 256, 256))]
    layers: list[Any] = []
    for number in range(5):
        kernel, padding = ((5, 3), (2, 1)) if number == 0 else ((5, 1), (2, 0))
        layers += [
            torch.nn.Conv2d(widths[number], widths[number + 1], kernel, (2, 1), padding),
            torch.nn.ReLU(),
        ]
    cnn = torch.nn.Sequential(
        *layers, torch.nn.Flatten(), torch.nn.Linear(4 * 3 * widths[-1], widths[-1])
    )
    lstm = torch.nn.LSTM(widths[-1], 128, bidirectional=True, batch_first=True)
    dense = torch.nn.Linear(256, 1)
    weights = [*cnn.parameters(), *lstm.parameters(), *dense.parameters()]
    optimizer = torch.optim.Adam(weights, lr=1e-3)
    made = data(batches)
    shape = (batches, BATCH * LENGTH, 1, SAMPLES, AXES)
    images = torch.from_numpy(made["acceleration"]).reshape(shape)
    labels = torch.from_numpy(made["labels"]).reshape(batches, BATCH, LENGTH)

    def run() -> None:
        for batch, label in zip(images, labels, strict=True):
            optimizer.zero_grad()
            logits = dense(lstm(cnn(batch).reshape(BATCH, LENGTH, -1))[0])[..., 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, label, reduction="sum"
            )
            penalty = sum((weight**2).sum() for weight in weights) / 2
            (loss + 1e-3 * penalty).backward()
            optimizer.step()

    return run


def main() -> None:
    """Serve passes until the input ends."""
    kind, amp_factor, batches = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if kind == "torch":
        run = torch_pass(amp_factor, batches)
    else:
        run = tensorflow_pass(amp_factor, batches, plain=kind != "ours")
    run()
    print("warm", flush=True)
    for _ in sys.stdin:
        begun = time.process_time()
        run()
        print(time.process_time() - begun, flush=True)


if __name__ == "__main__":
    main()
