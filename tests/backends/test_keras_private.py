"""What Keras and h5py may change without a word: what `backends/keras/private.py` leans on.

A test here that fails after an update of either says which function there has to change.
"""

from __future__ import annotations

import inspect
import io
import random
import threading

import numpy as np
import pytest

pytest.importorskip("keras")

import h5py
from keras_toy import arrays, model_of

from cerebro.backends.keras import private
from cerebro.backends.keras.runtime import keras, tf

pytestmark = pytest.mark.tf

FILE = "cerebro/backends/keras/private.py"
VALUES = np.arange(40, dtype=np.float32)


def changed(what, function):
    """The message for a private part of Keras that is not what it was."""
    return f"Keras {keras.__version__} changed {what}: adapt `{function}` in {FILE}"


def h5py_changed(what, function):
    """The message for something that h5py, or HDF5, does otherwise than it did."""
    return (
        f"h5py {h5py.__version__} (HDF5 {h5py.version.hdf5_version}) changed {what}: adapt "
        f"`{function}` in {FILE}"
    )


def nested_model():
    """A model with a model in it, whose layers have names of their own."""
    inner = keras.Sequential([keras.layers.Dense(4, name="deep")], name="inner")
    return model_of(inner)


def trained():
    model = model_of(jit_compile=False)
    model.fit(*arrays(), batch_size=8, epochs=1, verbose=0)
    return model


# --- Keras ---------------------------------------------------------------------------------------


def test_save_state_takes_what_it_took():
    found = list(inspect.signature(private._save_state).parameters)
    assert len(found) == 5, changed(f"saving_lib._save_state, which takes {found}", "saved_items")


