"""Searches over real workers with Keras models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cerebro
from cerebro import errors
from cerebro.driver import admission
from cerebro.search import GridSearch, LogUniform, SuccessiveHalving

pytestmark = [pytest.mark.tf, pytest.mark.slow]
keras = pytest.importorskip("keras")


def functions():
    """(input_fn, model_fn) of a regression with a layer and a loss of the script's own."""

    def input_fn(path):
        with np.load(path) as file:
            return file["x"], file["y"]

    class Scale(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

        def call(self, x):
            return x * self.scale

    @keras.saving.register_keras_serializable("script")
    class Squared(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)

    def model_fn(config):
        model = keras.Sequential([keras.Input((3,)), Scale(), keras.layers.Dense(1)])
        optimizer = keras.optimizers.SGD(config["rate"], momentum=0.9)
        model.compile(optimizer, Squared(), metrics=["mae", keras.metrics.RootMeanSquaredError()])
        return model

    return input_fn, model_fn


@pytest.fixture(scope="module")
def partitions(tmp_path_factory):
    folder, paths = tmp_path_factory.mktemp("data"), []
    rng = np.random.default_rng(0)
    for number, size in enumerate([12, 5, 9]):
        x = rng.normal(size=(size, 3)).astype(np.float32)
        paths.append(str(folder / f"{number}.npz"))
        np.savez(paths[-1], x=x, y=x @ np.array([[1.0], [-2.0], [0.5]], np.float32))
    return paths


def search(cluster, partitions, folder, configs, eval_fn, **options):
    input_fn, model_fn = functions()
    return cerebro.schedule(
        cluster, partitions[:2], partitions[2:], None, None, input_fn, model_fn, None, configs,
        eval_fn, str(folder), **{"backend": "keras", "error_metric": "mae", **options},
    )  # fmt: skip


def after(epochs):
    return lambda state: ([i for i, s in state.items() if s["epoch"] + 1 >= epochs], [])


def test_compiled_metrics_are_in_all_that_is_made_of_a_run(one_worker, partitions, tmp_path):
    import tensorflow as tf

    result = search(one_worker, partitions, tmp_path, [{"rate": 0.05}, {"rate": 0.01}], after(2))
    history, units = result.history, result.units
    for split in ("train", "valid"):
        assert list(history[f"{split}_error"]) == list(history[f"{split}_mae"])
        assert history[f"{split}_root_mean_squared_error"].notna().all()
    assert "best_valid_mae" in result.models
    first = history.iloc[0]
    of_epoch = units[(units["model_id"] == 0) & (units["epoch"] == 0) & (units["split"] == "train")]
    assert sorted(of_epoch["examples"]) == [5, 12]
    mean = np.average(of_epoch["error"], weights=of_epoch["examples"])
    assert first["train_mae"] == pytest.approx(mean)
    best = result.best("valid_root_mean_squared_error")
    kept = history[history["epoch"] == 1]["valid_root_mean_squared_error"]
    assert best.metrics["valid_root_mean_squared_error"] <= kept.min()
    with pytest.raises(errors.InputError, match=r"metric='valid_auc': .*valid_mae"):
        result.best("valid_auc")
    (path,) = Path(result.run_dir, "tensorboard", "model-0").iterdir()
    events = tf.compat.v1.train.summary_iterator(str(path))
    tags = {value.tag for event in events for value in event.summary.value}
    assert {"valid_error", "train_mae", "valid_root_mean_squared_error"} <= tags
    exported = Path(result.export(0, tmp_path / "export"))
    assert "valid_mae" in (exported / "export.json").read_text()
    model = functions()[1](best.config)
    model.load_weights(exported / "model.weights.h5")
    x, y = functions()[0](partitions[2])
    epoch = result.models.set_index("model_id")["best_valid_error"][0]
    assert model.evaluate(x, y, verbose=0, return_dict=True)["mae"] == pytest.approx(epoch)


def test_children_go_on_with_weights_and_slots_and_a_rate_of_their_own(
    one_worker, partitions, tmp_path
):
    """As in population-based training."""

    def eval_fn(state):
        if len(state) > 1:
            return list(state), []
        own = {"rate": 0.002, "init_mst_id": 0}
        path = cerebro.load(tmp_path / "run").export(0, tmp_path / "export")
        return [0], [own, {"rate": 0.05, "init_ckpt_path": path}]

    result = search(one_worker, partitions, tmp_path, [{"rate": 0.05}], eval_fn, run_name="run")
    from cerebro.backends import handler_class

    read = handler_class("keras").read
    parent, other, same = (read(None, path).arrays for path in result.models["checkpoint"])
    assert parent["optimizer/vars/0"] == 2
    for child, rate in ((other, 0.002), (same, 0.05)):
        assert child["optimizer/vars/0"] == 4
        assert child["optimizer/vars/1"] == pytest.approx(rate)
        assert child["optimizer/vars/2"].any()


def test_what_is_wrong_is_said(one_worker, partitions, tmp_path):
    configs = [{"rate": 0.05}]
    with pytest.raises(errors.RunFailed, match=r"no accuracy .*'loss', 'mae'.*error_metric="):
        search(one_worker, partitions, tmp_path, configs, after(1), error_metric=None)
    search(one_worker, partitions, tmp_path, configs, after(1), run_name="run")
    with pytest.raises(errors.ResumeRefused, match="error_metric"):
        search(
            one_worker, partitions, tmp_path, configs, after(2), run_name="run", resume=True,
            error_metric="loss",
        )  # fmt: skip
    with pytest.raises(errors.InputError, match="train_fn=None: only backend='keras'"):
        search(one_worker, partitions, tmp_path, configs, after(1), backend="tf", error_metric=None)


def test_every_configuration_is_tried_in_this_process(partitions, capfd):
    input_fn, model_fn = functions()
    configs = [{"rate": 0.05}, {"rate": 0.01}]
    floatx = keras.config.floatx()
    before = keras.layers.Dense(1).name
    cerebro.check(
        input_fn, model_fn, None, configs, partitions[0], backend="keras", error_metric="mae"
    )
    assert capfd.readouterr().err.count("restored; valid loss") == 2
    assert keras.config.floatx() == floatx
    name, _, number = before.rpartition("_")
    following = f"{name}_{int(number) + 1}" if name else f"{before}_1"
    assert keras.layers.Dense(1).name == following
    with pytest.raises(errors.BadReturn, match="'auc' is none of its compiled metrics"):
        cerebro.check(
            input_fn, model_fn, None, configs, partitions[0], backend="keras", error_metric="auc"
        )


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ("2.15.0", r"has Keras 2\.15\.0: .* needs Keras 3\.7 or later, pip install -U tensorflow"),
        ("3.6.0", r"has Keras 3\.6\.0: .* needs Keras 3\.7 or later, pip install -U tensorflow"),
        (None, "has no Keras"),
        ("3.9.1", r"runs keras 3\.9\.1, the driver 3\.15\.1"),
    ],
)
def test_workers_with_another_keras_are_refused(theirs, message):
    ours = {"protocol": 1, "python": "3.11", "tensorflow": "2.21.0", "keras": "3.15.1"}
    with pytest.raises(errors.WorkerMismatch, match=message):
        admission.check_versions("http://a:7777", ours, {**ours, "keras": theirs}, "keras")
    admission.check_versions("http://a:7777", ours, {**ours, "keras": theirs}, "tf")
    admission.check_versions("http://a:7777", {**ours, "keras": None}, ours, "keras")


