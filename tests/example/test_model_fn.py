"""The example's model against formulas in NumPy, and its batches, window by window."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow.compat.v1", reason="the example is written for TensorFlow")

pytestmark = pytest.mark.tf

CONFIG = {
    "learning_rate": 1e-3,
    "reg_param": 1e-2,
    "amp_factor": 1,
    "win_size_mins": 0.5,  # 3 ten-second windows
    "batch_size": 2,
}


def partition(lengths, seed: int = 0):
    """Data whose ten-second window i holds the value i everywhere, and label i % 2."""
    count = sum(lengths)
    values = np.arange(count, dtype=np.float32)
    return {
        "acceleration": np.ascontiguousarray(
            np.broadcast_to(values[:, None, None], (count, 100, 3))
        ),
        "labels": values % 2,
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "shuffle_seed": seed,
        "path": "train_0.txt",
    }


def noise(lengths):
    """As `partition`, with random signals of the size of 1 g."""
    data = partition(lengths)
    shape = data["acceleration"].shape
    data["acceleration"] = np.random.default_rng(5).normal(0, 1, shape).astype(np.float32)
    return data


@pytest.fixture
def graph():
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(1)
        yield graph


# -- windows and batches ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "length", "starts"),
    [
        ([3], 3, [0]),
        ([2], 3, []),
        ([7], 3, [0, 3]),
        ([7, 2, 6, 4], 3, [0, 3, 9, 12, 15]),
        ([1, 1, 5], 1, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_segments_are_cut_into_sequences_and_their_rest_is_dropped(
    batches, lengths, length, starts
):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    assert batches.sequence_starts(offsets, length).tolist() == starts


def passes(example, data, length, batch_size, count=2):
    """The batches of `count` passes in one session: lists of arrays (batch, length)."""
    acceleration, labels = example.next_batch(data, length, batch_size)
    found = []
    with tf.Session() as session:
        for _ in range(count):
            session.run(tf.tables_initializer())
            batches = []
            while True:
                try:
                    values, truth = session.run([acceleration, labels])
                except tf.errors.OutOfRangeError:
                    break
                assert values.shape[2:] == (100, 3)
                windows = values[:, :, 0, 0]
                assert (values == windows[:, :, None, None]).all()
                assert (truth == windows % 2).all()
                batches.append(windows)
            found.append(batches)
    return found


def test_a_pass_gives_every_sequence_once_and_the_last_batch_is_smaller(example, graph):
    first, second = passes(example, partition([7, 2, 6, 4]), 3, 2)
    assert [len(batch) for batch in first] == [2, 2, 1]
    sequences = sorted(np.concatenate(first).tolist())
    assert sequences == [[s, s + 1, s + 2] for s in (0, 3, 9, 12, 15)]
    for one, two in zip(first, second, strict=True):
        assert np.array_equal(one, two)


def test_the_order_is_the_partitions_own(example, graph):
    orders = [
        np.concatenate(passes(example, partition([60], seed), 3, 4, 1)[0])[:, 0].tolist()
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_data_is_left_unchanged_and_is_no_constant_of_the_graph(example, graph):
    data = partition([3000])
    copy = data["acceleration"].copy()
    passes(example, data, 3, 100, 1)
    assert np.array_equal(data["acceleration"], copy)
    assert graph.as_graph_def().ByteSize() < 100_000 < data["acceleration"].nbytes


def test_no_segment_is_long_enough(example, graph):
    with pytest.raises(ValueError, match=r"train_0\.txt has no segment of 42 .*= 7\).* has 30: "):
        example.model_fn(partition([30, 12]), {**CONFIG, "win_size_mins": 7})


# -- the model -------------------------------------------------------------------------------


def parameters(a: int) -> int:
    """Weights and biases of the CNN-BiLSTM, layer by layer."""
    filters = [1, 32 * a, 64 * a, 128 * a, 256 * a, 256 * a]
    taps = [5 * 3, 5, 5, 5, 5]
    cnn = sum(
        tap * before * after + after
        for tap, before, after in zip(taps, filters[:-1], filters[1:], strict=True)
    )
    flat = 4 * 3 * 256 * a  # time 100 -> 50 -> 25 -> 13 -> 7 -> 4, three axes
    features = flat * 256 * a + 256 * a
    one_way = (256 * a + 128) * 4 * 128 + 4 * 128
    return cnn + features + 2 * one_way + (2 * 128 + 1)


@pytest.mark.parametrize(("a", "count"), [(1, 1_725_121), (2, 5_976_193)])
def test_the_number_of_parameters(example, graph, a, count):
    example.model_fn(partition([6]), {**CONFIG, "amp_factor": a})
    assert sum(int(np.prod(v.shape)) for v in tf.trainable_variables()) == count == parameters(a)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_lstm(sequence, kernel, bias):
    """Hidden states (time, batch, units); gates: input, cell input, forget, output."""
    units = len(bias) // 4
    cell = hidden = np.zeros((sequence.shape[1], units))
    states = []
    for step in sequence:
        gates = np.concatenate([step, hidden], axis=1) @ kernel + bias
        i, j, f, o = np.split(gates, 4, axis=1)
        cell = sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(j)
        hidden = sigmoid(o) * np.tanh(cell)
        states.append(hidden)
    return np.stack(states)


def numpy_convolution(signal, kernel, bias):
    """Stride (2, 1), zero padding so that the output is half the time and the same width."""
    count, time, axes, _ = signal.shape
    height, width = kernel.shape[:2]
    out = -(-time // 2)
    rows = max((out - 1) * 2 + height - time, 0)
    left = (width - 1) // 2
    padded = np.pad(
        signal, [(0, 0), (rows // 2, rows - rows // 2), (left, width - 1 - left), (0, 0)]
    )
    result = np.zeros((count, out, axes, kernel.shape[3])) + bias
    for row in range(height):
        for column in range(width):
            part = padded[:, row : row + 2 * out - 1 : 2, column : column + axes]
            result += part @ kernel[row, column]
    return np.maximum(result, 0)


def numpy_model(acceleration, weights):
    """The logits (batch, length), in double precision."""
    batch, length = acceleration.shape[:2]
    signal = acceleration.reshape(-1, 100, 3, 1).astype(np.float64)
    for layer in range(1, 6):
        signal = numpy_convolution(
            signal, weights[f"conv{layer}/kernel"], weights[f"conv{layer}/bias"]
        )
    features = signal.reshape(len(signal), -1) @ weights["dense/kernel"] + weights["dense/bias"]
    sequence = features.reshape(batch, length, -1).transpose(1, 0, 2)
    ways = [
        numpy_lstm(sequence, weights["forward/kernel"], weights["forward/bias"]),
        numpy_lstm(sequence[::-1], weights["backward/kernel"], weights["backward/bias"])[::-1],
    ]
    states = np.concatenate(ways, axis=2).transpose(1, 0, 2)
    return (states @ weights["logits/kernel"] + weights["logits/bias"])[:, :, 0]


def test_loss_and_error_are_those_of_the_formulas(example, graph):
    data = noise([3, 4, 3])
    _, loss, error = example.model_fn(data, {**CONFIG, "batch_size": 3})
    variables = tf.trainable_variables()
    rng = np.random.default_rng(2)
    with tf.Session() as session:
        session.run([tf.global_variables_initializer(), tf.tables_initializer()])
        for variable in variables:  # biases of 0 would hide a gate that is mixed up
            if "bias" in variable.name:
                variable.load(rng.normal(0, 0.5, variable.shape), session)
        weights = {
            variable.op.name: value.astype(np.float64)
            for variable, value in zip(variables, session.run(variables), strict=True)
        }
        got_loss, got_error = session.run([loss, error])
    rows = np.array([0, 3, 7])[:, None] + np.arange(3)
    logits = numpy_model(data["acceleration"][rows], weights)
    labels = data["labels"][rows]
    cross_entropy = -(labels * np.log(sigmoid(logits)) + (1 - labels) * np.log(sigmoid(-logits)))
    penalty = sum((value**2).sum() / 2 for value in weights.values())
    expected = cross_entropy.sum() + CONFIG["reg_param"] * penalty
    np.testing.assert_allclose(got_loss, expected, rtol=1e-5)
    np.testing.assert_allclose(got_error, ((logits > 0) != labels).mean(), rtol=1e-5)


def numpy_lstms(sequence, forward, backward):
    ways = [numpy_lstm(sequence, *forward), numpy_lstm(sequence[::-1], *backward)[::-1]]
    return np.concatenate(ways, axis=2)


def test_the_lstms_gradient(example, graph):
    """It is that of the formulas, by finite differences in double precision."""
    rng = np.random.default_rng(3)
    sequence = rng.normal(0, 1, (4, 2, 3)).astype(np.float32)
    weighting = rng.normal(0, 1, (4, 2, 10))
    output = example.bidirectional("one", "two", tf.constant(sequence), 5)
    variables = tf.trainable_variables()
    gradients = tf.gradients(tf.reduce_sum(output * weighting.astype(np.float32)), variables)
    start = [rng.normal(0, 0.5, shape) for shape in [(8, 20), 20] * 2]
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for variable, value in zip(variables, start, strict=True):
            variable.load(value, session)
        found = session.run(gradients)
        states = session.run(output)

    def total(values):
        return (numpy_lstms(sequence, values[:2], values[2:]) * weighting).sum()

    np.testing.assert_allclose(states, numpy_lstms(sequence, start[:2], start[2:]), atol=1e-5)
    for which in range(4):
        expected = np.zeros_like(start[which])
        for index in np.ndindex(expected.shape):
            moved = [[value.copy() for value in start] for _ in range(2)]
            moved[0][which][index] += 1e-5
            moved[1][which][index] -= 1e-5
            expected[index] = (total(moved[0]) - total(moved[1])) / 2e-5
        np.testing.assert_allclose(found[which], expected, atol=1e-4)


def test_the_lstms_state_is_not_clipped(example, graph):
    steps, bias = 9, np.repeat([4.0, 4.0, 4.0, -1.0], 2)  # the cell grows by about 1 a step
    output = example.bidirectional("one", "two", tf.zeros([steps, 1, 3]), 2)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for variable in tf.trainable_variables():
            variable.load(bias if variable.shape == [8] else np.zeros((5, 8)), session)
        states = session.run(output)
    way = np.zeros((5, 8)), bias
    expected = numpy_lstms(np.zeros((steps, 1, 3)), way, way)
    np.testing.assert_allclose(states, expected, atol=1e-6)
    assert expected[-1, 0, 0] > np.tanh(3) * sigmoid(-1) * 1.004


def test_initial_weights(example, graph):
    example.model_fn(partition([6]), CONFIG)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for variable in tf.trainable_variables():
            value = session.run(variable)
            if variable.op.name.endswith("bias"):
                assert not value.any()
                continue
            receptive = int(np.prod(value.shape[:-2]))
            bound = np.sqrt(6 / (receptive * (value.shape[-2] + value.shape[-1])))
            assert 0.98 * bound < np.abs(value).max() < 1.0001 * bound


# -- train_fn and eval_fn --------------------------------------------------------------------


def test_training_lowers_the_loss_and_validation_changes_nothing(example, graph):
    optimizer, loss, error = example.model_fn(noise([12, 7]), CONFIG)
    train_step = optimizer.minimize(loss)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())

        def one_pass(train):
            session.run(tf.tables_initializer())
            return example.train_fn(session, train_step if train else None, loss, error, train)

        before = one_pass(False)
        weights = session.run(tf.global_variables())
        assert one_pass(False) == pytest.approx(before)
        for one, two in zip(weights, session.run(tf.global_variables()), strict=True):
            assert np.array_equal(one, two)
        for _ in range(8):
            trained = one_pass(True)
        assert trained[2] == 18
        after = one_pass(False)
        assert after[0] < 0.9 * before[0]


class Batches:
    """A session that gives these (loss, error, examples) and then ends as an iterator does."""

    def __init__(self, graph, batches, end=None):
        self.graph = graph
        self._batches = iter(batches)
        self._end = end or tf.errors.OutOfRangeError(None, None, "end of sequence")
        self.fetched = []

    def run(self, fetches):
        self.fetched.append(list(fetches))
        for batch in self._batches:
            return [*batch, None][: len(fetches)]
        raise self._end


@pytest.fixture
def pass_graph(graph):
    tf.add_to_collection("examples", tf.constant(0, name="examples"))
    return graph


def test_batches_count_by_their_windows(example, pass_graph):
    session = Batches(pass_graph, [(30.0, 0.5, 6), (10.0, 0.25, 4)])
    assert example.train_fn(session, "step", "loss", "error") == (4.0, 0.4, 10)
    assert all("step" in fetches for fetches in session.fetched)


def test_validation_runs_no_train_step(example, pass_graph):
    session = Batches(pass_graph, [(30.0, 0.5, 6)])
    example.train_fn(session, None, "loss", "error", train=False)
    assert all(len(fetches) == 3 for fetches in session.fetched)


def test_an_error_while_training_is_raised(example, pass_graph):
    end = tf.errors.InternalError(None, None, "persistent")
    session = Batches(pass_graph, [(30.0, 0.5, 6)], end)
    with pytest.raises(tf.errors.InternalError, match="persistent"):
        example.train_fn(session, "step", "loss", "error")


def test_a_pass_without_batches_is_an_error(example, pass_graph):
    with pytest.raises(RuntimeError, match="no batch came"):
        example.train_fn(Batches(pass_graph, []), "step", "loss", "error")


def test_eval_fn_stops_running_models_after_ten_epochs(example):
    state = {
        0: {"state": "RUNNING", "epoch": 9},
        1: {"state": "RUNNING", "epoch": 8},
        2: {"state": "COMPLETED", "epoch": 9},
        3: {"state": "RUNNING", "epoch": -1},
        4: {"state": "RUNNING", "epoch": 12},
    }
    assert example.eval_fn(state) == ([0, 4], [])
