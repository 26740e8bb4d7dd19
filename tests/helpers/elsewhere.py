"""Other processes that fingerprint what a script defines, each with a hash seed of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

SERVE = """
import json, sys, traceback
from cerebro.shipping import fingerprint_and_parts
namespace = vars(sys.modules["__main__"])
known, held = set(namespace) | {"known", "held", "line", "script", "name", "thing", "answer"}, []
for line in sys.stdin:
    held.append(bytearray(len(held) % 997))  # other addresses
    script, name = json.loads(line)
    try:
        exec(compile(script, f"/{len(held)}/script.py", "exec"), namespace)
        thing = namespace[name]
        answer = fingerprint_and_parts(thing)
    except Exception:
        answer = [None, traceback.format_exc()]
    print(json.dumps(answer), flush=True)
    for added in set(namespace) - known:
        del namespace[added]
"""


class Elsewhere:
    """A process that runs scripts, each as its `__main__`."""

    def __init__(self, hash_seed: int, folder: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        )

    def of(self, script: str, name: str = "target") -> tuple[str, dict]:
        """The fingerprint of what a script calls `name`, and its parts."""
        self._process.stdin.write(json.dumps([script, name]) + "\n")
        self._process.stdin.flush()
        digest, parts = json.loads(self._process.stdout.readline())
        assert digest, parts
        return digest, parts

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
