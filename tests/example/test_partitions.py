"""The example reads what `cerebro.data.partition_subjects` writes, and counts the same windows."""

from __future__ import annotations

from pathlib import Path

import pytest

from cerebro.data import partition_subjects

pytestmark = pytest.mark.tf


def test_input_fn_keeps_the_windows_that_the_manifest_counts(example, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(example.__file__).parent))
    from deep_postures_sample import write_sample

    write_sample(tmp_path / "sample")
    parts = partition_subjects(
        tmp_path / "sample", tmp_path / "parts", partitions=2, valid_fraction=0.2, test_fraction=0.2
    )
    for partition in parts.all_partitions():
        labels = example.input_fn(parts.path(partition))["labels"]
        assert ((labels == 0).sum(), (labels == 1).sum()) == (
            partition.sitting,
            partition.not_sitting,
        )
