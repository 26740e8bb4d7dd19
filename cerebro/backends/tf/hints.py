"""What to do about the mistakes that TensorFlow's own messages do not explain."""

from __future__ import annotations

import re

from cerebro.errors import UserFunctionError

_HINTS = (
    (
        r"OutOfRange|End of sequence",
        "its input is exhausted: end the loop over its batches with "
        "`except tf.errors.OutOfRangeError: break`, or take fewer batches",
    ),
    (
        r"iterator has not been initialized",
        "its iterator is not started: add the iterator's initializer to the collection "
        "tf.compat.v1.GraphKeys.TABLE_INITIALIZERS in model_fn, and it is run before each unit",
    ),
    (
        r"Argument `fetch` = None",
        "train_step is None when validating (train=False): leave it out of session.run then",
    ),
    (
        r"is not available with Keras 3|has no attribute '(layers|rnn_cell|dynamic_rnn|static_rnn)",
        "this TensorFlow has no tf.layers and no tf.nn.rnn_cell any more: README.md shows what "
        "to write instead",
    ),
)


def with_hint(error: UserFunctionError) -> UserFunctionError:
    """The error with what to do about it in front, if it is one of the well-known mistakes."""
    text = f"{type(error.__cause__).__name__} {error}"
    for pattern, hint in _HINTS:
        if re.search(pattern, text):
            first_line = str(error).splitlines()[0]
            return UserFunctionError(
                f"{error.function}: {hint} ({first_line})",
                function=error.function,
                remote_traceback=error.remote_traceback,
                output=error.output,
            )
    return error
