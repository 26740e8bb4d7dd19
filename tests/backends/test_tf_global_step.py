"""A learning rate that decays with the global step does so as in a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from tf_toy import handler, task

from cerebro.backends.base import Options, UserFunctions
from cerebro.backends.tf import TensorFlowHandler
from cerebro.backends.tf.runtime import tf, v1, v1_behaviour
from cerebro.errors import UserFunctionError

pytestmark = pytest.mark.tf

STEPS = 4
DECAYED = [-(2.0 - 0.5 ** (STEPS * unit - 1)) for unit in (1, 2, 3)]
"""The sum of -(1 + 1/2 + 1/4 + ...) after one unit, two, three."""


@pytest.fixture(autouse=True)
def _v1():
    with v1_behaviour():
        yield


def decaying(step):
    return v1.train.exponential_decay(1.0, step, decay_steps=1, decay_rate=0.5)


def weight():
    """A weight whose value is minus the sum of the learning rates so far."""
    w = v1.get_variable("w", [], initializer=v1.zeros_initializer())
    return w + tf.constant(0.0)


def model_fn(data, config):
    step = v1.train.get_or_create_global_step()
    loss = weight()
    return v1.train.GradientDescentOptimizer(decaying(step)), loss, loss


def train_fn(session, train_step, loss, error, train=True):
    for _ in range(STEPS if train else 0):
        session.run(train_step)
    return session.run([loss, error])


def losses(model=model_fn, trainer=train_fn, units=3, **options):
    """The losses after each unit, the state passed on from one to the next."""
    functions = UserFunctions(lambda path: 0, model, trainer)
    tool = TensorFlowHandler(functions, Options(threads=1, **options))
    state, found = None, []
    for unit in range(units):
        run = tool.run(task(epoch=unit), 0, state)
        state = run.state
        found.append(run.loss)
    tool.close()
    return found, state


def test_it_decays_from_unit_to_unit_and_is_in_the_state():
    found, state = losses()
    assert found == DECAYED
    assert state["global_step"] == 3 * STEPS


def test_it_is_what_a_plain_loop_gives():
    def model(data, config):
        step = v1.train.get_or_create_global_step()
        w = v1.get_variable("w", [3], initializer=v1.ones_initializer())
        rate = v1.train.polynomial_decay(0.3, step, 10, 0.001, power=1.5)
        loss = tf.reduce_sum(w**4)
        return v1.train.AdamOptimizer(rate), loss, loss

    _, state = losses(model)
    with tf.Graph().as_default(), v1.Session() as session:
        optimizer, loss, _ = model(0, {})
        train = optimizer.minimize(loss, global_step=v1.train.get_global_step())
        session.run(v1.global_variables_initializer())
        for _ in range(3 * STEPS):
            session.run(train)
        plain = session.run({v.op.name: v for v in v1.global_variables()})
    assert plain["global_step"] == 3 * STEPS
    assert {n: v.tobytes() for n, v in plain.items()} == {n: v.tobytes() for n, v in state.items()}


def test_by_another_way_of_making_it():
    def named(data, config):
        step = tf.Variable(0, trainable=False, name="global_step")
        return v1.train.GradientDescentOptimizer(decaying(step)), *[weight()] * 2

    def resource(data, config):
        v1.enable_resource_variables()
        try:
            return model_fn(data, config)
        finally:
            v1.disable_resource_variables()

    def own_name(data, config):
        with v1.variable_scope("mine"):
            step = v1.get_variable(
                "count", [], tf.int64, v1.zeros_initializer(), trainable=False,
                collections=[v1.GraphKeys.GLOBAL_STEP, v1.GraphKeys.GLOBAL_VARIABLES],
            )  # fmt: skip
        return v1.train.GradientDescentOptimizer(decaying(step)), *[weight()] * 2

    def in_a_scope(data, config):
        with v1.variable_scope("train"):
            step = tf.Variable(0, trainable=False, name="global_step")
        return v1.train.GradientDescentOptimizer(decaying(step)), *[weight()] * 2

    def floating(data, config):
        step = tf.Variable(0.0, trainable=False, name="global_step")
        return v1.train.GradientDescentOptimizer(decaying(step)), *[weight()] * 2

    for model in (named, resource, own_name, in_a_scope, floating):
        assert losses(model)[0] == DECAYED


class Wrapped:
    """An optimizer of the user's own around another one, which takes any keyword."""

    def __init__(self, rate):
        self.inner = v1.train.GradientDescentOptimizer(rate)

    def minimize(self, loss, **keywords):
        return self.inner.minimize(loss, **keywords)