def test_save_state_writes_variables_and_names_as_files_have_them(tmp_path):
    model = trained()
    items, names, _ = private.saved_items(model)
    model.save_weights(tmp_path / "model.weights.h5")
    in_file, groups = [], {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            in_file.append(name)
        elif "name" in item.attrs:
            groups[name] = item.attrs["name"]

    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visititems(visit)
    said = changed("what saving_lib._save_state writes, or what H5IOStore.make is given", FILE)
    assert len(in_file) > 4, said
    assert sorted(items) == sorted(in_file), said
    assert {name: names[name] for name in groups} == groups, said


def test_optimizers_save_what_variable_numpy_gives():
    assert "numpy" not in vars(keras.Variable), changed(
        "keras.Variable, which defines numpy itself and would lose it",
        "_values_that_know_their_variables",
    )
    model = trained()
    items, _, _ = private.saved_items(model)
    # A variable itself, as early versions save it, is known without more ado.
    saved = [
        item.variable if isinstance(item, private.SavedValue) else item
        for name, item in items.items()
        if name.startswith("optimizer/")
    ]
    assert {id(item) for item in saved} == {id(v) for v in model.optimizer.variables}, changed(
        "Optimizer.save_own_variables, which saves neither variables nor variable.numpy()",
        "_values_that_know_their_variables",
    )


def test_variable_numpy_is_itself_again_afterwards():
    before = keras.Variable.numpy
    private.saved_items(trained())
    assert keras.Variable.numpy is before


def test_every_call_of_a_layer_is_seen():
    seen = []
    model = nested_model()
    call = keras.layers.Layer.__call__
    with private.watched_calls(lambda layer, given, value: seen.append((layer.name, given))):
        model(arrays()[0][:2])
    said = changed("how layers are called", "watched_calls")
    assert ("deep", True) in seen, said
    assert seen.index(("deep", False)) < seen.index(("inner", False)), said
    assert keras.layers.Layer.__call__ is call


def test_layers_that_set_more_than_variables_are_loaded_by_group():
    norm = keras.layers.Normalization()
    norm.adapt(arrays()[0])
    model = model_of(keras.Sequential([keras.Input((3,)), norm]))
    items, _, loaders = private.saved_items(model)
    ((group, layer),) = loaders.items()
    said = changed("Normalization.finalize_state, or when a layer saves itself", "saved_items")
    assert layer is norm, said
    assert {f"{group}/{number}" for number in range(3)} <= items.keys(), said
    assert "save_own_variables" not in vars(norm), said
    before = np.asarray(norm.mean)
    norm.load_own_variables({"0": np.ones(3), "1": np.ones(3), "2": np.array(1)})
    assert not np.array_equal(np.asarray(norm.mean), before), said


def test_layers_that_are_adapted_are_noted():
    words, numbers = np.array([["run"], ["sit"]]), np.arange(4.0).reshape(-1, 1)
    for layer, sample in (
        (keras.layers.StringLookup(), words),
        (keras.layers.IntegerLookup(), numbers.astype(np.int64)),
        (keras.layers.TextVectorization(), words),
        (keras.layers.Discretization(num_bins=2), numbers),
    ):
        noted = []
        before = type(layer).update_state
        with private.noting_adapted(noted):
            layer.adapt(sample)
        said = changed(f"what {type(layer).__name__}.adapt calls", "noting_adapted")
        assert noted[0] is layer, said
        assert type(layer).update_state is before


def test_files_that_a_layer_saves_are_found():
    layer = keras.layers.StringLookup()
    layer.adapt(np.array(["run", "sit", "run"]))
    assert private.assets_of(layer) == {"vocabulary.txt": b"[UNK]\nrun\nsit"}, changed(
        "what StringLookup.save_assets writes", "assets_of"
    )
    assert private.assets_of(keras.layers.Dense(2)) == {}


def test_compiled_functions_that_are_forgotten_are_made_anew():
    model = trained()
    private.forget_compiled(model)
    said = changed("when it makes the compiled functions of a model", "forget_compiled")
    assert private.compiled_functions(model) == [], said
    model.fit(*arrays(), verbose=0)
    assert private.compiled_functions(model), said


class OwnStep(keras.Model):
    def train_step(self, data):
        self.note = 1
        return super().train_step(data)


def test_attributes_that_keras_sets_are_told_from_the_users():
    model = OwnStep(x := keras.Input((3,)), keras.layers.Dense(2, "softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*arrays(), verbose=0)
    model.evaluate(*arrays(), verbose=0)
    model.predict(arrays()[0], verbose=0)
    said = changed("how it sets attributes of a model", "set_by_libraries")
    assert vars(model).keys() - private.set_by_libraries(type(model)) <= {"note", "history"}, said
    assert "note" in vars(model).keys() - private.set_by_libraries(type(model)), said
    things = [
        keras.layers.LSTM(2, dropout=0.1),
        keras.layers.Bidirectional(keras.layers.GRU(2)),
        keras.layers.BatchNormalization(),
        keras.layers.MultiHeadAttention(2, 2),
        keras.layers.RandomFlip(),
        keras.layers.TextVectorization(),
        keras.layers.Normalization(),
        keras.optimizers.Adam(),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
        keras.metrics.AUC(),
        keras.losses.CategoricalCrossentropy(),
    ]
    for thing in things:
        assert not vars(thing).keys() - private.set_by_libraries(type(thing)), (thing, said)


def test_code_of_a_class_is_read_for_what_it_sets():
    def much(self):
        self.a000 = 1
        exec("; ".join(f"self.b{number} = {number}" for number in range(3)))
        return lambda: setattr(self, "c", 1)

    lines = "\n".join(f"    self.n{number} = {number}" for number in range(700))
    scope = {}
    exec(f"def many(self):\n{lines}\n", scope)
    found = private._stored(scope["many"].__code__)
    assert found == {f"n{number}" for number in range(700)}
    assert private._stored(much.__code__) == {"a000"}


def test_all_layers_are_those_of_inner_models_too():
    model = nested_model()
    found = private.all_layers(model)
    said = changed("Model._flatten_layers", "all_layers")
    assert found[0] is model, said
    assert {"inner", "deep"} <= {layer.name for layer in found}, said


def test_a_model_is_built_without_training():
    model = keras.Sequential([keras.layers.Dense(2, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = arrays()
    private.build(model, (x[:4], y[:4]))
    said = changed("Model._symbolic_build", "build")
    assert model.built, said
    assert model.optimizer.built, said
    assert "accuracy" in model.get_metrics_result(), said


def test_a_model_is_built_from_what_a_data_set_says_of_a_batch():
    model = keras.Sequential([keras.layers.Dense(2, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    private.build(model, tf.data.Dataset.from_tensor_slices(arrays()).batch(4).element_spec)
    assert model.built, changed("Model._symbolic_build, given tensor specs", "build")


def test_the_compiled_functions_of_a_model_are_found():
    model = trained()
    said = changed("how a model holds its compiled train_function", "compiled_functions")
    after_training = private.compiled_functions(model)
    assert after_training, said
    model.evaluate(*arrays(), batch_size=8, verbose=0)
    assert len(private.compiled_functions(model)) > len(after_training), said
    assert all(function.graph.get_operations() for function in after_training), said


def test_a_pass_counts_its_examples():
    said = changed("the metric 'loss', or its count", "examples_seen")
    model = model_of()
    assert private.examples_seen(model) is None, said
    x, y = arrays(rows=13)
    model.fit(x, y, batch_size=8, epochs=1, verbose=0)
    assert private.examples_seen(model) == 13, said


def test_every_result_is_known_to_be_of_its_metric():
    """Of two outputs, with names that are used twice, weighted ones, and a result per class."""
    inputs = keras.Input((3,))
    outputs = {
        name: keras.layers.Dense(2, activation="softmax", name=name)(inputs) for name in "ab"
    }
    model = keras.Model(inputs, outputs)
    metrics = keras.metrics
    model.compile(
        "sgd",
        dict.fromkeys("ab", "categorical_crossentropy"),
        metrics={
            "a": [metrics.AUC(name="x"), metrics.Precision(name="x"), metrics.F1Score(name="f")],
            "b": ["accuracy"],
        },
        weighted_metrics={"a": [metrics.Recall(name="x")], "b": ["mse"]},
        jit_compile=False,
    )
    x, y = arrays()
    y = np.eye(2, dtype=np.float32)[y]
    model.evaluate(x, {"a": y, "b": 1 - y}, verbose=0)
    said = changed("how the results of compiled metrics are called", "named_metrics")
    found, results = private.named_metrics(model), model.get_metrics_result()
    assert found.keys() == results.keys(), said
    for name, metric in found.items():
        assert np.array_equal(metric.result(), results[name]), said
    kinds = {type(metric).__name__ for metric in found.values()}
    assert {"AUC", "Precision", "F1Score", "Recall", "MeanSquaredError"} <= kinds, said


def test_the_function_that_a_metric_is_the_mean_of():
    loss = keras.losses.MeanSquaredError()
    for function in (abs, loss):
        metric = keras.metrics.MeanMetricWrapper(function, name="mine")
        said = changed("where a MeanMetricWrapper keeps its function", "wrapped_function")
        assert private.wrapped_function(metric) is function, said


def test_a_global_state_numbers_names_from_the_start():
    said = changed("global_state.GLOBAL_STATE_TRACKER", "global_state_of")
    one, other = threading.local(), threading.local()
    names = []
    for state in (one, other, one):
        with private.global_state_of(state):
            names.append(keras.layers.Dense(2).name)
    assert names == ["dense", "dense", "dense_1"], said


def test_a_global_state_has_policies_of_its_own():
    before = keras.config.dtype_policy().name
    with private.global_state_of(threading.local()):
        keras.config.set_dtype_policy("mixed_float16")
    assert keras.config.dtype_policy().name == before, changed(
        "where global policies are kept", "global_state_of"
    )


def test_a_global_seed_is_that_of_set_random_seed():
    said = changed("what set_random_seed keeps in the global state", "set_global_seed")
    python, numpy = random.getstate(), np.random.get_state()
    theirs, ours = threading.local(), threading.local()
    with private.global_state_of(theirs):
        keras.utils.set_random_seed(11)
    with private.global_state_of(ours):
        keras.random.normal(())
        first = vars(ours)[private.SEED_GENERATOR]
        private.set_global_seed(11)
        keras.random.normal(())
        assert vars(ours)[private.SEED_GENERATOR] is not first, said
    random.setstate(python)
    np.random.set_state(numpy)
    kept = {name for name, value in vars(theirs).items() if value == 11}
    assert kept <= {name for name, value in vars(ours).items() if value == 11}, said


def test_a_global_generator_is_drawn_from():
    said = changed("the name of the global SeedGenerator", "set_global_generator")
    with private.global_state_of(threading.local()):
        generator = keras.random.SeedGenerator(5)
        private.set_global_generator(generator)
        before = np.asarray(generator.state).tolist()
        keras.random.normal(())
        assert np.asarray(generator.state).tolist() != before, said


# --- h5py ----------------------------------------------------------------------------------------


def reserved(values=VALUES, **options):
    """An HDF5 file with room for `values`, and where in it they begin."""
    sparse = private.SparseFile()
    with h5py.File(sparse, "w", **options) as file:
        file.attrs["note"] = "text"
        place = private.reserve(file, "layers/vars/0", values.shape, values.dtype)
    return sparse, place


def content_of(sparse):
    content = bytearray(sparse.end)
    for start, piece in sparse.pieces:
        content[start : start + len(piece)] = piece
    return content


def test_hdf5_writes_nothing_where_values_are_reserved():
    sparse, place = reserved()
    said = h5py_changed("what ALLOC_TIME_EARLY and FILL_TIME_NEVER do", "reserve")
    assert 0 < place <= sparse.end - VALUES.nbytes, said
    written = [
        start
        for start, piece in sparse.pieces
        if start < place + VALUES.nbytes and place < start + len(piece)
    ]
    assert written == [], said


def test_values_that_are_laid_past_hdf5_are_read_by_it():
    sparse, place = reserved()
    content = content_of(sparse)
    content[place : place + VALUES.nbytes] = VALUES.tobytes()
    with h5py.File(io.BytesIO(content), "r") as file:
        found = file["layers/vars/0"]
        said = h5py_changed("where HDF5 keeps the values of a data set", "reserve")
        assert found.id.get_offset() == place, said
        assert np.array_equal(found[...], VALUES), said
        assert file.attrs["note"] == "text", h5py_changed("how files are written", "SparseFile")


def test_bytes_behind_the_end_of_a_file_are_passed_over():
    sparse, _ = reserved()
    with h5py.File(io.BytesIO(bytes(content_of(sparse)) + b"checksum"), "r") as file:
        assert file["layers/vars/0"].shape == VALUES.shape, h5py_changed(
            "what it does with bytes behind the end", "cerebro/backends/checksum.py"
        )


def test_values_begin_at_aligned_places():
    _, place = reserved(alignment_threshold=64, alignment_interval=64)
    assert place % 64 == 0, h5py_changed("alignment_threshold or _interval", "reserve")


def test_the_same_layout_is_the_same_bytes():
    one, other = (content_of(reserved()[0]) for _ in range(2))
    assert one == other, h5py_changed("set_obj_track_times, or what else is in a file", "reserve")


def test_a_scalar_and_a_type_that_hdf5_does_not_know_have_their_place():
    import ml_dtypes

    sparse = private.SparseFile()
    with h5py.File(sparse, "w") as file:
        scalar = private.reserve(file, "a/step", (), np.dtype(np.int64))
        brain = private.reserve(file, "a/weight", (3,), np.dtype(ml_dtypes.bfloat16))
        said = h5py_changed("h5t.py_create, or what it does with types of others", "reserve")
        assert file["a/step"].shape == (), said
        assert file["a/weight"].attrs["dtype"] == "bfloat16", said
        assert file["a/weight"].dtype.itemsize == 2, said
    assert 0 < scalar != brain > 0, said
