"""The example's data, ten-second windows of acceleration, for a Keras model."""

from __future__ import annotations

from typing import Any


def input_fn(path: str) -> tuple[Any, Any]:
    """(windows, labels) of the one day of a partition that `posture_data` has written."""
    from pathlib import Path

    import h5py
    import numpy as np

    folder = Path(path).parent / Path(path).read_text().strip()
    (day,) = folder.glob("*.h5")
    with h5py.File(day) as file:
        return file["data"][:], file["label"][:].astype(np.float32)


def model_fn(config: dict[str, Any]) -> Any:
    """A convolution and a recurrent layer of as many units as the configuration has minutes."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((100, 3)),
            keras.layers.Conv1D(16, 10, strides=5, activation="relu"),
            keras.layers.LSTM(config["win_size_mins"]),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    optimizer = keras.optimizers.Adam(config["learning_rate"])
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    return model
