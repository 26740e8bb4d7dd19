"""A probe from somebody else: its checksum is right, and nothing else need be."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest

from cerebro.backends import probe
from cerebro.backends.checksum import write_with_checksum
from cerebro.backends.probe import Probe, Sample, Step, read_probe, write_probe
from cerebro.errors import VersionRefused

VALUES = np.arange(8, dtype=np.float64).tobytes()
ARRAY = {"shape": [2], "type": "float64", "at": 0}
GOOD = {
    "id": "a",
    "seed": 1,
    "places": ["here"],
    "tolerance": 1e-4,
    "inputs": {"dict": [[-1, ARRAY]]},
    "outputs": [[[2], False, ARRAY]],
    "steps": [["layer", [[[2], False, ARRAY]]]],
}


def written(folder, head, values=VALUES):
    path = folder / probe.FILE
    path.unlink(missing_ok=True)
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    write_with_checksum(str(path), struct.pack(">Q", len(text)) + text + values)
    return str(folder / "model.weights.h5")


def test_what_a_probe_holds_is_read(tmp_path):
    found = read_probe(written(tmp_path, GOOD))
    assert found.inputs[-1].tolist() == [0.0, 1.0]
    assert found.steps[0].samples[0].values.tolist() == [0.0, 1.0]


ODD_ARRAYS = [
    {"shape": [9], "type": "float64", "at": 0},
    {"shape": [1], "type": "float64", "at": 60},
    {"shape": [2**40, 2**40], "type": "float64", "at": 0},
    {"shape": [-1], "type": "float64", "at": 0},
    {"shape": [1], "type": "float64", "at": -8},
    {"shape": [1] * 65, "type": "float64", "at": 0},
    {"shape": ["1"], "type": "float64", "at": 0},
    {"shape": [0, 2**70], "type": "float64", "at": 0},
    {"shape": [1], "type": "O", "at": 0},
    {"shape": [1], "type": "object", "at": 0},
    {"shape": [1], "type": "finfo", "at": 0},
    {"shape": [1], "type": "f8,f8", "at": 0},
    {"shape": [1], "type": None, "at": 0},
    {"shape": [1], "lengths": [65], "at": 0},
    {"shape": [1], "lengths": [-1], "at": 8},
    {"shape": [2**40], "lengths": [1], "at": 0},
    {"shape": [1]},
    3,
]


def odd_heads():
    for array in ODD_ARRAYS:
        yield {**GOOD, "inputs": array}
        yield {**GOOD, "outputs": [[[1], False, array]]}
    yield {**GOOD, "outputs": [[[1], False, {"dict": []}]]}
    yield {**GOOD, "outputs": [[[1], True, {"shape": [1], "lengths": [1], "at": 0}]]}
    yield {**GOOD, "steps": [["a"]]}
    yield {**GOOD, "inputs": {"dict": [[[], ARRAY]]}}
    for name, values in {
        "seed": [-1, 2**32, "1", None],
        "places": [[], "here", [1], None],
        "tolerance": [1e9, -1, "1", float("nan"), None],
    }.items():
        for value in values:
            yield {**GOOD, name: value}
    for name in GOOD:
        yield {key: value for key, value in GOOD.items() if key != name}
    yield b"["
    yield b"[" * 100_000
    yield b'{"inputs":' * 100_000
    yield []


def test_what_no_probe_holds_is_refused(tmp_path):
    for head in odd_heads():
        with pytest.raises(VersionRefused, match=r"probe\.bin is not what"):
            read_probe(written(tmp_path, head))
    path = written(tmp_path, GOOD)
    os.unlink(tmp_path / probe.FILE)
    write_with_checksum(str(tmp_path / probe.FILE), struct.pack(">Q", 2**63))
    with pytest.raises(VersionRefused, match="longer than the file"):
        read_probe(path)


def test_a_probe_is_a_file_of_a_size_that_probes_have(tmp_path, monkeypatch):
    path = written(tmp_path, GOOD)
    monkeypatch.setattr(probe, "FILE_BYTES", 100)
    with pytest.raises(VersionRefused, match="no more than"):
        read_probe(path)
    os.unlink(tmp_path / probe.FILE)
    row = Sample((9,), False, np.zeros(9))
    write_probe(Probe(1, ["here"], 0.0, {}, [row], [Step("a", [])]), str(tmp_path))
    assert read_probe(path) is None
    os.mkfifo(tmp_path / probe.FILE)
    with pytest.raises(VersionRefused, match="a pipe"):
        read_probe(path)
