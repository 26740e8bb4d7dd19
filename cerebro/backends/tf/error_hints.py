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
        "this TensorFlow has no tf.layers and no tf.nn.rnn_cell any more: docs/original.md shows "
        "what to write instead",
    ),
)


_INNER_ERROR = re.compile(r"^\s*(\w+(?:Error|Exception): .+)$", re.MULTILINE)


def with_hint(error: UserFunctionError) -> UserFunctionError:
    """The error with what to do about it in front, if it is one of the well-known mistakes."""
    text = f"{type(error.__cause__).__name__} {error}"
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, text)), "")
    inner = _INNER_ERROR.search(str(error))
    if not hint and "Graph execution error" in text and inner is not None:
        # What a Python function in the graph raised is in the middle of TensorFlow's text.
        hint = f"a function in the graph raised {inner[1]}"
    if not hint:
        return error
    return UserFunctionError(
        f"{error.function}: {hint} ({str(error).splitlines()[0]})",
        function=error.function,
        remote_traceback=error.remote_traceback,
        output=error.output,
    )
