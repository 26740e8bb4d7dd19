"""Ruined epochs are never best, and all who name one or show one say so."""

from __future__ import annotations

import dataclasses
import math
import pickle
from types import SimpleNamespace

import pytest
from hand_written_run import WrittenRun
from played_run import PlayedRun

import cerebro
from cerebro.cli import status
from cerebro.driver.search_decisions import Search, trials_of
from cerebro.driver.versions import Versions
from cerebro.errors import RunError
from cerebro.journal.best import best_epoch, best_of, best_so_far, own_epochs
from cerebro.journal.journal import read_journal
from cerebro.journal.ledger import Ledger
from cerebro.journal.log_files import rebuild
from cerebro.journal.records import CommittedRecord, parse
from cerebro.search import RandomSearch, Trial, Uniform
from cerebro.search.median_stopping import numbers
from cerebro.search.rungs import best as best_trials

NAN, INF = math.nan, math.inf


class Played(PlayedRun):
    """A run of one partition on either side, by epochs."""

    def __init__(self, models=2, **shape):
        super().__init__(models=models, n_train=1, **shape)
        self.t = 0.0

    def commit(self, attempt, **fields):
        self.t += 1.0
        given = {"loss": 1.0, "error": 0.5, "examples": None, "phases": {"run": 1.0}}
        super().add("committed", self.t, attempt=attempt, output="", ran=self.t, **given | fields)

    def epoch(self, model, error, *, loss=1.0, valid_loss=1.0, **fields):
        """A model ends an epoch."""
        if self.ledger.models[model].has_ended_epoch():
            self.decide(self.t, [model])
        number = self.ledger.models[model].epoch
        trained = self.start(self.t, 0, model, 0, epoch=number)
        version = self.ledger.models[model].version + 1
        self.commit(trained, loss=loss, checkpoint=f"/c/{model}/{version}/model", **fields)
        self.commit(self.start(self.t, 0, model, 0, "valid", number), loss=valid_loss, error=error)
        return self.ledger.models[model].epochs[-1]

    def best(self):
        found = best_so_far(self.ledger)
        return found and (found[0].id, found[1].epoch)


@pytest.mark.parametrize(
    "ruin", [{"loss": NAN}, {"loss": INF}, {"loss": -INF}, {"finite": False}], ids=str
)
def test_a_ruined_epoch_is_never_best(ruin):
    run = Played()
    run.epoch(1, 0.4, finite=True)
    ruined = run.epoch(0, 0.1, **{"finite": True, **ruin})
    assert ruined.ruined
    assert ruined.flaw
    assert run.best() == (1, 0)
    assert run.view(9.0).best.model == 1
    assert run.view(9.0).ruined == 1


@pytest.mark.parametrize("error", [NAN, INF, -INF])
def test_a_validation_that_gave_no_number_is_said_and_ruins_nothing(error):
    run = Played(models=1)
    run.epoch(0, 0.4)
    flawed = run.epoch(0, 0.1, valid_loss=error)
    assert not flawed.ruined
    assert flawed.flaw == f"validation loss is {error}"
    assert run.best() == (0, 1), "one bad sample in a validation partition is no fault of a model"
    assert run.epoch(0, error).flaw == f"validation error is {error}"
    assert run.best() == (0, 1)


def test_one_bad_validation_sample_does_not_leave_no_best():
    run = Played()
    for model, error in ((0, 0.4), (1, 0.3)):
        assert run.epoch(model, error, valid_loss=NAN).flaw == "validation loss is nan"
    assert run.best() == (1, 0)


def test_a_loss_that_nobody_computes_counts_as_not_measured():
    run = Played()
    for model, error in ((0, 0.4), (1, 0.3), (0, 0.2)):
        epoch = run.epoch(model, error, loss=NAN, valid_loss=NAN)
        assert (epoch.ruined, epoch.flaw) == (False, "")
    assert run.best() == (0, 1)
    assert run.epoch(1, 0.1, loss=NAN, valid_loss=NAN, finite=False).ruined
    assert run.best() == (0, 1), "weights count all the same"


def test_what_ended_before_any_loss_was_measured_is_looked_at_again():
    run = Played()
    first = run.epoch(0, 0.1, loss=NAN)
    assert not first.ruined
    assert run.view(9.0).best.model == 0
    run.epoch(1, 0.4)
    assert first.ruined
    assert first.flaw == "training loss is nan"
    assert run.best() == (1, 0)
    assert run.view(9.0).best.model == 1, "also in a view that had another"


def test_an_epoch_before_a_model_was_ruined_remains_its_best():
    run = Played(models=1)
    for error, finite in ((0.5, True), (0.3, True), (0.1, False), (0.05, None)):
        run.epoch(0, error, finite=finite)
    assert [e.finite for e in run.ledger.models[0].epochs] == [True, True, False, False]
    assert run.best() == (0, 1)
    assert not run.epoch(0, 0.2, finite=True).ruined, "it is sound again"
    assert run.best() == (0, 4)


