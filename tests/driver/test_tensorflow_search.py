"""Searches over real workers with TensorFlow V1 graphs."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE

import cerebro

pytestmark = [pytest.mark.tf, pytest.mark.slow]
tf = pytest.importorskip("tensorflow")
HERE = Path(__file__).parent


def write_partitions(folder, sizes, prefix):
    """Partitions of different sizes; the first column of each is its number."""
    paths = []
    rng = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        x = rng.normal(size=(size, 3)).astype(np.float32)
        y = (x @ [1.0, -2.0, 0.5] + 0.1).astype(np.float32)
        path = folder / f"{prefix}{number}.npz"
        np.savez(path, x=x, y=y, number=number)
        paths.append(str(path))
    return paths


def input_fn(path):
    with np.load(path) as file:
        return {name: file[name] for name in ("x", "y", "number")}


def batches(data, size=4):
    """A one-shot iterator over a partition, as the original's examples have it."""
    import tensorflow.compat.v1 as tf

    def generate():
        for start in range(0, len(data["x"]), size):
            yield data["x"][start : start + size], data["y"][start : start + size]

    dataset = tf.data.Dataset.from_generator(
        generate, (tf.float32, tf.float32), ((None, 3), (None,))
    )
    return tf.data.make_one_shot_iterator(dataset).get_next()


def train_fn(session, train_step, loss, error, train=True):
    import tensorflow as tf

    losses, errors = [], []
    while True:
        try:
            fetches = [loss, error] + ([train_step] if train else [])
            values = session.run(fetches)
        except tf.errors.OutOfRangeError:
            return np.mean(losses), np.mean(errors)
        losses.append(values[0])
        errors.append(values[1])


def after(epochs):
    def eval_fn(state):
        return [i for i in state if len(state[i]["train_loss"]) == epochs], []

    return eval_fn


def make_model_fn():
    def model_fn(data, config):
        import tensorflow.compat.v1 as tf

        dropout = config.get("dropout", 0.0)
        x, y = batches(data)
        hidden = tf.get_variable("hidden", [3, 8])
        out = tf.get_variable("out", [8, 1])
        layer = tf.nn.relu(tf.matmul(x, hidden))
        if dropout:
            layer = tf.nn.dropout(layer, rate=dropout)
        difference = tf.matmul(layer, out)[:, 0] - y
        loss = tf.reduce_mean(tf.square(difference))
        error = tf.reduce_mean(tf.cast(tf.abs(difference) > 0.5, tf.float32))
        return tf.train.AdamOptimizer(config["rate"]), loss, error

    return model_fn


def counting_model_fn(data, config):
    """A model whose variables count every step, and every visit of each partition."""
    import tensorflow.compat.v1 as tf

    x, y = batches(data)
    weight = tf.get_variable("w", [3, 1])
    steps = tf.get_variable("steps", [], tf.int64, tf.zeros_initializer(), trainable=False)
    rows = tf.get_variable("rows", [8], tf.int64, tf.zeros_initializer(), trainable=False)
    seen = tf.one_hot(int(data["number"]), 8, dtype=tf.int64) * tf.shape(x, out_type=tf.int64)[0]
    # Depends on the batch: the run that finds the input exhausted is no step.
    step = tf.minimum(tf.shape(x, out_type=tf.int64)[0], 1)
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.assign_add(steps, step))
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.assign_add(rows, seen))
    loss = tf.reduce_mean(tf.square(tf.matmul(x, weight)[:, 0] - y))
    return tf.train.MomentumOptimizer(config["rate"], 0.9), loss, loss


def read(checkpoint):
    reader = tf.train.load_checkpoint(checkpoint)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def test_every_step_counts_once(cluster, tmp_path):
    """After k epochs the counts are exact: one partition is replicated, two are on one worker."""
    sizes = [12, 5, 9]
    train = write_partitions(tmp_path, sizes, "train")
    valid = write_partitions(tmp_path, [6], "valid")
    availability = [[1, 1, 0], [0, 1, 1]]
    configs = [{"rate": 0.1}, {"rate": 0.01}, {"rate": 0.001}]
    result = cerebro.schedule(
        cluster, train, valid, availability, None, input_fn, counting_model_fn, train_fn, configs,
        after(3), ckpt_root=str(tmp_path / "ckpt"),
    )  # fmt: skip
    assert list(result.models["state"]) == ["COMPLETED"] * 3
    for checkpoint in result.models["checkpoint"]:
        values = read(checkpoint)
        assert values["steps"] == 3 * (3 + 2 + 3)
        assert values["rows"][:3].tolist() == [3 * size for size in sizes]
        assert "w/Momentum" in values


