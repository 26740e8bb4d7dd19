"""What the backend asks of `model_fn` and `train_fn`, does with them, and says when they err."""

from __future__ import annotations

import numpy as np
import pytest
from tf_toy import handler, losses, model_fn, task, train_fn

from cerebro.backends.tf import graphs
from cerebro.backends.tf.host_memory import State
from cerebro.backends.tf.runtime import tf, v1, v1_behaviour
from cerebro.errors import BadReturn, UserFunctionError

pytestmark = pytest.mark.tf

DATA = np.linspace(0, 1, 72, dtype=np.float32).reshape(24, 3)


@pytest.fixture(autouse=True)
def _v1():
    with v1_behaviour():
        yield


def constant_losses():
    return losses(tf.constant(DATA))


def one_step(session, train_step, loss, error, train=True):
    if train:
        session.run(train_step)
    return session.run([loss, error])


def run(model_fn=model_fn, train_fn=train_fn, state=None, **kwargs):
    tool = handler(model_fn, train_fn)
    try:
        return tool.run(task(**kwargs), DATA, state)
    finally:
        tool.close()


class CountingOptimizer(v1.train.GradientDescentOptimizer):
    def __init__(self):
        super().__init__(0.1)
        self.calls = 0

    def minimize(self, *args, **kwargs):
        self.calls += 1
        return super().minimize(*args, **kwargs)


class BareOptimizer:
    """Not TensorFlow's: only the method that the contract names."""

    def minimize(self, loss):
        variables = v1.trainable_variables()
        gradients = tf.gradients(loss, variables)
        return tf.group(*(v.assign_sub(0.1 * g) for v, g in zip(variables, gradients, strict=True)))


def test_minimize_is_called_once_and_only_for_training():
    made = []

    def model(data, config):
        made.append(CountingOptimizer())
        return made[-1], *constant_losses()

    state = run(model, one_step).state
    result = run(model, one_step, state, train=False)
    assert [optimizer.calls for optimizer in made] == [1, 0]
    assert result.state is None


@pytest.mark.parametrize("optimizer", [CountingOptimizer, BareOptimizer])
def test_an_optimizer_of_the_users_own_trains(optimizer):
    def model(data, config):
        return optimizer(), *constant_losses()

    first = run(model, one_step)
    second = run(model, one_step, first.state)
    assert second.loss < first.loss


def test_a_model_fn_that_calls_minimize_itself_still_trains_once_a_step():
    def model(data, config):
        w = v1.get_variable("w", initializer=0.0)
        optimizer = v1.train.GradientDescentOptimizer(1.0)
        loss = w * 1.0
        optimizer.minimize(loss)
        return optimizer, loss, loss

    assert run(model, one_step).state["w"] == -1.0


def test_validation_gets_no_train_step_and_builds_no_gradient():
    got = []

    def trainer(session, train_step, loss, error, train=True):
        got.append((train_step, train, [op.name for op in session.graph.get_operations()]))
        return one_step(session, train_step, loss, error, train)

    state = run(train_fn=trainer).state
    run(train_fn=trainer, state=state, train=False)
    (step, trained, ops), (no_step, validated, fewer) = got
    assert step is not None
    assert trained is True
    assert any("gradients" in name for name in ops)
    assert no_step is None
    assert validated is False
    assert not any("gradients" in name or "Adam" in name for name in fewer)


def test_update_ops_run_before_each_train_step_and_not_when_validating():
    def model(data, config):
        loss, error = constant_losses()
        count = v1.get_variable("count", initializer=0, trainable=False)
        v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, v1.assign_add(count, 1))
        return v1.train.GradientDescentOptimizer(0.1), loss, error

    def trainer(session, train_step, loss, error, train=True):
        for _ in range(3):
            session.run(train_step if train else loss)
        count = session.graph.get_tensor_by_name("count:0")
        return session.run([loss, error, count])

    result = run(model, trainer)
    assert result.state["count"] == 3
    assert run(model, trainer, result.state, train=False).examples == 3


def test_train_goes_to_model_fn_only_if_it_names_it():
    seen = []

    def plain(data, config):
        seen.append("plain")
        return model_fn(data, config)

    def keywords(data, config, **kwargs):
        seen.append(kwargs)
        return model_fn(data, config)

    def named(data, config, *, train):
        seen.append(train)
        return model_fn(data, config)

    for model in (plain, keywords, named):
        run(model)
    assert seen == ["plain", {}, True]


@pytest.mark.parametrize(
    "trainer",
    [
        lambda s, step, loss, error, train=True: one_step(s, step, loss, error, train),
        lambda s, step, loss, error, is_train: one_step(s, step, loss, error, is_train),
        lambda *args, **kwargs: one_step(*args, **kwargs),
    ],
    ids=["keyword", "position", "any"],
)
def test_ways_to_take_train(trainer):
    assert run(train_fn=trainer).examples is None


