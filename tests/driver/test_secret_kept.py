"""The secret is in its file and in memory, and nowhere that others look."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from toy import functions, partitions

import cerebro
from cerebro.rpc import encode_bytes, load_secret


def test_nothing_of_a_run_and_no_command_line_holds_the_secret(one_worker, tmp_path):
    key = load_secret(one_worker.secret_file).key
    seen = []
    input_fn, model_fn, train_fn, eval_fn = functions(epochs=1)

    def look(state):
        if sys.platform == "linux":
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    seen.append((process / "cmdline").read_bytes())
                    seen.append((process / "environ").read_bytes())
        return eval_fn(state)

    cerebro.schedule(
        one_worker,
        partitions(tmp_path, 1),
        [],
        None,
        None,
        input_fn,
        model_fn,
        train_fn,
        [{"rate": 0.1}],
        look,
        ckpt_root=str(tmp_path / "ckpt"),
        backend="python",
    )
    root = tmp_path / "ckpt"
    files = [path for path in root.rglob("*") if path.is_file()]
    assert {path.relative_to(root).parts[1] for path in files} >= {"journal", "logs", "models"}
    seen += [path.read_bytes() for path in files]
    for form in (key, key.hex().encode(), encode_bytes(key).encode()):
        assert not any(form in data for data in seen)
