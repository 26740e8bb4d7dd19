"""What operations with a gradient of their own need of a TensorFlow graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow.compat.v1 as tf


@contextlib.contextmanager
def own_gradient(op_type: str, gradient: Callable[..., Any]) -> Iterator[None]:
    """Give the ops of a type that are made in this block another gradient.

    `gradient(op, *output_gradients)` returns a gradient (or None) for each input of `op`. It must
    be a function of a module: TensorFlow keeps it, and all that it refers to, as long as the
    process lives. (`tf.custom_gradient` registers a new function for each call, which keeps the
    whole graph alive.)
    """
    # A module that was loaded again brings new functions, which need names of their own.
    name = f"{gradient.__module__}.{gradient.__qualname__} {id(gradient)}"
    with contextlib.suppress(KeyError):  # it is registered already
        tf.RegisterGradient(name)(gradient)
    with tf.get_default_graph().gradient_override_map({op_type: name}):
        yield


def computes_on_gpu(tensor: tf.Tensor) -> bool:
    """Whether a GPU computes this tensor of a graph: as `tf.device` says, else if there is any."""
    kind = tf.DeviceSpec.from_string(tensor.device).device_type
    return kind == "GPU" if kind else bool(tf.config.get_visible_devices("GPU"))
