"""Which network reads digits best? A search over Keras models, with model hopper parallelism.

    python keras_image_search.py
    python keras_image_search.py --search asha

The images are in digits.csv.gz, beside this script: 64 pixels from 0 to 16 a line, then the digit.
They are the test set of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak,
UCI Machine Learning Repository, https://doi.org/10.24432/C50P49, licensed under CC BY 4.0.

Unedited, it starts two workers on this machine. With workers on other nodes, which share this
folder:

    python keras_image_search.py --workers http://node1:7777 http://node2:7777

It ends by reading the best model with plain Keras.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import cerebro
from cerebro.data import ArrayPartitioning, partition_arrays, read_arrays
from cerebro.errors import CerebroError, RunInterrupted
from cerebro.search import ASHA, GridSearch, LogUniform, RandomSearch, SearchProcedure, Uniform

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
DIGITS = HERE / "digits.csv.gz"
SIZE, CLASSES = 8, 10

# A list is a choice among its values.
GRID = {"filters": [8, 16], "learning_rate": [1e-2, 1e-3], "dropout": [0.25], "batch_size": [32]}
SPACE = {
    "filters": [4, 8, 16],
    "learning_rate": LogUniform(1e-4, 3e-2),
    "dropout": Uniform(0.0, 0.5),
    "batch_size": [16, 32, 64],
}
SEARCHES: dict[str, SearchProcedure] = {
    "grid": GridSearch(GRID, epochs=6),
    "random": RandomSearch(SPACE, n=6, epochs=6),
    "asha": ASHA(SPACE, max_epochs=9, n=9),
}


def model_fn(config: Mapping[str, Any]) -> keras.Model:
    """A small convolutional network for images (8, 8, 1), compiled.

    Keys of `config`: `filters` of the first layer, the second has twice as many; `dropout` before
    the last one; `learning_rate` of Adam. The library itself reads `batch_size`.
    """
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 1)),
            layers.Conv2D(config["filters"], 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(2 * config["filters"], 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(config["dropout"]),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(config["learning_rate"]),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def make_partitions() -> ArrayPartitioning:
    """Four partitions to train on and two to validate with, written where all workers read them."""
    return partition_arrays(
        REPOSITORY / "data" / "digits",
        *digits(),
        train=4,
        valid=2,
        stratify=True,
        force=True,  # what an earlier run of this script has written is the same
    )


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the images, (1797, 8, 8, 1) float32 from 0 to 1, and the digits on them, (1797,)."""
    table = np.loadtxt(DIGITS, delimiter=",", dtype=np.float32)
    return table[:, :-1].reshape(-1, SIZE, SIZE, 1) / 16, table[:, -1].astype(int)


def main() -> None:
    options = parse_options()
    parts = make_partitions()
    # The search may ask for more now, of epochs or of configurations.
    changes = {"allow_changed": ["search"]} if options.resume else {}

    def schedule(cluster: Any) -> Any:
        return cerebro.schedule(
            cluster,
            parts.train_paths(),
            parts.valid_paths(),
            None,  # the partitions lie on shared storage: every worker may read each of them
            None,
            read_arrays,
            model_fn,
            None,  # no train_fn of our own: a unit is an epoch of `fit` over a partition
            search=SEARCHES[options.search],
            ckpt_root=os.path.abspath(options.ckpt_root),
            backend="keras",
            run_name=options.run_name,
            resume="auto" if options.resume else False,
            **changes,
        )

    if options.workers:
        report(schedule(options.workers), parts)
    else:
        with cerebro.LocalCluster(2) as cluster:
            result = schedule(cluster)
        report(result, parts)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Model selection for images of digits, in Keras.")
    parser.add_argument(
        "--workers", nargs="+", default=[], metavar="URL", help="workers, as http://host:port"
    )
    parser.add_argument(
        "--search",
        choices=sorted(SEARCHES),
        default="grid",
        help="how configurations are found (default: %(default)s)",
    )
    parser.add_argument("--run-name", metavar="NAME", help="what the run is called")
    parser.add_argument(
        "--resume", action="store_true", help="resume the run of --run-name, or start it"
    )
    parser.add_argument(
        "--ckpt-root",
        default=str(REPOSITORY / "checkpoints"),
        metavar="DIR",
        help="where runs are kept; on storage that driver and workers share (default: %(default)s)",
    )
    options = parser.parse_args()
    if options.resume and not options.run_name:
        parser.error("--resume needs --run-name, the name of the run to resume")
    return options


def report(result: Any, parts: ArrayPartitioning) -> None:
    """Print all models, the best one, and what it does when plain Keras has read it."""
    models = result.models
    columns = [name for name in models if name.startswith("config.")]
    table = models[["model_id", *columns, "state", "epochs", "best_epoch", "best_valid_error"]]
    table = table.sort_values("best_valid_error", kind="stable")
    print("\nAll models, the best first:\n")
    print(table.rename(columns=lambda name: name.removeprefix("config.")).to_string(index=False))
    best = result.best()
    print(f"\nBest: model {best.model_id}, after epoch {best.epoch} (from 0)")
    print(f"  validation error  {best.metrics['valid_error']:.4f}")
    print(f"  run               {result.run_dir}")
    print("\nPlain Keras reads it:\n")
    print(f"  model = model_fn({best.config})")
    print("  model.optimizer.build(model.trainable_variables)")
    print(f"  model.load_weights({best.checkpoint!r})")
    model = model_fn(best.config)
    model.optimizer.build(model.trainable_variables)  # whose state the file has, too
    model.load_weights(best.checkpoint)
    valid = [read_arrays(path) for path in parts.valid_paths()]
    images = np.concatenate([images for images, _ in valid])
    labels = np.concatenate([labels for _, labels in valid])
    found = model.evaluate(images, labels, verbose=0, return_dict=True)
    print(f"\nIts accuracy on the validation images: {found['accuracy']:.4f}")


if __name__ == "__main__":
    try:
        main()
    except RunInterrupted:
        sys.exit("\nInterrupted. With --run-name and --resume the run continues where it was.")
    except CerebroError as error:  # with the traceback of your function, if it raised
        sys.exit(f"\n{error}")
