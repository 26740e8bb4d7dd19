"""Modules beside the script on a worker: their files, their errors, and the generators."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from cerebro.shipping import package_files
from cerebro.shipping.package_files import PackageFiles

FILES = {
    "package/__init__.py": "",
    "package/labels.txt": "a b\n",
    "package/deep/table.csv": "1,2\n",
    "package/sub/__init__.py": "",
    "package/sub/own.txt": "own\n",
    "package/util.py": """
        import importlib.resources
        import pkgutil
        from pathlib import Path

        def reads():
            top = importlib.resources.files("package")
            with importlib.resources.as_file(top / "deep" / "table.csv") as path:
                table = path.read_text()
            with top.joinpath("labels.txt").open(encoding="utf-8") as stream:
                line = stream.readline()
            return {
                "files": top.joinpath("labels.txt").read_text(), "deep": table, "line": line,
                "sub": (importlib.resources.files("package.sub") / "own.txt").read_bytes().decode(),
                "pkgutil": pkgutil.get_data("package", "labels.txt").decode(),
                "pkgutil deep": pkgutil.get_data("package", "deep/table.csv").decode(),
                "file": (Path(__file__).parent / "labels.txt").read_text(),
                "names": sorted(entry.name for entry in top.iterdir()),
                "kinds": [(top / "deep").is_dir(), (top / "labels.txt").is_file(),
                          (top / "none").is_file()],
                "source": "def reads" in (top / "util.py").read_text(),
                "legacy": importlib.resources.read_text("package", "labels.txt"),
                "missing": missing(),
            }

        def missing():
            try:
                pkgutil.get_data("package", "none.txt")
            except OSError as error:
                return str(error)
    """,
    "silent/__init__.py": "",
    "silent/part.py": "VALUE = 4\n",
    "silent/data.txt": "silent",
    "nameless/part.py": "from pathlib import Path\ndef here():\n    return Path(__file__).name\n",
    "nameless/data.txt": "nameless\n",
}
SCRIPT = """
from package.util import reads
import package.sub
from nameless import part

def probe():
    import importlib
    import importlib.resources
    import pkgutil
    assert pkgutil.get_data("silent", "data.txt") == b"silent"
    assert importlib.import_module("silent.part").VALUE == 4
    text = importlib.resources.files("nameless").joinpath("data.txt").read_text()
    return {**reads(), "namespace": text, "here": part.here()}
