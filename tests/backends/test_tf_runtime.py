"""The process that trains is set up for it; the user's own process is left as it was."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tf_toy
from patience import PATIENCE

from cerebro.backends.base import Options, UserFunctions, user_code
from cerebro.backends.tf import TensorFlowHandler
from cerebro.backends.tf.runtime import is_resource_error, session_config, tf, writer_config
from cerebro.errors import BadReturn, UserFunctionError

pytestmark = pytest.mark.tf

ROOT = Path(__file__).parent.parent.parent


def python(code, **environment):
    """What a new process prints that runs `code`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


SWITCHES = """
import sys
from cerebro.backends.tf.runtime import tf, v1, v1_behaviour
from tensorflow.python import tf2
from tensorflow.python.framework import ops, tensor

def switches():
    found = {"tf2": tf2.enabled(), "eager": tf.executing_eagerly()}
    for name, module in list(sys.modules.items()):
        if name.startswith("tensorflow.python.") and "_pywrap" not in name:
            for attribute, value in list(vars(module).items()):
                found[name, attribute] = id(value)
    found["equality"] = tensor.Tensor._USE_EQUALITY
    # Made when it is first asked for; what it holds is tested by using it.
    del found["tensorflow.python.eager.context", "_context"]
    return found

START

before = switches()
try:
    with v1_behaviour():
        inside = switches()
        assert not tf.executing_eagerly()
        assert not v1.resource_variables_enabled() and not v1.control_flow_v2_enabled()
        with tf.Graph().as_default():
            assert type(v1.get_variable("w", [2])).__name__ == "RefVariable"
            assert isinstance(tf.zeros([2]).shape[0], v1.Dimension)
        v1.get_default_graph()
        raise KeyError
except KeyError:
    pass
after = switches()
print(sum(inside[key] != before[key] for key in before))
print(*(key for key in before if after[key] != before[key]))
CHECK
"""


def test_v1_behaviour_puts_back_every_switch():
    check = "print('EAGER', float(tf.Variable(2.0) + 1) == 3.0, (tf.ones(2) == 1.0).shape[0])"
    changed, *rest = python(SWITCHES.replace("START", "").replace("CHECK", check))
    assert int(changed) > 10
    assert rest == ["EAGER", "True", "2"]


def test_v1_behaviour_leaves_a_process_that_had_it_already():
    start = "v1.disable_v2_behavior()"
    check = "print('EAGER', tf.executing_eagerly())"
    changed, *rest = python(SWITCHES.replace("START", start).replace("CHECK", check))
    assert int(changed) == 0
    assert rest == ["EAGER", "False"]


def test_a_check_leaves_the_users_process_as_it_was():
    def trainer(session, train_step, loss, error, train=True):
        assert not tf.executing_eagerly()
        return tf_toy.train_fn(session, train_step, loss, error, train)

    functions = UserFunctions(tf_toy.input_fn, tf_toy.model_fn, trainer)
    handler = TensorFlowHandler.for_check(functions, Options(), steps=2)
    before = random.getstate(), np.random.get_state()[1].tolist()
    data = handler.load("part0", 1)
    trained = handler.run(tf_toy.task(), data, None)
    assert handler.run(tf_toy.task(train=False), data, trained.state).examples == 2
    with pytest.raises(BadReturn):
        handler.run(tf_toy.task(), data, {})
    handler.close()
    assert tf.executing_eagerly()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert float(tf.Variable(1.0) + 1.0) == 2.0


PREPARE = """
import os
from cerebro.backends.base import Options
from cerebro.backends.tf.runtime import prepare_process, session_config, device_names, tf, v1
from tensorflow.python.framework import config
from cerebro.errors import InputError
options = Options(threads=2, deterministic={deterministic})
prepare_process(options)
print(tf.executing_eagerly(), config.is_op_determinism_enabled())
print(os.environ["TF_CPP_MIN_LOG_LEVEL"])
print(*device_names(options))
try:
    prepare_process(Options(gpu=99))
except InputError as error:
    print("REFUSED", "GPU 99 is not there" in str(error))
"""


