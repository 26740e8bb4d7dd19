"""A small made-up data set in the layout of DeepPostures' pre-processed data.

It lets `behavior_classification.py` run before you have data of your own. Nobody wore these
devices: the signals are drawn at random, yet follow what a hip-worn accelerometer measures.

- Sitting: the pelvis is tilted back, so gravity (1 g) leans towards the device's forward axis; it
  drifts slowly, there is little noise, and now and then the person fidgets.
- Not sitting: the body is upright. Some bouts are standing still, with gravity along the vertical
  axis and some sway; in others the person walks, which adds steps near 2 Hz with their harmonics
  and a side-to-side swing at half that rate.

Tilts vary from person to person and from bout to bout, and overlap: no threshold on one axis
separates the classes. Here and there a change of label comes one window late. A day has stretches
of sleep, of non-wear, without a label, and one in which nothing was recorded; a date is missing.
"""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone

import h5py
import numpy as np

SUBJECTS = ("S01", "S02", "S03", "S04", "S05", "S06", "S07", "S08")
DAYS = ("2024-03-04", "2024-03-05", "2024-03-07")
RATE = 10  # samples a second
SAMPLES = 100  # samples a ten-second window
SITTING, NOT_SITTING, UNKNOWN = 0, 1, -1

# A day's stretches, with the fewest and the most ten-second windows in each. During the gap the
# device is switched off: the times jump, and nothing is recorded.
DAY = (
    ("sleep", 6, 12),
    ("awake", 128, 136),
    ("non_wear", 4, 8),
    ("gap", 60, 120),
    ("non_wear", 4, 8),
    ("awake", 12, 24),
    ("unlabelled", 3, 6),
)


@dataclass(frozen=True)
class Person:
    """What distinguishes one subject's signal; angles in degrees."""

    sitting_tilt: float
    standing_tilt: float
    mounting: float
    cadence: float  # steps a second
    step: float  # amplitude of a step, g
    sway: float  # standard deviation while standing still, g


def write_sample(root: str | os.PathLike[str], seed: int = 2019) -> bool:
    """Write the sample as `<root>/<subject>/<YYYY-MM-DD>.h5`, unless `root` exists.

    Each file has the datasets `time` (n,), `data` (n, 100, 3), `sleeping`, `non_wear` and
    `label` (n,). Everything is written beside `root` and then renamed, so that a `root` that
    exists is complete. Returns whether it was written now. Raises `FileExistsError` if `root`
    lacks a file.
    """
    root = os.path.abspath(root)
    if os.path.lexists(root):
        _check_complete(root)
        return False
    parent, name = os.path.split(root)
    os.makedirs(parent, exist_ok=True)
    temporary = os.path.join(parent, f".{name}-{uuid.uuid4().hex}")
    os.mkdir(temporary)
    try:
        for number, subject in enumerate(SUBJECTS):
            rng = np.random.default_rng([seed, number])
            os.mkdir(os.path.join(temporary, subject))
            person = _person(rng)
            for day in DAYS:
                _write_day(os.path.join(temporary, subject, f"{day}.h5"), day, person, rng)
        try:
            os.rename(temporary, root)
        except OSError:
            if not os.path.isdir(root):
                raise
            _check_complete(root)  # another process has just written the same
            return False
        return True
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_complete(root: str) -> None:
    for subject in SUBJECTS:
        for day in DAYS:
            path = os.path.join(root, subject, f"{day}.h5")
            if not os.path.isfile(path):
                raise FileExistsError(
                    f"the sample in {root} lacks {path}; move {root} away to have it made again"
                )


def _person(rng: np.random.Generator) -> Person:
    return Person(
        sitting_tilt=rng.normal(27, 4),
        standing_tilt=rng.normal(8, 3),
        mounting=rng.normal(0, 6),
        cadence=rng.normal(1.9, 0.12),
        step=rng.uniform(0.12, 0.3),
        sway=rng.uniform(0.012, 0.03),
    )


def _write_day(path: str, day: str, person: Person, rng: np.random.Generator) -> None:
    parts: list[dict[str, np.ndarray]] = []
    start = datetime.fromisoformat(day).replace(hour=6, tzinfo=timezone.utc).timestamp()
    for kind, shortest, longest in DAY:
        windows = int(rng.integers(shortest, longest + 1))
        if kind != "gap":
            parts.append(_stretch(kind, windows, start, person, rng))
        start += windows * SAMPLES / RATE
    with h5py.File(path, "w") as file:
        for name in parts[0]:
            file.create_dataset(name, data=np.concatenate([part[name] for part in parts]))