def test_a_warm_start_copies_variables_and_slots(one_worker, tmp_path):
    """A child without gradients goes on with its parent's momentum, which fades.

    So does a model that begins with what was exported while the run goes on.
    """

    def model_fn(data, config):
        optimizer, loss, error = counting_model_fn(data, config)
        return optimizer, loss * config["scale"], error

    def eval_fn(state):
        if len(state) == 1:
            path = cerebro.load(tmp_path / "ckpt" / "run").export(0, tmp_path / "export")
            fading = {"rate": 0.1, "scale": 0.0}
            return [0], [{**fading, "init_mst_id": 0}, {**fading, "init_ckpt_path": path}]
        return list(state), []

    train = write_partitions(tmp_path, [12, 5], "train")
    valid = write_partitions(tmp_path, [6], "valid")
    result = cerebro.schedule(
        one_worker, train, valid, None, None, input_fn, model_fn, train_fn,
        [{"rate": 0.1, "scale": 1.0}], eval_fn, ckpt_root=str(tmp_path / "ckpt"), run_name="run",
    )  # fmt: skip
    parent, *children = (read(checkpoint) for checkpoint in result.models["checkpoint"])
    steps = 3 + 2
    assert parent["steps"] == steps
    assert len(children) == 2
    for child in children:
        assert child["steps"] == 2 * steps
        assert child["w/Momentum"] == pytest.approx(parent["w/Momentum"] * 0.9**steps, rel=1e-5)
    assert list(result.history["inherited"]) == [False, True, False, False]


SEQUENTIAL = """
import json, random, sys
import numpy as np
import tensorflow.compat.v1 as tf
tf.disable_v2_behavior()
import tensorflow
tensorflow.config.experimental.enable_op_determinism()
from cerebro.seeding import derive
sys.path[:0] = {tests!r}
from test_tensorflow_search import input_fn, make_model_fn, train_fn

model_fn = make_model_fn()
CONFIG = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)

def session_for(data, config, graph_seed):
    graph = tf.Graph()
    with graph.as_default():
        tf.set_random_seed(graph_seed)
        optimizer, loss, error = model_fn(data, config)
        step = optimizer.minimize(loss)
        saver = tf.train.Saver(tf.global_variables())
        start = tf.global_variables_initializer()
    return tf.Session(graph=graph, config=CONFIG), step, loss, error, saver, start

losses = []
for model, config, order in {units!r}:
    saved, seed, dropout = None, config.get("seed", {seed}), config.get("dropout", 0.0)
    for epoch, partition, path in order:
        data = input_fn(path)
        init = derive(seed, "init", model)
        unit = derive(seed, "unit", model, epoch, "train", partition)
        if saved is None:
            session, *_, saver, start = session_for(data, config, init)
            session.run(start)
            saved = saver.save(session, {folder!r} + "/start")
            session.close()
        session, step, loss, error, saver, _ = session_for(data, config, unit if dropout else init)
        saver.restore(session, saved)
        random.seed(unit)
        np.random.seed(unit)
        losses.append(float(train_fn(session, step, loss, error)[0]))
        saved = saver.save(session, {folder!r} + f"/{{model}}")
        session.close()
print(json.dumps(losses))
"""


DROPOUTS = (0.0, 0.4)
CONFIGS = [
    {"dropout": dropout, **config}
    for dropout in DROPOUTS
    for config in ({"rate": 0.1}, {"rate": 0.01}, {"rate": 0.05, "seed": 5})
]


@pytest.fixture(scope="module")
def hopped(cluster, tmp_path_factory):
    """(result, train partitions) of a search that hops, of which several tests look at a part."""
    folder = tmp_path_factory.mktemp("hopped")
    train = write_partitions(folder, [12, 8, 9], "train")
    valid = write_partitions(folder, [6], "valid")
    result = cerebro.schedule(
        cluster, train, valid, None, None, input_fn, make_model_fn(), train_fn, CONFIGS,
        after(2), ckpt_root=str(folder / "ckpt"), seed=99,
    )  # fmt: skip
    return result, train