@pytest.mark.parametrize("deterministic", [True, False])
def test_prepare_process(deterministic):
    environment = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    got = python(PREPARE.format(deterministic=deterministic), **environment)
    assert got == ["False", str(deterministic), "3", "CPU", "REFUSED", "True"]


def test_tensorflow_is_quiet_unless_asked():
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    code = "import cerebro.backends.tf, os; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["2"]
    assert "cpu_feature_guard" not in done.stderr


PIPELINE = """
import numpy as np
from cerebro.backends.base import Options
from cerebro.backends.tf.runtime import prepare_process, session_config, tf, v1
options = Options(threads=1)
prepare_process(options)
def rows():
    for i in range(40):
        yield np.float32(i)
with tf.Graph().as_default():
    v1.set_random_seed(1)
    data = tf.data.Dataset.from_generator(rows, tf.float32, [])
    data = data.interleave(
        lambda x: tf.data.Dataset.from_tensors(x).repeat(3), cycle_length=4, num_parallel_calls=2
    )
    data = data.map(lambda x: tf.numpy_function(lambda y: y + np.float32(1), [x], tf.float32), 4)
    data = data.shuffle(20).batch(4).prefetch(3)
    x = v1.data.make_one_shot_iterator(data).get_next()
    y = tf.py_function(lambda z: z * 2, [x], tf.float32)
    z = tf.py_function(lambda z: z * 2, [y], tf.float32)
    queue = v1.FIFOQueue(2, tf.float32, [4])
    v1.train.add_queue_runner(v1.train.QueueRunner(queue, [queue.enqueue(tf.reshape(z, [4]))]))
    out = queue.dequeue()
    session = v1.Session(config=session_config(options))
    coordinator = v1.train.Coordinator()
    threads = v1.train.start_queue_runners(session, coordinator)
    total = sum(session.run(out).sum() for _ in range(30))
    coordinator.request_stop()
    session.close()
print(total)
"""


def test_one_thread_for_ops_does_not_block_iterators_queues_and_python_functions():
    assert python(PIPELINE) == [str(3 * 4 * sum(range(1, 41)) * 1.0)]


def test_session_config():
    config = session_config(Options(threads=3))
    assert config.intra_op_parallelism_threads == 3
    assert config.inter_op_parallelism_threads == 1
    assert config.allow_soft_placement
    assert config.gpu_options.allow_growth
    assert config.gpu_options.visible_device_list == ""
    assert session_config(Options(threads=3, deterministic=False)).inter_op_parallelism_threads == 3
    assert session_config(Options(gpu=1)).gpu_options.visible_device_list == "1"
    # Saving must not wait for a thread that trains, nor take a part of the GPU.
    assert writer_config(Options(threads=3)).use_per_session_threads
    assert writer_config(Options()).device_count["GPU"] == 0


def test_gpu_memory_is_bounded_on_each_gpu(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu0", "gpu1"])

    def limits(**options):
        gpu_options = session_config(Options(**options)).gpu_options
        return [list(d.memory_limit_mb) for d in gpu_options.experimental.virtual_devices]

    assert limits(gpu_memory_gb=4.0) == [[3814.0], [3814.0]]
    assert limits(gpu_memory_gb=4.0, gpu=1) == [[3814.0]]
    assert limits() == []


def raised(error):
    with pytest.raises(UserFunctionError) as caught, user_code("train_fn"):
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"), True),
        (tf.errors.InternalError(None, None, "CUDA_ERROR_LAUNCH_FAILED: launch failed"), True),
        (tf.errors.UnknownError(None, None, "Failed to get convolution, cuDNN failed"), True),
        (tf.errors.InternalError(None, None, "failed to allocate memory"), True),
        (tf.errors.InternalError(None, None, "shapes differ"), False),
        (tf.errors.InvalidArgumentError(None, None, "no CUDA kernel for this"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_resource_errors_are_recognised_also_as_causes(error, expected):
    assert is_resource_error(error) is expected
    assert is_resource_error(raised(error)) is expected


def test_memory_errors_are_resource_errors():
    assert is_resource_error(MemoryError())
    assert not is_resource_error(KeyError())
