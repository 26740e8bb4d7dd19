"""Which versions a driver lets go, as the journal's models begin and go on."""

from __future__ import annotations

from types import SimpleNamespace

from cerebro.driver.versions import Versions
from cerebro.journal.ledger import ModelRecord
from cerebro.journal.paths import RunPaths


def test_a_version_that_two_models_will_begin_with_is_kept_for_the_second(tmp_path):
    """In a replay, where the first may have read it long before the second begins."""
    source = ModelRecord(0, {}, 0)
    ledger = SimpleNamespace(
        models={0: source}, the_plan=SimpleNamespace(metric="valid_error", mode="min")
    )
    versions = Versions(RunPaths(tmp_path), ledger, lambda: 1, {(0, 1): 2})

    def commit(number):
        source.checkpoints[number] = f"models/0/v{number}/model"
        dropped = versions.committed(0, number)
        for _, version in dropped:
            del source.checkpoints[version]
        return dropped

    commit(1)
    first = source.checkpoints[1]
    for child in (1, 2):
        ledger.models[child] = ModelRecord(child, {}, 0, start_checkpoint=first)
    assert versions.read_by(1, first) == []
    assert versions.released([1]) == []
    assert [commit(2), commit(3), commit(4)] == [[], [], [(0, 2)]]
    assert versions.read_by(2, first) == []
    assert versions.released([2]) == [(0, 1)]
    versions.close()