@pytest.fixture(scope="module")
def plain_loop(hopped, tmp_path_factory):
    """(losses by model, folder of checkpoints) of the same units in a plain loop, elsewhere."""
    result, train = hopped
    folder = tmp_path_factory.mktemp("plain")
    orders = [
        (model, config, [(int(u.epoch), int(u.partition), train[u.partition]) for u in
                         train_units(result, model)])
        for model, config in enumerate(CONFIGS)
    ]  # fmt: skip
    code = SEQUENTIAL.format(
        tests=[str(HERE), str(HERE.parent / "helpers")], seed=99, units=orders, folder=str(folder)
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    losses = iter(json.loads(done.stdout.splitlines()[-1]))
    return [[next(losses) for _ in order] for _, _, order in orders], folder


def train_units(result, model):
    units = result.units[result.units["split"] == "train"].sort_values("start")
    return list(units[units["model_id"] == model].itertuples())


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_hopping_is_bit_identical_to_a_plain_loop(hopped, plain_loop, dropout):
    result, (losses, folder) = hopped[0], plain_loop
    models = [m for m, config in enumerate(CONFIGS) if config["dropout"] == dropout]
    assert len(models) == 3
    for model in models:
        units = train_units(result, model)
        assert len(units) == 2 * 3
        assert losses[model] == [unit.loss for unit in units]
        moved, plain = read(result.models["checkpoint"][model]), read(str(folder / f"{model}"))
        assert moved.keys() == plain.keys()
        for name in plain:
            assert moved[name].tobytes() == plain[name].tobytes(), name


def test_the_best_checkpoint_loads_with_a_plain_saver(hopped, tmp_path):
    result = hopped[0]
    best = result.best()
    exported = Path(result.export(best.model_id, tmp_path / "export")) / "model"
    with tf.Graph().as_default():
        v1 = tf.compat.v1
        hidden = v1.get_variable("hidden", [3, 8])
        v1.get_variable("out", [8, 1])
        with v1.Session() as session:
            v1.train.Saver().restore(session, best.checkpoint)
            value = session.run(hidden)
            v1.train.Saver().restore(session, str(exported))
            assert (session.run(hidden) == value).all()
    assert (value == read(best.checkpoint)["hidden"]).all()
    # The run's end writes event files; to ask for them again adds nothing.
    folder = Path(result.run_dir, "tensorboard")
    (path,) = folder.glob(f"model-{best.model_id}/*")
    errors = {
        event.step: value.simple_value
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.tag == "valid_error"
    }
    history = result.history[result.history["model_id"] == best.model_id]
    assert errors == dict(enumerate(history["valid_error"].astype(np.float32)))
    assert result.tensorboard() == str(folder)
    assert list(folder.glob(f"model-{best.model_id}/*")) == [path]


def test_keras_models_are_refused_with_what_to_use(one_worker, tmp_path):
    def model_fn(data, config):
        import tensorflow as tf

        return tf.keras.Sequential([tf.keras.layers.Dense(1)])

    train = write_partitions(tmp_path, [4], "train")
    with pytest.raises(cerebro.errors.RunFailed, match=r"keras\.Model.*get_variable"):
        cerebro.schedule(
            one_worker, train, [], None, None, input_fn, model_fn, train_fn, [{}], after(1),
            ckpt_root=str(tmp_path / "ckpt"),
        )  # fmt: skip


ORIGINAL_STYLE = """
from __future__ import division
from cerebro.standalone import standalone_schedule as schedule
import sys
import numpy as np
import random
import tensorflow.compat.v1 as tf
tf.disable_v2_behavior()

random.seed(2019)
tf.set_random_seed(2019)


class DecayedOptimizer(tf.train.Optimizer):
    "An optimizer of one's own, with a slot."
    def __init__(self, rate):
        super(DecayedOptimizer, self).__init__(False, "Decayed")
        self._rate = rate
    def _prepare(self):
        self._rate_t = tf.convert_to_tensor(self._rate, name="rate")
    def _create_slots(self, var_list):
        for v in var_list:
            self._zeros_slot(v, "speed", self._name)
    def _apply_dense(self, grad, var):
        speed = self.get_slot(var, "speed")
        new = tf.assign(speed, 0.5 * speed + grad)
        return tf.assign_sub(var, self._rate_t * new)
    def _resource_apply_dense(self, grad, var):
        speed = self.get_slot(var, "speed")
        new = speed.assign(0.5 * speed + grad)
        return var.assign_sub(self._rate_t * new)


def input_fn(file_path):
    with np.load(file_path) as file:
        data = list(zip(file["x"], file["y"]))
    random.shuffle(data)
    return data


def model_fn(data, config):
    optimizer = DecayedOptimizer(config["rate"])
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(data), output_types=(tf.float32, tf.float32), output_shapes=((3,), ())
    ).prefetch(-1).batch(4)
    x, y = dataset.make_one_shot_iterator().get_next()
    width = x.shape[1].value
    with tf.variable_scope("model", reuse=False):
        w = tf.get_variable("w", [width, 1])
    loss = tf.reduce_mean(tf.square(tf.matmul(x, w)[:, 0] - y))
    error = tf.sqrt(loss)
    train_step = optimizer.minimize(loss)
    return optimizer, loss, error


def train_fn(sess, train_step, loss, error, train=True):
    losses = []
    errors = []
    while True:
        try:
            if train:
                _, l, e = sess.run([train_step, loss, error])
            else:
                l, e = sess.run([loss, error])
            losses.append(l)
            errors.append(e)
        except tf.errors.OutOfRangeError:
            break
    return sum(losses) / len(losses), sum(errors) / len(errors)


def eval_fn(config_state):
    stop_list = []
    for config_id in config_state:
        if len(config_state[config_id]["train_loss"]) == 3:
            stop_list.append(config_id)
    return stop_list, []


def main():
    workers = {urls!r}
    train_partitions = {train!r}
    valid_partitions = {valid!r}
    availability = [[1, 0], [0, 1]]
    schedule(workers, train_partitions, valid_partitions, availability, availability,
             input_fn=input_fn, model_fn=model_fn, train_fn=train_fn,
             initial_msts=[{{"rate": 0.1}}, {{"rate": 0.01}}], mst_eval_fn=eval_fn,
             ckpt_root={root!r}, preload_data_to_mem=True)


if __name__ == "__main__":
    main()
"""


def test_a_script_for_the_original_runs_unchanged(start_worker, secret_file, tmp_path):
    """Daemons started by hand in empty folders, the driver in another."""
    workers = [start_worker(), start_worker()]
    home = tmp_path / "home"
    home.mkdir()
    script = home / "original.py"
    script.write_text(
        textwrap.dedent(ORIGINAL_STYLE).format(
            urls=[w.url for w in workers],
            train=write_partitions(tmp_path, [12, 8], "train"),
            valid=write_partitions(tmp_path, [6, 6], "valid"),
            root=str(tmp_path / "ckpt"),
        )
    )
    import os

    done = subprocess.run(
        [sys.executable, str(script)], cwd=home, capture_output=True, text=True, timeout=PATIENCE,
        env={**os.environ, "CEREBRO_SECRET_FILE": secret_file}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run_dir,) = (tmp_path / "ckpt").iterdir()
    result = cerebro.load(run_dir)
    assert list(result.models["epochs"]) == [3, 3]
    first, last = result.history["valid_loss"].iloc[[0, 2]]
    assert last < first
    assert any("speed" in name or "Decayed" in name for name in read(result.best().checkpoint))


NOTEBOOK = """
import numpy as np
import tensorflow.compat.v1 as tf
import cerebro
assert tf.executing_eagerly()


def input_fn(path):
    with np.load(path) as file:
        return {'x': file['x'], 'y': file['y']}


HIDDEN = 4

class Layer:
    def __init__(self, name, shape):
        self.w = tf.get_variable(name, shape)

    def __call__(self, x):
        return tf.matmul(x, self.w)


def model_fn(data, config):
    dataset = tf.data.Dataset.from_tensor_slices((data['x'], data['y'])).batch(4)
    x, y = tf.data.make_one_shot_iterator(dataset).get_next()
    out = Layer('b', [HIDDEN, 1])(tf.nn.relu(Layer('a', [3, HIDDEN])(x)))[:, 0]
    loss = tf.reduce_mean((out - y) ** 2)
    return tf.train.AdamOptimizer(config['rate']), loss, tf.sqrt(loss)


def train_fn(session, train_step, loss, error, train=True):
    values = []
    while True:
        try:
            values.append(session.run([loss, error] + ([train_step] if train else []))[:2])
        except tf.errors.OutOfRangeError:
            return tuple(np.mean(values, axis=0))
"""

NOTEBOOK_SCHEDULE = """
result = cerebro.schedule(
    {urls!r}, {train!r}, {valid!r}, None, None, input_fn, model_fn, train_fn,
    [{{'rate': 0.1}}, {{'rate': 0.01}}],
    lambda state: ([i for i in state if state[i]['epoch'] == 1], []),
    ckpt_root={root!r}, secret_file={secret!r},
)
"""


def test_a_notebook_whose_functions_are_cells(start_worker, secret_file, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    workers = [start_worker(), start_worker()]
    train = write_partitions(tmp_path, [12, 8], "train")
    valid = write_partitions(tmp_path, [6], "valid")
    schedule = NOTEBOOK_SCHEDULE.format(
        urls=[w.url for w in workers], train=train, valid=valid, root=str(tmp_path / "ckpt"),
        secret=secret_file,
    )  # fmt: skip
    cells = [*textwrap.dedent(NOTEBOOK).strip().split("\n\n\n"), schedule]
    cells += [
        "assert tf.executing_eagerly()\nresult",
        "print(len(result.history), result.best().model_id in (0, 1))",
    ]
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbclient.NotebookClient(
        notebook, timeout=PATIENCE, resources={"metadata": {"path": tmp_path}}
    ).execute()
    (shown,) = (o for o in notebook.cells[-2].outputs if o.output_type == "execute_result")
    assert "<table" in shown["data"]["text/html"]
    assert "config.rate" in shown["data"]["text/html"]
    assert notebook.cells[-1].outputs[0]["text"].strip() == "4 True"
