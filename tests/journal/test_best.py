"""Which epoch is best, and that all who say so say the same."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
from hand_written_run import WrittenRun
from played_run import PlayedRun, plan
from written_records import written

import cerebro
from cerebro import errors
from cerebro.cli import status
from cerebro.journal.best import best_epoch, best_of, own_epochs
from cerebro.journal.journal import read_journal
from cerebro.journal.ledger import EpochRecord, Ledger, ModelRecord
from cerebro.progress.announcements import Announcements
from cerebro.results.methods_paragraph import paragraph
from cerebro.results.report_contents import contents
from cerebro.results.worker_timeline import WorkerTimeline

NAN = math.nan


def model(number, *errors, inherited=0):
    """A model whose epochs ended with these errors; the first so many are its parent's."""
    record = ModelRecord(number, {}, inherited)
    record.checkpoints = {n + 1: f"/c/{n + 1}" for n in range(inherited, len(errors))}
    record.epochs = [
        EpochRecord(n, 1.0, 1.0, 1.0, error, 1.0, 1.0, 0.0, n + 1, n < inherited,
                    {"valid_accuracy": 1 - error})
        for n, error in enumerate(errors)
    ]  # fmt: skip
    return record


def found(*models, **how):
    pair = best_of(own_epochs(models), **how)
    return None if pair is None else (pair[0].id, pair[1].epoch)


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([], None),
        ([model(0)], None),
        ([model(0, NAN), model(1, NAN)], None),
        ([model(0, NAN, 0.5), model(1, NAN)], (0, 1)),
        ([model(0, NAN), model(1, 0.5)], (1, 0)),
        ([model(0, 0.5, NAN), model(1, 0.25)], (1, 0)),
        ([model(1, 0.25), model(0, 0.25, 0.25)], (0, 0)),
        ([model(0, 0.5, 0.25), model(1, 0.25)], (0, 1)),
        ([model(0, 0.5), model(1, 0.25, 0.75, inherited=1)], (0, 0)),
        ([model(0, math.inf)], (0, 0)),
    ],
)
def test_the_lowest_error_wins_and_of_equals_the_first_model_and_epoch(models, expected):
    assert found(*models) == expected
    assert found(*reversed(models)) == expected


def test_another_metric_may_be_wanted_high():
    models = model(0, 0.5, 0.25), model(1, 0.75, NAN)
    assert found(*models, metric="valid_accuracy", mode="max") == (0, 1)
    assert found(*models, metric="valid_accuracy", mode="min") == (1, 0)
    assert found(*models, metric="valid_auc") is None, "NaN where nobody gave it"


def test_the_best_epoch_of_a_model_is_one_of_its_own():
    by_error = plan()
    assert best_epoch(model(0, 0.25, 0.75, 0.5, inherited=1), by_error).epoch == 2
    assert best_epoch(model(0, 0.25, inherited=1), by_error) is None


def test_an_epoch_whose_weights_are_gone_is_never_the_best():
    """So it is where a run of before kept versions by another metric."""
    record = model(0, 0.25, 0.75, 0.5)
    del record.checkpoints[1]
    assert best_epoch(record, plan()).epoch == 2


def test_a_model_is_compared_by_what_the_plan_says():
    by_accuracy = dataclasses.replace(plan(), metric="valid_accuracy", mode="max")
    assert best_epoch(model(0, 0.5, 0.25, 0.25), by_accuracy).epoch == 1
    upside_down = dataclasses.replace(plan(), metric="valid_accuracy", mode="min")
    assert best_epoch(model(0, 0.25, 0.5, 0.5), upside_down).epoch == 1


def test_everybody_names_the_same_one(tmp_path):
    """Two models end with the same error: model 1 first, which then fails; there was a NaN, too."""
    run = WrittenRun(tmp_path)
    run.ready()
    run.epoch(0, [NAN, 0.5])
    run.decide()
    for number, error in ((1, 0.25), (0, 0.25)):
        for partition in (0, 1):
            reads = 2 + partition
            attempt = run.start(number, partition, epoch=1, reads=reads)
            run.commit(attempt, checkpoint=f"/c/{number}/{reads + 1}")
        run.commit(run.start(number, 0, "valid", epoch=1, reads=4), error)
    run.say(
        "model_failed", model=1, attempt=-1, failure="user", error="ValueError", message="no",
        function="train_fn", traceback="", output="",
    )  # fmt: skip
    run.journal.close()
    records, _ = read_journal(run.paths)
    ledger = Ledger.from_records(records)

    result = cerebro.load(run.paths.root)
    assert (result.best().model_id, result.best().epoch) == (0, 1)
    assert "model 0, epoch 1: valid error 0.25" in status.render(run.status(), 200)
    assert "of model 0 after epoch 1" in paragraph(ledger)
    (line,) = Announcements()(written("decision", asked=[0], stop={}, add=[]), ledger)
    assert re.search(r"best so far model 0, valid error 0.2500", line.text)
    table = result.models.set_index("model_id")
    assert list(table["best_epoch"]) == [1, 1]
    view = run.live(0.0)
    assert (view.best.model, view.best.epoch) == (0, 1)