def test_train_fn_without_train_is_told_what_to_take():
    with pytest.raises(UserFunctionError, match=r"give it these five parameters") as caught:
        run(train_fn=lambda session, train_step, loss, error: (0.0, 0.0))
    assert caught.value.function == "train_fn"


def adam():
    return v1.train.AdamOptimizer()


BAD_MODELS = {
    "no tuple": (lambda d, c: None, r"returned None: expected \(optimizer, loss, error\)"),
    "two": (lambda d, c: constant_losses(), r"expected \(optimizer, loss, error\)"),
    "keras model": (
        lambda d, c: tf.keras.Sequential([tf.keras.layers.Dense(1)]),
        r"returned a keras.Model: this backend trains TensorFlow V1 graphs.*get_variable",
    ),
    "keras optimizer": (
        lambda d, c: (tf.keras.optimizers.Adam(), *constant_losses()),
        r"Keras optimizer \(Adam\).*tf.compat.v1.train.AdamOptimizer",
    ),
    "no optimizer": (lambda d, c: ("adam", *constant_losses()), r"'adam' as the optimizer"),
    "loss a float": (lambda d, c: (adam(), 1.0, constant_losses()[1]), r"1.0 as the loss"),
    "loss a vector": (
        lambda d, c: (adam(), tf.ones([2, 3]) * constant_losses()[0], tf.constant(0.0)),
        r"loss of shape \(2, 3\).*tf.reduce_mean\(loss\)",
    ),
    "loss an integer": (
        lambda d, c: (adam(), tf.constant(1), tf.constant(1.0)),
        r"loss of type int32.*tf.cast",
    ),
    "error a string": (
        lambda d, c: (adam(), constant_losses()[0], tf.constant("bad")),
        r"error of type string",
    ),
    "error a vector": (
        lambda d, c: (adam(), constant_losses()[0], tf.zeros([4])),
        r"error of shape \(4,\)",
    ),
    "other graph": (
        lambda d, c: (adam(), elsewhere(), tf.constant(0.0)),
        r"loss of another graph",
    ),
    "no train op": (
        lambda d, c: (
            type("Mine", (), {"minimize": lambda self, loss: None})(),
            *constant_losses(),
        ),
        r"minimize\(loss\) returned None: an optimizer of your own must return",
    ),
    "no variables": (
        lambda d, c: (
            type("Mine", (), {"minimize": lambda self, loss: tf.no_op()})(),
            tf.constant(1.0),
            tf.constant(1.0),
        ),
        r"made no variables",
    ),
}


def elsewhere():
    with tf.Graph().as_default():
        return tf.constant(1.0)


@pytest.mark.parametrize("model", BAD_MODELS)
def test_what_model_fn_may_not_return(model):
    function, message = BAD_MODELS[model]
    with pytest.raises(BadReturn, match=message) as caught:
        run(function)
    assert caught.value.function == "model_fn"


@pytest.mark.parametrize(
    "loss",
    [lambda: tf.constant(1.0), lambda: tf.cast(v1.get_variable("w", [], tf.int32), tf.float32)],
    ids=["no variables", "no gradient"],
)
def test_a_loss_that_cannot_be_minimized(loss):
    with pytest.raises(UserFunctionError, match=r"minimize\(loss\) raised .*must depend") as caught:
        run(lambda data, config: (adam(), loss(), tf.constant(0.0)))
    assert caught.value.function == "model_fn"
    assert "Traceback" in caught.value.remote_traceback


def test_a_loss_of_unknown_rank_is_left_to_the_session():
    def model(data, config):
        loss, error = constant_losses()
        return adam(), v1.placeholder_with_default(loss, None), error

    assert np.isfinite(run(model, one_step).loss)


def test_an_error_inside_train_fn_names_it_and_closes_the_session():
    sessions = []

    def trainer(session, train_step, loss, error, train=True):
        sessions.append(session)
        raise KeyError("oops")

    with pytest.raises(UserFunctionError, match="train_fn raised KeyError: 'oops'") as caught:
        run(train_fn=trainer)
    assert "trainer" in caught.value.remote_traceback
    with pytest.raises(RuntimeError, match="closed"):
        sessions[0].run(tf.no_op())


def test_a_train_fn_that_closes_the_session_is_told():
    def closing(session, train_step, loss, error, train=True):
        with session:
            return session.run([loss, error])

    with pytest.raises(UserFunctionError, match="train_fn closed the session"):
        run(train_fn=closing)


def test_an_exhausted_input_is_explained():
    def counted(session, train_step, loss, error, train=True):
        for _ in range(100):
            session.run(train_step)

    with pytest.raises(UserFunctionError, match=r"input is exhausted.*except tf.errors.OutOf"):
        run(train_fn=counted)


def test_an_error_in_model_fn_names_it():
    with pytest.raises(UserFunctionError, match="model_fn raised ZeroDivisionError") as caught:
        run(lambda data, config: 1 / 0)
    assert caught.value.function == "model_fn"


