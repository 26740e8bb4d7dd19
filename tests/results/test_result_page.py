"""A result as a table in a notebook."""

from __future__ import annotations

from hand_written_run import WrittenRun

import cerebro


def test_hyperparameters_of_mixed_types_are_shown(tmp_path):
    run = WrittenRun(tmp_path, configs=[{"rate": 0.123456}, {"rate": "none"}])
    run.epoch(0, [0.5, 0.25])
    run.journal.close()
    page = cerebro.load(run.paths.root)._repr_html_()
    assert "0.123" in page
    assert "none" in page
