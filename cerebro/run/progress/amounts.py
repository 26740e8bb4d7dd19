"""Durations and sizes in words."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """`8 s`, `3 min`, `1 h 05 min`, `2 d 3 h`: as exact as an estimate deserves."""
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def size(count: float) -> str:
    """`980 B`, `5.9 MB`, `1.2 TB`; a MB is a million bytes."""
    units = ("B", "kB", "MB", "GB", "TB")
    for unit in units:
        if count < 999.5 or unit == units[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
