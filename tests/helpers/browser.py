"""Pages as a browser makes them."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from patience import PATIENCE

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def dom(path, tmp_path):
    """The page as a browser has made it."""
    if BROWSER is None:
        pytest.skip("no Chromium is installed")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [BROWSER, *options, path.as_uri()], capture_output=True, text=True, timeout=PATIENCE
    )
    return done.stdout


def without_policy(text):
    """A page that may run scripts that a test adds."""
    found, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert count == 1
    return found
