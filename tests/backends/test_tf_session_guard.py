"""A `train_fn` that would start its model anew in each unit is refused."""

from __future__ import annotations

import numpy as np
import pytest
from tf_toy import handler, task

from cerebro.backends.tf.runtime import tf, v1, v1_behaviour
from cerebro.errors import UserFunctionError

pytestmark = pytest.mark.tf


@pytest.fixture(autouse=True)
def _v1():
    with v1_behaviour():
        yield


def model_fn(data, config):
    """Counts down from 1 by 0.25 a step; a hidden state and a metric are not trained."""
    w = v1.get_variable("w", [], initializer=v1.ones_initializer())
    v1.get_variable("hidden", [], initializer=v1.zeros_initializer(), trainable=False)
    v1.get_variable("seen", [], initializer=v1.zeros_initializer(), trainable=False,
                    collections=[v1.GraphKeys.LOCAL_VARIABLES])  # fmt: skip
    v1.global_variables_initializer()  # named "init"
    v1.train.Saver()
    return v1.train.MomentumOptimizer(0.25, 0.0), w + 0.0, w + 0.0


def variable(name):
    (found,) = [v for v in [*v1.global_variables(), *v1.local_variables()] if v.op.name == name]
    return found


def trainer(before, train_too=True):
    """A `train_fn` that does something before it trains."""

    def train_fn(session, train_step, loss, error, train=True):
        before(session)
        if train:
            session.run(train_step)
        return session.run([loss, error])

    return train_fn


def run(before, units=2, train=True, **config):
    tool = handler(model_fn, trainer(before), lambda path: 0)
    state = None
    try:
        for epoch in range(units):
            done = tool.run(task(epoch=epoch, **config), 0, state)
            state = done.state
        return done.loss if train else tool.run(task(epoch=9, train=False), 0, state).loss
    finally:
        tool.close()


REINITIALIZING = {
    "all variables": lambda s: s.run(v1.global_variables_initializer()),
    "in a list": lambda s: s.run([[v1.no_op()], {"a": v1.global_variables_initializer()}]),
    "by name": lambda s: s.run("init"),
    "by itself": lambda s: v1.global_variables_initializer().run(),
    "some": lambda s: s.run(v1.variables_initializer([variable("w")])),
    "one": lambda s: s.run(variable("w").initializer),
    "assigned": lambda s: s.run(variable("w").assign(variable("w").initial_value)),
    "a slot": lambda s: s.run(variable("w/Momentum").initializer),
    "behind another": lambda s: s.run(after(v1.global_variables_initializer())),
    "a callable": lambda s: s.make_callable(v1.global_variables_initializer())(),
    "partly": lambda s: s.partial_run_setup([v1.global_variables_initializer()]),
    "what is not yet initialized": lambda s: s.run(
        v1.variables_initializer(v1.trainable_variables() + v1.local_variables())
    ),
}


def after(op):
    with tf.control_dependencies([op]):
        return tf.constant(1.0)


@pytest.mark.parametrize("way", REINITIALIZING)
def test_initializing_what_is_trained_is_refused(way):
    with pytest.raises(UserFunctionError, match=r"ran the initializer of .*w.*remove") as caught:
        run(REINITIALIZING[way])
    assert caught.value.function == "train_fn"
    assert "test_tf_session_guard.py" in caught.value.remote_traceback


def test_initializing_before_a_validation_is_refused():
    def when_validating(session):
        if not any(op.name.startswith("gradients") for op in session.graph.get_operations()):
            session.run(v1.global_variables_initializer())

    with pytest.raises(UserFunctionError, match="ran the initializer of w"):
        run(when_validating, train=False)


ALLOWED = {
    "local variables": lambda s: s.run([v1.local_variables_initializer(), v1.tables_initializer()]),
    "a hidden state": lambda s: s.run(variable("hidden").initializer),
    "another value": lambda s: variable("hidden").load(3.0, s),
    "a made variable": lambda s: s.run(tf.Variable(1.0, trainable=False, name="new").initializer),
}


@pytest.mark.parametrize("way", ALLOWED)
def test_initializing_what_is_not_trained_is_allowed(way):
    assert run(ALLOWED[way]) == 0.5


def test_setting_a_value_is_no_initializing():
    assert run(lambda session: variable("w").load(5.0, session)) == 4.75


@pytest.fixture
def checkpoint(tmp_path):
    with tf.Graph().as_default(), v1.Session() as session:
        w = v1.get_variable("w", [], initializer=v1.constant_initializer(9.0))
        session.run(w.initializer)
        return v1.train.Saver([w]).save(session, str(tmp_path / "theirs"))


def test_restoring_what_is_trained_is_refused_once_it_was_trained(checkpoint):
    def restoring(session):
        v1.train.Saver([variable("w")]).restore(session, checkpoint)

    assert run(restoring, units=1) == 8.75
    with pytest.raises(UserFunctionError, match=r"restored w from a checkpoint.*init_ckpt_path"):
        run(restoring)


def test_restoring_what_the_unit_has_saved_is_allowed(tmp_path):
    def best_of_the_unit(session):
        saver = v1.train.Saver([variable("w")])
        path = saver.save(session, str(tmp_path / "best"))
        saver.restore(session, path)

    assert run(best_of_the_unit) == 0.5


def test_a_kept_session_is_looked_at_in_every_unit():
    """Also where what is fetched was found harmless before."""
    calls = []

    def late(session):
        calls.append(session)
        if len(calls) == 3:
            session.run("init")

    with pytest.raises(UserFunctionError, match="ran the initializer"):
        run(late, units=3)
    assert len(set(calls)) == 1
    assert np.isclose(run(lambda session: None, units=3), 0.25)


def test_training_in_a_session_of_its_own_is_said_in_the_log(capsys):
    def elsewhere(session, train_step, loss, error, train=True):
        with v1.Session(graph=session.graph) as own:
            own.run(v1.global_variables_initializer())
            own.run(train_step)
        return session.run([loss, error])

    tool = handler(model_fn, elsewhere, lambda path: 0)
    tool.run(task(), 0, None)
    tool.close()
    assert "did not run train_step in the session that it was given" in capsys.readouterr().err
    run(lambda session: None)
    assert capsys.readouterr().err == ""