def test_everybody_names_the_best_by_the_metric_of_the_search(tmp_path):
    """Accuracies rise and fall against the errors; of the two highest, the first counts."""
    run = WrittenRun(tmp_path, metric="valid_accuracy", mode="max")
    run.ready()
    for epoch, accuracies in enumerate([(0.5, 0.75), (0.75, 0.25)]):
        for number, accuracy in enumerate(accuracies):
            for partition in (0, 1):
                reads = 2 * epoch + partition
                attempt = run.start(number, partition, epoch=epoch, reads=reads)
                run.commit(attempt, checkpoint=f"/c/{number}/{reads + 1}")
            attempt = run.start(number, 0, "valid", epoch=epoch, reads=2 * epoch + 2)
            run.commit(attempt, accuracy, metrics={"accuracy": accuracy})
        run.decide()
    run.journal.close()
    records, _ = read_journal(run.paths)
    timeline = WorkerTimeline()
    ledger = Ledger.from_records(records, keep_attempts=True, listeners=[timeline])

    result = cerebro.load(run.paths.root)
    best = result.best()
    assert (best.model_id, best.epoch, best.metrics["valid_accuracy"]) == (0, 1, 0.75)
    assert best.checkpoint == str(run.paths.version(0, 4, 1, 8) / "model")
    assert result.best("valid_error").metrics["valid_error"] == 0.25
    assert "best: model 0, epoch 1, valid_accuracy 0.7500" in repr(result)
    html = result._repr_html_()
    assert html.index("<td>0</td>") < html.index("<td>1</td>")
    assert list(result.models["best_epoch"]) == [1, 0]
    assert "model 0, epoch 1: valid accuracy 0.75" in status.render(run.status(), 200)
    assert "The highest validation accuracy was 0.75, of model 0 after epoch 1" in paragraph(ledger)
    (line,) = Announcements()(written("decision", asked=[0], stop={}, add=[]), ledger)
    assert "best so far model 0, valid accuracy 0.7500" in line.text
    shown = contents(run.paths, ledger, timeline)
    assert [(model.id, model.value) for model in shown.ranked] == [(0, 0.75), (1, 0.75)]
    view = run.live(0.0).best
    assert (view.model, view.epoch, view.metric, view.value) == (0, 1, "valid_accuracy", 0.75)


def test_the_best_by_a_metric_of_unknown_direction_is_demanded(tmp_path):
    run = WrittenRun(tmp_path)
    run.ready()
    attempt = run.start(0, 0)
    run.commit(attempt, checkpoint="/c/0/1", metrics={"score": 1.0, "top2": 1.0})
    run.commit(run.start(0, 1, reads=1), checkpoint="/c/0/2", metrics={"score": 1.0, "top2": 1.0})
    run.commit(run.start(0, 0, "valid", reads=2), metrics={"score": 2.0, "top2": 0.5})
    run.journal.close()
    result = cerebro.load(run.paths.root)
    with pytest.raises(errors.InputError, match=r'valid_score.*mode="min".*mode="max"'):
        result.best("valid_score")
    assert result.best("valid_score", "max").metrics["valid_score"] == 2.0
    assert result.best("valid_top2").metrics["valid_top2"] == 0.5
    with pytest.raises(errors.InputError, match="mode='up'"):
        result.best("valid_score", "up")


def test_the_live_view_keeps_to_the_rule_as_epochs_end():
    run = PlayedRun(n_train=1, models=3)
    for number, error in ((2, 0.25), (1, 0.25), (0, NAN)):
        run.unit(0.0, 1.0, 0, number, 0)
        run.unit(1.0, 2.0, 0, number, 0, "valid", error=error)
    assert run.view(2.0).best.model == 1