def test_a_search_compares_by_a_compiled_metric(one_worker, partitions, tmp_path):
    """Of two, the one with the higher RMSE goes on where the highest is best."""
    halving = SuccessiveHalving(
        {"rate": LogUniform(1e-3, 5e-2)}, n=2, max_epochs=2, eta=2,
        metric="valid_root_mean_squared_error", mode="max",
    )  # fmt: skip
    result = search(one_worker, partitions, tmp_path, None, None, search=halving)
    first = result.history[result.history["epoch"] == 0].set_index("model_id")
    states = result.models.set_index("model_id")["state"]
    assert states[first["valid_root_mean_squared_error"].idxmax()] == "COMPLETED"
    assert states[first["valid_root_mean_squared_error"].idxmin()] == "STOPPED"
    other = GridSearch({"rate": [0.01]}, 1, metric="valid_auc")
    with pytest.raises(errors.DecisionError, match=r"'valid_auc' .*valid_mae"):
        search(one_worker, partitions, tmp_path, None, None, search=other)


def test_metrics_are_exact_over_all_partitions_and_the_search_follows_them(one_worker, tmp_path):
    """Validation has three unequal parts, with other shares of the classes in each.

    Models do not learn: their weights are what the configuration says.
    """
    paths, rng = [], np.random.default_rng(1)
    for number, (size, share) in enumerate([(30, 0.5), (40, 0.9), (9, 0.1), (25, 0.5)]):
        y = (np.arange(size) < share * size).astype(np.float32)[:, None]
        own = y + rng.normal(size=(size, 1)) * 0.8
        level = np.full((size, 1), number) + 0.5 * y
        paths.append(str(tmp_path / f"{number}.npz"))
        np.savez(paths[-1], x=np.hstack([own, level]).astype(np.float32), y=y)

    def input_fn(path):
        with np.load(path) as file:
            return file["x"], file["y"]

    def model_fn(config):
        model = keras.Sequential(
            [keras.Input((2,)), keras.layers.Dense(1, activation="sigmoid", trainable=False)]
        )
        model.layers[0].set_weights([np.array(config["weights"], np.float32)[:, None], np.zeros(1)])
        metrics = [
            "accuracy",
            keras.metrics.AUC(name="area"),
            keras.metrics.F1Score(average="micro", threshold=0.5, name="f1"),
        ]
        model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", metrics=metrics)
        return model

    configs = [[1.0, -0.4], [0.0, 0.2], [-1.0, 0.0]]
    given = (one_worker, paths[:1], paths[1:], None, None, input_fn, model_fn, None)
    options = {
        "search": GridSearch({"weights": configs}, 2, metric="valid_area", mode="max"),
        "ckpt_root": str(tmp_path / "runs"), "backend": "keras", "error_metric": "area",
        "progress": "off",
    }  # fmt: skip
    result = cerebro.schedule(*given, run_name="first", **options)
    x, y = (np.concatenate(both) for both in zip(*map(input_fn, paths[1:]), strict=True))
    history = result.history
    for number, weights in enumerate(configs):
        wanted = model_fn({"weights": weights}).evaluate(x, y, verbose=0, return_dict=True)
        rows = history[history["model_id"] == number]
        for name in ("accuracy", "area", "f1"):
            assert rows[f"valid_{name}"].tolist() == pytest.approx([wanted[name]] * 2, abs=1e-6)
        assert rows["valid_error"].tolist() == pytest.approx([1 - wanted["area"]] * 2, abs=1e-6)
    best = result.best()
    assert best.metrics["valid_area"] == history["valid_area"].max()
    assert Path(best.checkpoint).exists()
    assert best.epoch == 0
    assert {"valid_area", "valid_f1", "valid_accuracy", "valid_error"}.isdisjoint(result.means)
    assert {"valid_loss", "train_area"} <= set(result.means)

    again = cerebro.schedule(*given, run_name="again", replay=result.run_dir, **options)
    columns = [name for name in history if name.startswith("valid_") and name != "valid_seconds"]
    assert again.history[columns].equals(history[columns])
    assert cerebro.load(result.run_dir).history[columns].equals(history[columns])
