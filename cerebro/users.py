"""Users of this host: the home folders that paths such as `~/runs` start with, and names.

Python leaves `~` as it is where nobody knows the home folder, and puts whatever HOME says in its
place, an empty or relative one included: what is written then lies where nobody looks for it.
"""

from __future__ import annotations

import os
import pwd

from cerebro.errors import InputError


def expanded(path: str | os.PathLike[str]) -> str:
    """Return the path with an absolute home folder in place of `~` or `~user`, others as they are.

    Raises `InputError` where that folder is not known.
    """
    text = os.fspath(path)
    if not text.startswith("~"):
        return text
    user = text[1:].partition(os.sep)[0]
    home = os.environ.get("HOME")
    if not user and home is not None and not os.path.isabs(home):
        raise InputError(
            f"{text}: HOME is {home!r}, which is not an absolute path: set it to your home folder, "
            "or give a path without ~"
        )
    found = os.path.expanduser(text)
    if os.path.isabs(found):
        return found
    if user:
        raise InputError(f"{text}: no home folder of a user {user!r} is known here")
    raise InputError(
        f"{text}: nobody knows your home folder here: HOME is not set, and user {os.getuid()} has "
        "no entry in passwd: set HOME, or give a path without ~"
    )


def named(uid: int) -> str:
    """Return a user by number and, where this host knows it, name."""
    try:
        return f"user {uid} ({pwd.getpwuid(uid).pw_name})"
    except (KeyError, OverflowError):
        return f"user {uid}"