def test_train_fn_runs_in_the_default_graph_and_session():
    def trainer(session, train_step, loss, error, train=True):
        assert v1.get_default_graph() is loss.graph
        train_step.run()
        return loss.eval(), error.eval()

    assert np.isfinite(run(train_fn=trainer).loss)


def keras_model(name):
    def model(data, config):
        y = tf.keras.layers.Dense(1, name=name)(tf.constant(DATA))
        loss = tf.reduce_mean(y**2)
        return v1.train.AdamOptimizer(), loss, loss

    return model


def test_keras_layers_named_anew_at_each_build_are_refused():
    tool = handler(keras_model(None), one_step)
    state = {
        name.replace("dense", "dense_77"): value
        for name, value in run(keras_model("dense"), one_step).state.items()
    }
    with pytest.raises(BadReturn) as caught:
        tool.run(task(train=False), DATA, state)
    message = str(caught.value)
    assert "dense" in message
    assert "dense_77/kernel" in message
    assert "tf.compat.v1.get_variable" in message
    assert "clear_session() is not enough" in message


def test_keras_3_numbers_layers_on_and_is_caught():
    if getattr(tf.keras, "__version__", "2").startswith("2"):
        pytest.skip("Keras 2 numbers layers graph by graph, which is stable")
    tool = handler(keras_model(None), one_step)
    state = tool.run(task(), DATA, None).state
    with pytest.raises(BadReturn, match=r"it made dense_\d+/kernel.*saved state has dense"):
        tool.run(task(train=False), DATA, state)


def test_keras_layers_with_fixed_names_work():
    tool = handler(keras_model("fixed"), one_step)
    state = tool.run(task(), DATA, None).state
    assert "fixed/kernel" in state
    tool.run(task(train=False), DATA, state)
    tool.run(task(partition=1), DATA, state)
    tool.close()


def test_states_that_do_not_fit_name_what_differs():
    state = run().state
    wrong = {**state, "hidden": np.zeros((2, 2), np.float32)}
    with pytest.raises(BadReturn, match=r"hidden is float32 \(3, 8\), but was saved as .*\(2, 2\)"):
        run(state=wrong)
    with pytest.raises(BadReturn, match=r"hidden is float32 .* saved as float64"):
        run(state={**state, "hidden": state["hidden"].astype(float)})
    with pytest.raises(BadReturn, match="it made out, which the saved state lacks"):
        run(state={name: value for name, value in state.items() if name != "out"})
    with pytest.raises(BadReturn, match="state also holds other/x, which the training graph"):
        run(state={**state, "other/x": np.zeros(1)})
    run(state={**state, "other/x": np.zeros(1)}, train=False)


def test_a_warm_start_without_slots_gets_fresh_ones():
    state = run().state
    weights = State({name: state[name] for name in ("hidden", "out")})
    zeros = {n: v * 0 for n, v in state.items() if "Adam" in n}
    powers = {"beta1_power": np.float32(0.9), "beta2_power": np.float32(0.999)}
    expected = run(state=State({**weights, **zeros, **powers}), epoch=1).state
    got = run(state=weights, epoch=1).state
    assert got.keys() == state.keys()
    assert all(np.array_equal(got[name], expected[name]) for name in got)


def test_local_variables_start_anew_in_each_unit():
    def model(data, config):
        loss, error = constant_losses()
        count = v1.get_variable("n", initializer=0.0, collections=[v1.GraphKeys.LOCAL_VARIABLES])
        return adam(), loss, v1.assign_add(count, 1.0) + 0 * error

    tool = handler(model, lambda s, step, loss, error, train=True: s.run([loss, error]))
    first = tool.run(task(), DATA, None)
    assert "n" not in first.state
    assert [first.error, tool.run(task(epoch=1), DATA, first.state).error] == [1.0, 1.0]
    tool.close()


def test_max_steps_ends_the_input():
    steps = []

    def counted(session, train_step, loss, error, train=True):
        for _ in range(100):
            steps.append(session.run([loss, train_step] if train else [loss, error])[0])
        raise AssertionError("the input did not end")

    tool = handler(train_fn=counted, max_steps=2)
    trained = tool.run(task(), DATA, None)
    assert len(steps) == 2
    assert trained.loss == pytest.approx(np.mean(steps))
    assert trained.examples is None
    assert tool.run(task(train=False), DATA, trained.state).loss < trained.loss
    assert len(steps) == 4
    proper = handler(max_steps=2)
    assert proper.run(task(), DATA, None).examples == 2
    proper.close()
    tool.close()


def test_a_graph_without_gradients_is_what_validation_costs():
    built = [graphs.build(model_fn, DATA, {}, train=train, seed=1).graph for train in (True, False)]
    sizes = [len(graph.get_operations()) for graph in built]
    assert sizes[1] < sizes[0] / 2
