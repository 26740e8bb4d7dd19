"""How long tests wait for what should come: far longer than it takes, in one place.

No outcome depends on how fast a machine is. A wait ends when what is waited for has come; only
what never comes makes it last this long, and then the test fails. What users are promised in
seconds is held by tests that are marked `timing`, which run alone.
"""

from __future__ import annotations

PATIENCE = 1500.0
"""Seconds for a process that starts TensorFlow and trains: twenty times what the longest takes."""

SOON = 120.0
"""Seconds for what takes a few at most: a thread that ends, an answer, a line of output."""
