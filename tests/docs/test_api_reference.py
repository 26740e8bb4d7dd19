"""docs/api.md is what the docstrings say, of everything public."""

from __future__ import annotations

import importlib.util
import inspect

from documents import ROOT

import cerebro
import cerebro.data

SCRIPT = ROOT / "docs" / "api_reference.py"


def test_the_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("api_reference", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "api.md").read_text()
    assert page == module.page(), "run: python docs/api_reference.py"


def test_everything_public_stands_there_and_has_a_docstring():
    page = (ROOT / "docs" / "api.md").read_text()
    for module in (cerebro, cerebro.data):
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                assert name in page
                assert thing.__doc__, name
