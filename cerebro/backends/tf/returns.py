"""What `model_fn` may return, checked before anything is trained with it."""

from __future__ import annotations

from typing import Any

from cerebro.backends.returns import is_keras
from cerebro.backends.tf.runtime import tf
from cerebro.errors import BadReturn
from cerebro.formatting import shorten

EXPECTED = "expected (optimizer, loss, error)"


def model_result(value: Any, graph: tf.Graph) -> tuple[Any, tf.Tensor, tf.Tensor]:
    """(optimizer, loss, error) of what `model_fn` returned while building `graph`.

    Raises `BadReturn`, saying what came and what to return instead.
    """
    if is_keras(value, "Model"):
        raise _bad(
            "model_fn returned a keras.Model: this backend trains TensorFlow V1 graphs. Use "
            "backend='keras'; or return (optimizer, loss, error), and build the layers with "
            "tf.nn.* and tf.compat.v1.get_variable"
        )
    if not isinstance(value, (tuple, list)) or len(value) != 3:
        raise _bad(f"model_fn returned {shorten(value)}: {EXPECTED}")
    optimizer, loss, error = value
    if is_keras(optimizer, "Optimizer"):
        raise _bad(
            f"model_fn returned a Keras optimizer ({type(optimizer).__name__}), which cannot train "
            "a TensorFlow V1 graph: use one of tf.compat.v1.train, such as "
            "tf.compat.v1.train.AdamOptimizer(learning_rate)"
        )
    if not callable(getattr(optimizer, "minimize", None)):
        raise _bad(
            f"model_fn returned {shorten(optimizer)} as the optimizer: it needs a method "
            "minimize(loss), as tf.compat.v1.train.AdamOptimizer(learning_rate) has"
        )
    _check_scalar("loss", loss, graph)
    if not loss.dtype.is_floating:
        raise _bad(
            f"model_fn returned a loss of type {loss.dtype.name}, which has no gradient: "
            "return a floating-point scalar, with tf.cast if need be"
        )
    _check_scalar("error", error, graph)
    if not (error.dtype.is_floating or error.dtype.is_integer):
        raise _bad(
            f"model_fn returned an error of type {error.dtype.name}: return a number, "
            "for instance tf.reduce_mean(tf.cast(wrong, tf.float32))"
        )
    return optimizer, loss, error


def training_op(value: Any) -> Any:
    """What `optimizer.minimize(loss)` returned, if a session can run it as a training step."""
    if isinstance(value, tf.Operation) or tf.is_tensor(value):
        return value
    raise _bad(
        f"optimizer.minimize(loss) returned {shorten(value)}: an optimizer of your own must return "
        "the operation that does one training step, for instance "
        "self.apply_gradients(self.compute_gradients(loss))"
    )


def _check_scalar(role: str, value: Any, graph: tf.Graph) -> None:
    if not tf.is_tensor(value) or not isinstance(getattr(value, "dtype", None), tf.DType):
        raise _bad(
            f"model_fn returned {shorten(value)} as the {role}: {EXPECTED}, where loss and error "
            "are scalar tensors of the graph"
        )
    if value.graph is not graph:
        raise _bad(
            f"model_fn returned a {role} of another graph ({value.name}): build it inside "
            "model_fn, in the default graph that is set there"
        )
    rank = value.shape.rank
    if rank not in (0, None):
        raise _bad(
            f"model_fn returned a {role} of shape {tuple(value.shape.as_list())}: it must be a "
            f"scalar. Take tf.reduce_mean({role}), or tf.reduce_sum"
        )


def _bad(message: str) -> BadReturn:
    return BadReturn(message, function="model_fn")