def test_infinity_of_either_sign_is_the_worst_there_is():
    run = Played()
    run.epoch(0, -INF)
    assert run.best() == (0, 0), "where there is no other"
    run.epoch(1, 0.9)
    assert run.best() == (1, 0)
    found = best_of(own_epochs(run.ledger.models.values()), "valid_error", "max")
    assert found[0].id == 1


def test_a_copy_of_a_ruined_model_is_ruined_until_it_is_told_otherwise():
    run = Played(models=1)
    run.epoch(0, 0.5, finite=False)
    new = {"model": 1, "mst": {}, "epoch": 1, "parent": 0, "checkpoint": "/c/0/1/model"}
    run.decide(run.t, [], add=[new])
    assert run.ledger.models[1].epochs[0].ruined
    attempt = run.start(run.t, 0, 1, 0, epoch=1)
    run.commit(attempt, checkpoint="/c/1/1/model")
    assert run.ledger.models[1].finite == {0: False, 1: False}


def test_a_version_that_is_made_again_says_so_again():
    run = Played(models=1)
    run.epoch(0, 0.5, finite=True)
    run.add("void", run.t, model=0, version=1)
    attempt = run.start(run.t, 0, 0, 0, epoch=0)
    run.commit(attempt, checkpoint="/c/0/1b/model")
    assert run.ledger.models[0].finite == {}, "the one before it is not known"


def test_a_record_without_the_field_has_the_bytes_that_it_had():
    fields = {
        "kind": "committed", "t": 1.0, "attempt": 1, "loss": 1.0, "error": 0.5, "examples": None,
        "metrics": {}, "phases": {"run": 1.0}, "output": "", "ran": 1.0, "checkpoint": "/c",
        "generation": 1, "seq": 3,
    }  # fmt: skip
    old = parse(fields, 1)
    assert isinstance(old, CommittedRecord)
    assert old.finite is None
    assert old.to_json() == fields
    told = parse({**fields, "finite": False}, 1)
    assert told.finite is False
    assert told.to_json()["finite"] is False


def test_results_that_were_pickled_before_are_judged_when_they_are_read():
    run = Played()
    run.epoch(0, 0.1, loss=NAN)
    run.epoch(1, 0.4)
    del run.ledger.__dict__["measured"]
    for model in run.ledger.models.values():
        del model.__dict__["finite"]
        for epoch in model.epochs:
            for name in ("finite", "ruined", "flaw"):
                epoch.__dict__.pop(name)
    run.ledger = pickle.loads(pickle.dumps(run.ledger))
    assert run.best() == (1, 0)


# --- which versions are kept ---------------------------------------------------------------------


def kept_by(run, tmp_path, epochs):
    """The versions left after epochs with these errors and losses, as a driver drops them."""
    ledger = run.ledger
    versions = Versions(SimpleNamespace(root=tmp_path), ledger, lambda: 1, {})
    for model, error, fields in epochs:
        epoch = run.epoch(model, error, **fields)
        gone = versions.committed(model, epoch.version)
        gone += versions.epoch_ended(model, epoch.version)
        for owner, version in gone:
            run.add("dropped", run.t, model=owner, version=version)
    versions.close()
    return {number: set(model.checkpoints) for number, model in ledger.models.items()}


def test_the_version_that_is_kept_is_that_of_the_best(tmp_path):
    ruined = {"finite": False}
    run = Played(models=1)
    epochs = [(0, 0.5, {}), (0, 0.3, {}), (0, 0.1, ruined), (0, 0.1, ruined), (0, 0.1, ruined)]
    assert kept_by(run, tmp_path, epochs) == {0: {2, 4, 5}}
    assert best_epoch(run.ledger.models[0], run.ledger.the_plan).version == 2


@pytest.mark.parametrize("infinity", [INF, -INF])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_infinity_of_either_sign_is_kept_only_where_there_is_no_number(tmp_path, infinity, mode):
    run = Played(models=1)
    run.ledger.plan = dataclasses.replace(run.plan, metric="valid_loss", mode=mode)
    first, *others = ((0, 0.5, {"valid_loss": v}) for v in (infinity, 0.5, infinity, infinity, 0.5))
    assert kept_by(run, tmp_path, [first]) == {0: {1}}
    assert run.best() == (0, 0)
    assert kept_by(run, tmp_path, others) == {0: {2, 4, 5}}
    assert run.best() == (0, 1)


def test_it_is_also_where_a_loss_is_measured_late(tmp_path):
    none = {"loss": NAN}
    run = Played()
    epochs = [(0, 0.1, none), (0, 0.2, none), (1, 0.4, {}), (0, 0.3, {}), (0, 0.4, {}),
              (0, 0.4, {}), (0, 0.5, none)]  # fmt: skip
    assert kept_by(run, tmp_path, epochs) == {0: {3, 5, 6}, 1: {1}}
    assert best_epoch(run.ledger.models[0], run.ledger.the_plan).version == 3