class Refusing(Wrapped):
    """Passes any keyword on to what takes none; advances the step by itself."""

    def minimize(self, loss, **keywords):
        return self._minimize(loss, **keywords)

    def _minimize(self, loss):
        return self.inner.minimize(loss, global_step=v1.train.get_global_step())


class Own(Wrapped):
    """Takes no keyword, and advances the step by itself."""

    def minimize(self, loss):
        return self.inner.minimize(loss, global_step=v1.train.get_global_step())


@pytest.mark.parametrize("optimizer", [Wrapped, Refusing, Own])
def test_any_optimizer_whose_minimize_advances_it(optimizer):
    def model(data, config):
        rate = decaying(v1.train.get_or_create_global_step())
        return optimizer(rate), *[weight()] * 2

    assert losses(model)[0] == DECAYED


def test_it_is_not_advanced_twice():
    def by_update_op(data, config):
        optimizer, loss, error = model_fn(data, config)
        step = v1.train.get_global_step()
        v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, v1.assign_add(step, 1))
        return optimizer, loss, error

    _, state = losses(by_update_op)
    assert state["global_step"] == 3 * STEPS

    def by_an_op_of_its_own(data, config):
        result = model_fn(data, config)
        v1.assign_add(v1.train.get_global_step(), 1, name="advance")
        return result

    def advancing(session, train_step, loss, error, train=True):
        for _ in range(STEPS):
            session.run(train_step)
            session.run("advance")
        return session.run([loss, error])

    found, state = losses(by_an_op_of_its_own, advancing)
    assert found == DECAYED
    assert state["global_step"] == 3 * STEPS


def test_a_saver_in_model_fn_is_not_taken_for_what_advances_it():
    def model(data, config):
        result = model_fn(data, config)
        v1.train.Saver()
        return result

    assert losses(model)[0] == DECAYED


def test_a_train_fn_that_advances_it_too_is_refused():
    def advancing(session, train_step, loss, error, train=True):
        session.run([train_step, v1.assign_add(v1.train.get_global_step(), 1)])
        return session.run([loss, error])

    with pytest.raises(
        UserFunctionError, match=r"changes the global step.*Remove it from train_fn"
    ):
        losses(trainer=advancing)


def test_a_step_that_stands_still_is_an_error():
    class Deaf(Wrapped):
        def minimize(self, loss):
            return self.inner.minimize(loss)

    def deaf(data, config):
        return Deaf(decaying(v1.train.get_or_create_global_step())), *[weight()] * 2

    with pytest.raises(UserFunctionError, match=r"the global step .*stayed 0.*UPDATE_OPS"):
        losses(deaf)

    def left_over(data, config):
        optimizer, loss, error = model_fn(data, config)
        optimizer.minimize(loss, global_step=v1.train.get_global_step())
        return optimizer, loss, error

    with pytest.raises(UserFunctionError, match="an op of model_fn that changes it was not run"):
        losses(left_over)


def test_a_counter_that_is_not_marked_is_an_error_unless_something_changes_it():
    def unmarked(data, config):
        step = tf.Variable(0, trainable=False)
        return v1.train.GradientDescentOptimizer(decaying(step)), *[weight()] * 2

    with pytest.raises(
        UserFunctionError, match=r"variable Variable, an.*global step.*get_or_create"
    ):
        losses(unmarked)

    def counting(session, train_step, loss, error, train=True):
        (epoch,) = [v for v in v1.global_variables() if v.op.name == "Variable"]
        for _ in range(STEPS):
            session.run(train_step)
            session.run(v1.assign_add(epoch, 1))
        return session.run([loss, error])

    assert losses(unmarked, counting)[0] == DECAYED


def test_a_step_that_nothing_follows_is_advanced_and_no_constant_is_in_the_way():
    def model(data, config):
        v1.train.get_or_create_global_step()
        classes = tf.Variable(2, trainable=False, name="classes")
        loss = weight() * tf.cast(classes, tf.float32)
        return v1.train.GradientDescentOptimizer(0.5), loss, loss

    _, state = losses(model)
    assert state["global_step"] == 3 * STEPS


def test_older_runs_keep_the_old_way():
    found, state = losses(global_step=False)
    assert found == [-4.0, -8.0, -12.0]
    assert state["global_step"] == 0


def test_check_passes_it_too():
    tool = handler(model_fn, train_fn, lambda path: 0)
    assert tool.options.global_step
    state = tool.run(task(), 0, None).state
    assert state["global_step"] == STEPS
    assert np.isclose(tool.run(task(train=False), 0, state).loss, DECAYED[0])
    tool.close()
