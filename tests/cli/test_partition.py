"""`cerebro partition`: what it prints, where warnings go, and how it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE

from cerebro.cli.main import main
from cerebro.data import load_partitioning

h5py = pytest.importorskip("h5py", reason="day files are HDF5, which TensorFlow brings")

COMMAND = [sys.executable, "-c", "from cerebro.cli.main import main; exit(main())", "partition"]


@pytest.fixture
def data(tmp_path):
    """Six subjects with 20 windows each, half of them sitting."""
    for number in range(6):
        directory = tmp_path / "data" / f"S{number}"
        directory.mkdir(parents=True)
        with h5py.File(directory / "2024-01-01.h5", "w") as file:
            file["label"] = [0, 1] * 10
            file["sleeping"] = file["non_wear"] = [0] * 20
    return tmp_path / "data"


def run(data, *arguments):
    return main(["partition", str(data), "--out", str(data.parent / "parts"), *arguments])


def test_it_prints_what_is_where(data, capsys):
    assert run(data, "--partitions", "2", "--valid-fraction", "0.33", "--test-fraction", "0.1") == 0
    printed, errors = capsys.readouterr()
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if ".txt" in line}
    assert list(rows) == ["train_0.txt", "train_1.txt", "valid_0.txt", "valid_1.txt", "test.txt"]
    assert sum(int(row[1]) for row in rows.values()) == 6
    assert rows["test.txt"][1:5] == ["1", "20", "10", "10"]
    assert "6 subjects" in printed
    assert "Note: Test has 16.7 % of the windows" in printed
    assert printed.endswith(f"Written to {data.parent / 'parts'}\n")
    assert errors == ""  # no progress where nobody watches


@pytest.mark.processes
def test_a_subject_left_out_has_a_warning(data):
    bad = Path(data, "S3", "2024-01-01.h5")
    bad.write_bytes(b"")
    command = [*COMMAND, data, "--partitions", "1", "--valid-fraction", "0.3", "--out", "parts"]
    done = subprocess.run(
        command, cwd=data.parent, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert done.stderr.startswith("cerebro: 1 subject cannot be used:")
    assert str(bad) in done.stderr
    command.append("--skip-unusable")
    done = subprocess.run(
        command, cwd=data.parent, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    (warning,) = done.stderr.splitlines()
    assert warning.startswith(f"S3 is left out: {bad} cannot be read")
    assert "1 subject left out" in done.stdout


def test_refusals_are_a_sentence(data, capsys):
    assert run(data, "--partitions", "6", "--valid-fraction", "0.2") == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors.startswith("cerebro: 6 training partitions need as many subjects")
    assert len(errors.splitlines()) == 1


def test_progress_is_said_to_a_terminal(data, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run(data, "--partitions", "2", "--folds", "3", "--replicas", "2", "--seed", "4") == 0
    assert capsys.readouterr().err == "read 6 of 6 subjects\n"


def test_options_arrive(data):
    table = data.parent / "subjects.csv"
    table.write_text("subject,split\nS0,test\n")
    assert run(data, "--partitions", "2", "--valid-fraction", "0.4", "--assign", str(table)) == 0
    arguments = ["--partitions", "2", "--folds", "2", "--replicas", "2", "--seed", "4", "--force"]
    assert run(data, *arguments, "--assign", str(table)) == 0
    parts = load_partitioning(data.parent / "parts")
    assert parts.options["seed"] == 4
    assert parts.test.subjects == ["S0"]
    assert [fold.train.availability for fold in parts.folds] == [[[1, 1], [1, 1]]] * 2
