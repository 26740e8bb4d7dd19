"""Who sits when? The example's model, applied to pre-processed data.

    python predict.py MODEL DATA [DATA ...] --out DIR

MODEL is a folder that `result.export()` made, a run's folder, whose best model is taken, or a
folder of runs, of which the latest is taken. DATA are subjects' folders, or folders of such. For
each subject `<DIR>/<subject>.csv` is written with a row for each ten-second window in which the
subject was awake and wore the device:

- `segment`: counts, from 0, stretches without sleep, non-wear or a gap;
- `timestamp`: the window's start, in this machine's time zone (set TZ for another one);
- `label`: `sitting`, `not-sitting` or `no-label`, if all of the subject's files have labels;
- `prediction`: `sitting` or `not-sitting`.

The model reads so many windows at a time as it was trained with. `--padding` says what becomes of
the rest of a segment that is shorter than that: `drop` leaves it out, `zero` fills it up with
windows of zeros, and `wrap` has the model read the windows before it once more; what is still
missing, in a segment that is shorter as a whole, is the segment again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow.compat.v1 as tf
from behavior_classification import AXES, SAMPLES, cnn_bilstm, latest_runs
from csv_files import check_new, write_new
from recordings import Recording, read_recording, subject_folders

import cerebro
from cerebro.errors import CerebroError, NotARun

PADDINGS = ("drop", "zero", "wrap")
NAMES = {0: "sitting", 1: "not-sitting", -1: "no-label"}
WINDOWS_AT_ONCE = 1024  # bounds the memory that a step takes
ZEROS = -1  # stands for a window of zeros


class Classifier:
    """The example's model, with the weights of a checkpoint.

    `config` holds `win_size_mins` and `amp_factor`; the model reads `length` windows at a time.
    Raises `ValueError` if the checkpoint does not fit.
    """

    def __init__(self, config: dict[str, Any], checkpoint: str) -> None:
        missing = {"win_size_mins", "amp_factor"}.difference(config)
        if missing:
            raise ValueError(
                f"{checkpoint} is not a model of behavior_classification.py: its configuration "
                f"{config} lacks {', '.join(sorted(missing))}"
            )
        self.length = round(config["win_size_mins"] * 6)
        with tf.Graph().as_default() as graph:
            self._windows = tf.placeholder(tf.float32, [None, self.length, SAMPLES, AXES])
            self._logits = cnn_bilstm(self._windows, self.length, config["amp_factor"])
            _check_variables(checkpoint, config)
            self._session = tf.Session(graph=graph)
            tf.train.Saver().restore(self._session, checkpoint)

    def not_sitting(self, windows: np.ndarray) -> np.ndarray:
        """bool (batch, length) of acceleration (batch, length, 100, 3)."""
        logits = self._session.run(self._logits, {self._windows: windows})
        return logits > 0  # where the sigmoid is above one half


def _check_variables(checkpoint: str, config: dict[str, Any]) -> None:
    """`ValueError` if a checkpoint lacks one of the graph's variables, or has another in its place.

    A saver does not look at shapes.
    """
    try:
        shapes = tf.train.load_checkpoint(checkpoint).get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError) as error:
        raise ValueError(
            f"{checkpoint} cannot be read as a TensorFlow checkpoint: {str(error).splitlines()[0]}"
        ) from error
    for variable in tf.global_variables():
        name, shape = variable.op.name, variable.shape.as_list()
        if shapes.get(name) != shape:
            raise ValueError(
                f"{checkpoint} is not a model of behavior_classification.py with the configuration "
                f"{config}: {name} should have the shape {shape}, and has {shapes.get(name)}"
            )


def load_model(path: str) -> Classifier:
    """The model in an exported folder, or the best one of a run, or of the latest run in a folder.

    Raises `NotARun` for a folder that is none of these.
    """
    description = Path(path, "export.json")
    if description.is_file():
        content = json.loads(description.read_text(encoding="utf-8"))
        name = os.path.basename(content["checkpoint"])  # in this folder, whatever it says
        return Classifier(content["config"], os.path.abspath(Path(path, name)))
    if Path(path, "journal").is_dir():
        result = cerebro.load(path)
    else:
        run, result = next(latest_runs(path), (None, None))
        if run is None:
            raise NotARun(f"{path} holds no run in which a model was trained, and no model")
        print(f"The model is the best of {run}, the latest run there.", file=sys.stderr)
    best = result.best()
    assert best.checkpoint is not None
    return Classifier(best.config, best.checkpoint)


def sequences(start: int, end: int, length: int, padding: str) -> tuple[np.ndarray, np.ndarray]:
    """What the model reads of the segment of windows `start` to `end`.

    Returns the windows, int (sequences, length), ZEROS for zeros; and, bool of the same shape,
    whose prediction counts: each window's does once.
    """
    whole, rest = divmod(end - start, length)
    windows = start + np.arange(whole * length).reshape(whole, length)
    counts = np.ones_like(windows, dtype=bool)
    if rest and padding != "drop":
        places = np.arange(length)
        if padding == "zero":
            last = np.where(places < rest, end - rest + places, ZEROS)
            own = places < rest
        else:
            # The last `length` windows; those before the segment's begin are taken from its end.
            last = start + (end - start - length + places) % (end - start)
            own = places >= length - rest
        windows, counts = np.vstack([windows, last]), np.vstack([counts, own])
    return windows, counts


def read_sequence(recording: Recording, windows: np.ndarray) -> np.ndarray:
    """float32 (length, 100, 3): the acceleration of windows of one segment."""
    real = windows != ZEROS
    first = windows[real].min()
    acceleration = np.zeros((len(windows), SAMPLES, AXES), np.float32)
    acceleration[real] = recording.acceleration(first, windows.max() + 1)[windows[real] - first]
    return acceleration


def batches(windows: np.ndarray, length: int) -> Iterator[slice]:
    """The sequences of each step."""
    size = max(1, WINDOWS_AT_ONCE // length)
    for first in range(0, len(windows), size):
        yield slice(first, first + size)


def predict(recording: Recording, classifier: Classifier, padding: str) -> pd.DataFrame:
    """The table for one subject; empty if there is nothing to predict."""
    starts, ends = recording.segments()
    length = classifier.length
    cut = [sequences(*ends_of, length, padding) for ends_of in zip(starts, ends, strict=True)]
    none = np.empty((0, length), int)
    windows = np.vstack([none, *(w for w, _ in cut)])
    counts = np.vstack([none.astype(bool), *(c for _, c in cut)])
    predictions = np.zeros(windows.shape, int)
    for batch in batches(windows, length):
        step = np.stack([read_sequence(recording, sequence) for sequence in windows[batch]])
        predictions[batch] = classifier.not_sitting(step)
    rows = windows[counts]
    table = pd.DataFrame(
        {
            "segment": np.searchsorted(starts, rows, side="right") - 1,
            "timestamp": [_moment(seconds) for seconds in recording.time[rows]],
            "prediction": [NAMES[value] for value in predictions[counts]],
        }
    )
    if recording.label is not None:
        table.insert(2, "label", [NAMES[value] for value in recording.label[rows]])
    return table


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(round(seconds)).strftime("%Y-%m-%d %H:%M:%S")


def main() -> None:
    options = parse_options()
    folders = subject_folders(options.data)
    targets = [options.out / f"{folder.resolve().name}.csv" for folder in folders]
    check_new(targets)
    classifier = load_model(options.model)
    for number, (folder, target) in enumerate(zip(folders, targets, strict=True), 1):
        began = time.monotonic()
        try:
            table = predict(read_recording(folder), classifier, options.padding)
        except ValueError as error:
            if not options.skip_unusable:
                raise
            print(f"left out: {error}", file=sys.stderr)
            continue
        write_new(table, target)
        seconds = time.monotonic() - began
        print(f"{number}/{len(folders)} {target}: {len(table)} windows, {seconds:.1f} s")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Apply the example's model to pre-processed data.")
    parser.add_argument(
        "model", help="a folder that result.export() made, a run's folder, or one of runs"
    )
    parser.add_argument("data", nargs="+", help="subjects' folders, or folders of such")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where the CSV files are written"
    )
    parser.add_argument(
        "--padding",
        choices=PADDINGS,
        default="drop",
        help="what becomes of a segment's rest that is too short for the model "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--skip-unusable",
        action="store_true",
        help="leave out subjects with a damaged file, with a warning",
    )
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except (CerebroError, ValueError, OSError) as error:
        sys.exit(str(error))
