"""The source that was sent is what AutoGraph and `inspect` read, or there is none."""

from __future__ import annotations

import inspect
import linecache
import sys
import textwrap
import traceback
import types

import pytest

from cerebro.errors import ShippingError, UserFunctionError
from cerebro.shipping import sent_source, with_users_files
from cerebro.shipping.sent_source import NO_FILE, SENT, WITHOUT, SentFiles, name_of
from cerebro.worker.failures import describe

TEXT = textwrap.dedent(
    """
    import functools

    def plain(x):
        return x + 1

    def outer(n):
        # a comment
        def inner(x):
            return x + n
        return inner

    class Thing:
        @staticmethod
        def method(x):
            '''Its docstring.'''
            return -0.0, x in {1, 2}, (1, (2.0, "a"))

    first, second = lambda x: x + 1, lambda x, y: x + 2

    @functools.wraps(plain)
    def decorated(x): return [
        i for i in range(x)
    ]

    def fails():
        raise ValueError("it does")
    """
)


def loaded(path, text=TEXT):
    """A module of this text, from a file that linecache has not seen yet."""
    path.write_text(text)
    linecache.cache.pop(str(path), None)
    module = types.ModuleType("loaded")
    module.__file__ = str(path)
    exec(compile(text, str(path), "exec"), vars(module))
    return module


def functions(module):
    return {
        "plain": module.plain,
        "inner": module.outer(3),
        "method": module.Thing.method,
        "first": module.first,
        "second": module.second,
        "decorated": module.decorated,
        "fails": module.fails,
    }


def arrived(function):
    """A function as it is once it has been sent, with its source to be read."""
    sent = SentFiles()
    part = sent.renamed(function.__code__, function.__globals__)
    sent_source.show(sent.lines)
    return types.FunctionType(part, function.__globals__, "it", None, function.__closure__)


def test_source_is_found_under_a_name_of_its_own_whatever_the_file_says(tmp_path):
    module = loaded(tmp_path / "script.py")
    made = {name: arrived(function) for name, function in functions(module).items()}
    (tmp_path / "script.py").write_text("raise SystemExit\n" * 40)
    linecache.checkcache()
    source = {name: inspect.getsource(thing) for name, thing in made.items()}
    assert source["plain"] == "def plain(x):\n    return x + 1\n"
    assert source["inner"] == "    def inner(x):\n        return x + n\n"
    assert source["method"].splitlines()[1] == "    def method(x):"
    assert source["first"] == source["second"] == TEXT.splitlines()[18] + "\n"
    assert source["decorated"].startswith("@functools.wraps(plain)\ndef decorated")
    assert made["plain"].__code__.co_filename == name_of(f"{tmp_path}/script.py", TEXT)


def test_an_edited_file_does_not_pass_for_the_source(tmp_path):
    """Each function is judged by itself: one that the edit left alone keeps its source."""
    path = tmp_path / "script.py"
    module = loaded(path)
    path.write_text(TEXT.replace("x + 2", "x + 3").replace("-0.0", "0.0").replace("n\n", "(n)\n"))
    sent = SentFiles()
    names = {n: sent.renamed(f.__code__).co_filename for n, f in functions(module).items()}
    without = {name for name, file in names.items() if file.startswith(WITHOUT)}
    assert without == {"method", "second"}
    assert sent.lines[f"{WITHOUT}{path}"] == []
    path.write_text("# one line more\n" + TEXT)
    linecache.checkcache()
    moved = SentFiles().renamed(module.plain.__code__).co_filename
    assert moved.startswith(WITHOUT)


def test_both_what_was_read_before_and_what_is_there_now_are_tried(tmp_path):
    path = tmp_path / "script.py"
    module = loaded(path)
    linecache.getlines(str(path))
    path.write_text("edited = True\n")
    assert SentFiles().renamed(module.plain.__code__).co_filename == name_of(str(path), TEXT)
    linecache.checkcache()
    linecache.getlines(str(path))
    path.write_text(TEXT)
    assert SentFiles().renamed(module.plain.__code__).co_filename == name_of(str(path), TEXT)


def test_two_states_of_one_file_have_a_name_each(tmp_path):
    path = tmp_path / "script.py"
    before = loaded(path)
    linecache.getlines(str(path))
    sent = SentFiles()
    first = sent.renamed(before.plain.__code__)
    after = loaded(path, TEXT.replace("x + 1", "x + 5"))
    second = sent.renamed(after.plain.__code__)
    assert first.co_filename != second.co_filename
    assert with_users_files(second.co_filename) == str(path)
    sent_source.show(sent.lines)
    assert "x + 1" in inspect.getsource(first)
    assert "x + 5" in inspect.getsource(second)


def test_cells_of_a_notebook(monkeypatch):
    """Their text is in linecache alone; futures of an earlier cell and `await` count."""
    name = "<ipython-input-7-abc>"
    text = "import asyncio\ndef cell(x: Missing):\n    return x\nawait asyncio.sleep(0)\n"
    flags = sent_source.FUTURES & __import__("__future__").annotations.compiler_flag
    made = compile(text, name, "exec", flags=flags | 0x2000, dont_inherit=True)
    code = next(c for c in made.co_consts if isinstance(c, types.CodeType))
    monkeypatch.setitem(linecache.cache, name, (len(text), None, text.splitlines(True), name))
    sent = SentFiles()
    part = sent.renamed(code)
    assert part.co_filename == name_of(name, text)
    sent_source.show(sent.lines)
    assert inspect.getsource(part) == "def cell(x: Missing):\n    return x\n"


def test_code_that_has_no_file_keeps_its_name():
    namespace: dict = {}
    exec("def made(): pass", namespace)
    code = namespace["made"].__code__
    assert code.co_filename == NO_FILE
    assert SentFiles().renamed(code) is code
    lost = code.replace(co_filename="<stdin>")
    assert SentFiles().renamed(lost).co_filename == f"{WITHOUT}<stdin>"


def test_errors_name_the_users_file_and_line(tmp_path):
    module = loaded(tmp_path / "behavior.py")
    with pytest.raises(ValueError, match="it does") as caught:
        arrived(module.fails)()
    text = "".join(traceback.format_exception(caught.value))
    assert f'>{tmp_path}/behavior.py", line 27' in text
    assert SENT in text
    problem = describe(UserFunctionError("it", function="train_fn", remote_traceback=text))
    assert f'File "{tmp_path}/behavior.py", line 27, in fails' in problem.traceback
    assert 'raise ValueError("it does")' in problem.traceback
    assert SENT not in problem.traceback


def test_a_module_that_was_edited_after_its_import_is_refused(tmp_path, monkeypatch):
    from cerebro.shipping import pack

    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "edited_module.py"
    path.write_text("def f():\n    return 1\n\ndef g():\n    return 2\n")
    module = __import__("edited_module")
    try:
        assert pack({"model_fn": module.f})
        path.write_text("def f():\n    return 1\n\ndef g():\n    return 3\n")
        assert b"return 2" in pack({"model_fn": module.f}), "as it was read for the first pack"
        linecache.checkcache()
        with pytest.raises(ShippingError, match=r"edited_module\.py has been changed.*function g"):
            pack({"model_fn": module.f})
    finally:
        del sys.modules["edited_module"]