"""


@pytest.mark.parametrize("change", ["nothing", "edited", "gone"])
def test_the_files_of_a_package_are_those_that_were_sent(ship, tmp_path, monkeypatch, change):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    home = tmp_path / "home"
    before = {
        "nothing": "",
        "edited": f"open({str(home / 'package/labels.txt')!r}, 'w').write('edited')\n",
        "gone": f"import shutil; shutil.rmtree({str(home)!r})\n",
    }[change]
    answer = ship(SCRIPT, ["probe"], "probe()", FILES, before)
    for name in ("files", "line", "pkgutil", "file", "legacy"):
        assert answer[name] == "a b\n", name
    assert answer["deep"] == answer["pkgutil deep"] == "1,2\n"
    assert answer["sub"] == "own\n"
    assert answer["names"] == ["__init__.py", "deep", "labels.txt", "sub", "util.py"]
    assert answer["kinds"] == [True, True, False]
    assert answer["source"]
    assert "none.txt was not sent" in answer["missing"]
    assert (answer["namespace"], answer["here"]) == ("nameless\n", "part.py")


def test_a_file_that_stays_behind_is_named_to_who_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr(package_files, "LIMIT", 1000)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    package = tmp_path / "package"
    package.mkdir()
    (package / "small.txt").write_text("small")
    (package / "large.bin").write_bytes(bytes(2000))
    (package / "cached.pyc").write_bytes(b"")
    files = PackageFiles.collected([str(package), str(package / "inner")])
    assert files.contents == {str(package): {"small.txt": b"small"}}
    assert files.left == {str(package): {"large.bin": 2000}}
    assert files.place(str(package / "small.txt")) == str(package / "small.txt")
    assert files.read(str(package / "small.txt")) == b"small"
    with pytest.raises(FileNotFoundError, match=r"large\.bin \(0\.0 MB\) was not sent.* travel"):
        files.read(str(package / "large.bin"))
    with pytest.raises(FileNotFoundError, match="was not sent"):
        files.reader(str(package)).files().joinpath("large.bin").open("rb")


def test_a_copy_that_somebody_else_laid_out_is_not_used(tmp_path, monkeypatch):
    package, temporary = tmp_path / "package", tmp_path / "temporary"
    package.mkdir()
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    (package / "labels.txt").write_text("a b")
    sent = PackageFiles.collected([str(package)])
    (package / "labels.txt").write_text("edited")

    def copy():
        return PackageFiles(sent.contents, sent.left).place(str(package / "labels.txt"))

    first = copy()
    assert Path(first).read_text() == "a b"
    assert copy() == first, "one copy for all"
    Path(first).write_text("spoilt")
    assert copy() != first
    assert Path(copy()).read_text() == "a b"
    Path(first).write_text("a b")
    assert copy() == first
    next(temporary.glob("cerebro-package-*")).chmod(0o777)
    assert Path(copy()).read_text() == "a b"


def test_an_error_in_a_module_names_it_and_its_line(ship):
    files = {
        "outer.py": "import inner_module\ndef f():\n    return 1\n",
        "inner_module.py": "import os\nif os.environ.get('FAR'):\n    A = int('x')\n",
    }
    before = """
import os
os.environ["FAR"] = "1"
import cerebro.shipping as shipping
from cerebro.errors import UserFunctionError
try:
    shipping.unpack(open("../blob", "rb").read())
except UserFunctionError as error:
    message, trace = str(error), error.remote_traceback
os.environ["FAR"] = ""
"""
    answer = ship("from outer import f", ["f"], "answer = [message, trace, f()]", files, before)
    assert "the module inner_module cannot be imported on this worker" in answer[0]
    assert "home/inner_module.py, line 3, raised ValueError: invalid literal" in answer[0]
    assert answer[2] == 1


def test_generators_while_a_module_is_imported(ship):
    """The same numbers on every worker, whenever it is imported, and none are taken from others."""
    files = {
        "drawn.py": "import random\nimport numpy as np\nA = [random.random(), np.random.rand()]\n"
        "np.random.seed(3)\nS = str(A)\n"
    }
    script = """
    def probe():
        import random
        import numpy as np
        random.seed(1)
        np.random.seed(1)
        import drawn
        return [random.random(), np.random.rand(), drawn.A]
    """
    random.seed(1)
    np.random.seed(1)
    expected = [random.random(), np.random.rand()]
    first = ship(script, ["probe"], "probe()", files)
    assert first[:2] == expected
    assert ship(script, ["probe"], "import random; random.random(); answer = probe()") == first


@pytest.mark.tf
@pytest.mark.parametrize("backend", ["keras", "tf"])
def test_a_module_may_shuffle_where_ops_are_deterministic(ship, backend):
    """A random op without a seed is an error there, unless all are seeded first."""
    files = {
        "drawn.py": "import tensorflow as tf\n"
        "data = tf.data.Dataset.range(64).shuffle(64)\n"
        "weight = tf.random.uniform([])\n"
        "def model_fn():\n    return 3\n"
    }
    before = f"""
from cerebro.backends import handler_class
from cerebro.backends.base import Options
handler = handler_class({backend!r})
handler.prepare_process(Options())
handler.seed_process(5)
"""
    script = "from drawn import model_fn\ndef probe():\n    return model_fn()\n"
    assert ship(script, ["probe"], "probe()", files, before) == 3