def _stretch(
    kind: str, windows: int, start: float, person: Person, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Consecutive windows of one kind, starting at Unix time `start`."""
    if kind == "sleep":
        signal, labels = _lying(windows, rng), np.full(windows, SITTING)
    elif kind == "non_wear":
        signal, labels = _on_a_table(windows, rng), np.full(windows, UNKNOWN)
    else:
        signal, labels = _awake(windows, person, rng)
        if kind == "unlabelled":
            labels = np.full(windows, UNKNOWN)
    return {
        "time": start + np.arange(windows) * (SAMPLES / RATE),
        "data": signal.reshape(windows, SAMPLES, 3).astype(np.float32),
        "sleeping": np.full(windows, kind == "sleep", dtype=np.int64),
        "non_wear": np.full(windows, kind == "non_wear", dtype=np.int64),
        "label": labels.astype(np.int64),
    }


def _awake(windows: int, person: Person, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Bouts of sitting and not sitting in turn: samples (windows * 100, 3) and labels."""
    signals: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    label = SITTING if rng.random() < 0.6 else NOT_SITTING
    left = windows
    while left:
        longest = 24 if label == SITTING else 16
        bout = min(left, int(rng.integers(longest // 3, longest + 1)))
        if label == SITTING:
            signals.append(_sitting(bout, person, rng))
        else:
            signals.append(_upright(bout, person, rng))
        labels.append(np.full(bout, label))
        label = NOT_SITTING if label == SITTING else SITTING
        left -= bout
    return np.concatenate(signals), _late_labels(np.concatenate(labels), rng)


def _late_labels(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Let a third of the changes of label come one window late."""
    late = labels.copy()
    changes = np.flatnonzero(np.diff(labels)) + 1
    changes = changes[rng.random(len(changes)) < 1 / 3]
    late[changes] = labels[changes - 1]
    return late


def _gravity(tilt: np.ndarray, roll: float) -> np.ndarray:
    """Unit vectors (n, 3) on the vertical, sideways and forward axes; angles in degrees."""
    tilt, roll = np.radians(tilt), np.radians(roll)
    return np.stack(
        [np.cos(tilt) * np.cos(roll), np.full_like(tilt, np.sin(roll)), np.sin(tilt)], axis=1
    )


def _drift(samples: int, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """A slow change of angle of about `degrees` over a few minutes, as a random walk."""
    steps = rng.normal(0, degrees / np.sqrt(3 * 60 * RATE), samples)
    return np.cumsum(steps)


def _noise(samples: int, deviation: float, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, deviation, (samples, 3))


def _sitting(windows: int, person: Person, rng: np.random.Generator) -> np.ndarray:
    samples = windows * SAMPLES
    tilt = rng.normal(person.sitting_tilt, 6) + _drift(samples, 4, rng)
    signal = _gravity(tilt, rng.normal(person.mounting, 4)) + _noise(samples, 0.012, rng)
    # Fidgeting: a few seconds of movement in every tenth window.
    moving = np.repeat(rng.random(windows * 5) < 0.03, SAMPLES // 5)
    return signal + moving[:, None] * _noise(samples, 0.08, rng)


def _upright(windows: int, person: Person, rng: np.random.Generator) -> np.ndarray:
    samples = windows * SAMPLES
    tilt = rng.normal(person.standing_tilt, 6) + _drift(samples, 2, rng)
    signal = _gravity(tilt, rng.normal(person.mounting, 4)) + _noise(samples, person.sway, rng)
    # Walking and standing still alternate in stretches of half a minute on average.
    walking = np.repeat(_alternation(windows, 1 / 3, rng), SAMPLES)
    phase = 2 * np.pi * np.cumsum(rng.normal(person.cadence, 0.1, samples)) / RATE
    steps = person.step * np.stack(
        [
            np.sin(phase) + 0.4 * np.sin(2 * phase + 0.7),
            0.5 * np.sin(phase / 2),
            0.6 * np.sin(phase + 1.1) + 0.2 * np.sin(2 * phase),
        ],
        axis=1,
    )
    return signal + walking[:, None] * (steps + _noise(samples, 0.05, rng))


def _alternation(length: int, change: float, rng: np.random.Generator) -> np.ndarray:
    """A random sequence of True and False that changes with probability `change` a step."""
    changes = rng.random(length) < change
    return (np.cumsum(changes) + rng.integers(2)) % 2 == 1


def _lying(windows: int, rng: np.random.Generator) -> np.ndarray:
    samples = windows * SAMPLES
    return _gravity(80 + _drift(samples, 1, rng), 0.0) + _noise(samples, 0.006, rng)


def _on_a_table(windows: int, rng: np.random.Generator) -> np.ndarray:
    samples = windows * SAMPLES
    return _gravity(np.full(samples, 90.0), 0.0) + _noise(samples, 0.003, rng)
