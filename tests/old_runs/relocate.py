"""Copies of recorded runs under another path, with the journal's checksums made anew."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from cerebro.journal.journal import decode, encode
from cerebro.journal.paths import RunPaths

ROOT = "/old-runs"
"""The `ckpt_root` that the journals name; no such folder is needed."""

HERE = Path(__file__).resolve().parent


def replace_texts(folder, texts):
    """Put other texts in the place of some, in all files of a run that are text."""

    def replaced(text):
        for old, new in texts.items():
            text = text.replace(json.dumps(old)[1:-1], json.dumps(new)[1:-1])
        return text

    paths = RunPaths(folder)
    before, ends = {}, {}
    for number in paths.generations():
        file = paths.generation(number)
        old = file.read_bytes()
        records = [json.loads(replaced(json.dumps(decode(line)))) for line in old.splitlines(True)]
        ending = records[0].get("predecessor")
        if ending is not None:
            earlier = before[ending["generation"]]
            assert ending["length"] == len(earlier), "the whole of it counted"
            ending.update(ends[ending["generation"]])
        content = b"".join(map(encode, records))
        before[number] = old
        ends[number] = {"length": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        file.write_bytes(content)
    others = [*paths.root.glob("*.json"), *paths.root.glob("*.csv"), *paths.logs.glob("*.log")]
    for file in others:
        file.write_text(replaced(file.read_text()))


def copy_of(name, folder):
    """A copy of a recorded run below `folder`, a `ckpt_root`, where it can go on."""
    target = Path(folder) / name
    shutil.copytree(HERE / "runs" / name, target)
    replace_texts(target, {ROOT: str(folder)})
    return target