def test_what_a_driver_kept_that_knew_of_no_ruined_epochs_stays(tmp_path):
    """Of a run that was recorded before: a ruined epoch's version is there, a sound one's not."""
    run = Played(models=1)
    for error, loss in ((0.3, 1.0), (0.1, NAN), (0.4, NAN), (0.5, NAN)):
        run.epoch(0, error, loss=loss)
    run.add("dropped", run.t, model=0, version=1)
    assert best_epoch(run.ledger.models[0], run.ledger.the_plan) is None, (
        "no version is left of the sound one"
    )
    epochs = [(0, 0.6, {}), (0, 0.7, {}), (0, 0.7, {}), (0, 0.7, {})]
    assert kept_by(run, tmp_path, epochs) == {0: {2, 5, 7, 8}}
    assert best_epoch(run.ledger.models[0], run.ledger.the_plan).version == 5


# --- search procedures ---------------------------------------------------------------------------


def test_search_procedures_see_no_value_of_a_ruined_epoch():
    procedure = RandomSearch({"rate": Uniform(0, 1)}, n=2, epochs=2, metric="valid_error")
    run = Played()
    search = Search(procedure, run.ledger, "")
    run.epoch(0, 0.1, loss=NAN)
    assert search._trials(run.ledger)[0].values == (0.1,), "nobody computes a loss, it seems"
    run.epoch(1, 0.4)
    assert math.isnan(search._trials(run.ledger)[0].values[0])
    run.epoch(1, 0.3, finite=False)
    values = [repr(trial.values) for trial in trials_of(procedure, run.ledger)]
    assert values == ["(nan,)", "(0.4, nan)"]


def test_a_value_that_is_not_finite_ranks_last_whatever_its_sign():
    for value in (NAN, INF, -INF):
        assert Trial(0, {}, (value,)).rank() == (INF, 0)
    assert best_trials([Trial(0, {}, (-INF,)), Trial(1, {}, (0.5,))], 1) == [1]
    assert numbers(Trial(0, {}, (-INF, 0.5)), 2) == [INF, 0.5]


# --- who says so ---------------------------------------------------------------------------------


@pytest.fixture
def written_run(tmp_path):
    """Model 0 is ruined by train partition 1 in epoch 1, and has a lower error then than ever."""
    run = WrittenRun(tmp_path)
    run.ready()
    run.epoch(0, [0.4, 0.5])
    run.decide()
    for partition, finite in ((0, True), (1, False)):
        attempt = run.start(0, partition, epoch=1, reads=2 + partition)
        run.commit(attempt, checkpoint=f"/c/0/{3 + partition}", finite=finite)
    run.commit(run.start(0, 0, "valid", epoch=1, reads=4), 0.1)
    run.journal.close()
    return run


def test_tables_status_report_log_and_messages_say_so(written_run):
    from cerebro.progress.announcements import Announcements

    result = cerebro.load(written_run.paths.root)
    assert (result.best().model_id, result.best().epoch) == (0, 0)
    history = result.history
    assert history["ruined"].tolist() == [False, True, False]
    assert history["flaw"].tolist() == ["", "weights are not finite", ""]
    assert result.units["finite"].dropna().tolist() == [True, False]
    assert result.models["flaw"].tolist() == ["weights are not finite", ""]
    assert result.models["best_epoch"].tolist() == [0, 0]
    (note,) = (note for note in result.notes if "ruined" in note)
    assert "Model 0, epoch 1: weights are not finite" in note
    shown = status.render(written_run.status(), 200)
    assert "model 0, epoch 1: weights are not finite; this epoch is never best" in shown
    result.report()
    page = written_run.paths.report.read_text()
    assert "weights are not finite after epoch 1</td>" in page
    records, _ = read_journal(written_run.paths)
    rebuild(written_run.paths, records)
    log = written_run.paths.model_log(0).read_text()
    assert "EPOCH: 1, PARTITION: 1, WARNING: weights are not finite\n" in log
    assert "EPOCH: 1, WARNING: weights are not finite; this epoch is never best\n" in log
    said, announce, ledger = [], Announcements(), Ledger()
    ledger.listeners.append(lambda record, ledger: said.extend(announce(record, ledger)))
    for record in records:
        ledger.add(record)
    (line,) = (line.text for line in said if "not finite" in line.text)
    assert line == (
        "model 0, epoch 1: weights are not finite (first on train partition 1, /d/1): "
        "this epoch is never best, and no search continues from it"
    )


def test_no_best_says_that_all_are_ruined(tmp_path):
    run = WrittenRun(tmp_path)
    run.ready()
    for partition in (0, 1):
        attempt = run.start(0, partition, reads=partition)
        run.commit(attempt, checkpoint=f"/c/0/{1 + partition}", finite=False)
    run.commit(run.start(0, 0, "valid", reads=2), 0.1)
    run.journal.close()
    with pytest.raises(RunError, match="1 model is ruined"):
        cerebro.load(run.paths.root).best()
