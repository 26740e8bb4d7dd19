"""How long tests wait for what should come: far longer than it takes, and in one place.

No test's outcome depends on how fast a machine is. A wait ends when what is waited for has come;
only what never comes makes it last this long, and then the test fails.
"""

from __future__ import annotations

PATIENCE = 1200.0
"""Seconds for a process that starts TensorFlow and trains: at least twenty times what it takes."""

SOON = 120.0
"""Seconds for what takes no more than a few: a thread that ends, an answer, a line of output."""
