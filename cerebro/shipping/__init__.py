"""User functions by value: what a driver sends, a worker can run without any of the user's files.

    module_origin   which modules are installed, and which are the user's own
    code            what a function's code refers to
    sent_source     the source of code, which travels where it is certain to be it
    autograph       an error where AutoGraph finds no source
    modules         modules beside the script, which travel as source
    package_files   the files of packages, which travel with them
    class_parts     what a class is made of, and what its creation does
    pickler         how things are taken
    rebuild         how they are made again
    apart           the same in a program that is not the script and no worker
    held_by_modules  what of the script the variables of modules hold, to be put in place here
    registries      what the script has registered with Keras, and with its modules
    spawned         the functions in processes that user code starts by spawn
    unshippable     what cannot travel, and which variable holds it
    fingerprint     whether a function has changed
    walk            the parts of a function, each with its digest
    instructions    what code does, without where it stands
    arrays          what arrays and tables hold
    short_text      how a value is shown in a message
    older_fingerprints, older_pickler  for runs that were recorded with earlier versions of these

Both sides run the same minor version of Python, because code travels as compiled. Only bytes of
authenticated origin may be unpacked: unpacking runs code.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import platform
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cerebro.errors import ShippingError, UserFunctionError
from cerebro.formatting import message_of, shorten
from cerebro.shipping import autograph, modules, rebuild, registries, sent_source, spawned
from cerebro.shipping.apart import Apart, NotingPickler
from cerebro.shipping.fingerprint import (
    FINGERPRINT_VERSION,
    PARTS_KEPT,
    fingerprint,
    fingerprint_and_parts,
)
from cerebro.shipping.modules import Sources
from cerebro.shipping.package_files import PackageFiles
from cerebro.shipping.pickler import Pickler, Unshippable
from cerebro.shipping.sent_source import SentFiles, with_users_files
from cerebro.shipping.unshippable import children, trace, why_unshippable

__all__ = [
    "FINGERPRINT_VERSION", "PARTS_KEPT", "dumped", "dumps", "fingerprint", "fingerprint_and_parts",
    "loads", "pack", "restore", "share_with_children", "unpack", "with_users_files",
]  # fmt: skip

FORMAT = 2
"""Runs with plain models keep packs, which are read in their own format only."""
SIZE_LIMIT = 32_000_000
"""Bytes that the functions and what they captured may take; they must fit into one remote call."""


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def pack(functions: Mapping[str, Any]) -> bytes:
    """The functions with all they need, in one piece: what they share stays shared.

    Plain values may stand beside them.

    Raises `ShippingError`, naming the variable, for what cannot travel.
    """
    sources, sent = Sources(), SentFiles()
    content = io.BytesIO()
    pickler = Pickler(content, sources, sent=sent)
    try:
        pickler.dump(dict(functions))
    except Exception as error:
        raise _explain(functions, error) from error
    registered = registries.found(sources.found, _size)
    pickler.dump(registered)
    if content.tell() > SIZE_LIMIT:
        raise _too_large(functions, registered.contents, content.tell())
    modules_sent = list(sources.found.values())
    attachments = {
        "modules": modules_sent,
        "names": {
            source.name: sent.name(source.file, io.StringIO(source.text).readlines())
            for source in modules_sent
        },
        "packages": PackageFiles.collected(s.folder for s in modules_sent if s.folder),
        "files": sent.lines,
    }
    head = {"format": FORMAT, "python": _python()}
    return b"".join(pickle.dumps(part) for part in (head, attachments)) + content.getvalue()


def unpack(blob: bytes) -> dict[str, Any]:
    """The functions of a `pack`, made in this process.

    What belonged to the script becomes part of this process's `__main__`. Raises `ShippingError`
    for a blob of another Python version or format, and if what the functions need is not here, and
    `UserFunctionError` for a module of the user's that cannot be imported here.
    """
    content = io.BytesIO(blob)
    head = pickle.load(content)
    if head != {"format": FORMAT, "python": _python()}:
        raise ShippingError(
            f"the functions were packed by Python {head.get('python')} in format "
            f"{head.get('format')}, and this is Python {_python()}, format {FORMAT}: install the "
            "same versions on driver and workers"
        )
    attachments = pickle.load(content)
    sent_source.show(attachments["files"])
    autograph.refuse_missing_source()
    modules.install(attachments["modules"], attachments["names"], attachments["packages"])
    unpickler = pickle.Unpickler(content)
    try:
        functions = unpickler.load()
        registries.restore(unpickler.load())
    except (Exception, SystemExit) as error:
        place = _in_module(error)
        if place is not None:
            raise _import_failed(error, *place) from error
        if isinstance(error, ImportError):
            raise ShippingError(
                f"the functions need the module {error.name!r}, which cannot be imported on this "
                f"worker ({error}): install it there"
            ) from error
        raise
    return dict(functions)


def _in_module(error: BaseException) -> tuple[str, str, int] | None:
    """The name, file and line of the user's module in whose code an error arose, if any."""
    found = None
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_filename.startswith(sent_source.SENT):
            name = str(frame.f_globals.get("__name__"))
            found = name, sent_source.with_users_files(frame.f_code.co_filename), trace.tb_lineno
        trace = trace.tb_next
    return found


def _import_failed(error: BaseException, name: str, file: str, line: int) -> UserFunctionError:
    if isinstance(error, ModuleNotFoundError):
        remedy = f"install {error.name!r} there"
    else:
        remedy = "it is imported there as it is in the script"
    return UserFunctionError(
        f"the module {name} cannot be imported on this worker: {file}, line {line}, raised "
        f"{type(error).__name__}: {message_of(error)}: {remedy}",
        function=f"import of {name}",
        remote_traceback="".join(traceback.format_exception(error)),
    )


def share_with_children(blob: bytes) -> None:
    """Have the functions of a `pack` unpacked in processes that this one starts by spawn."""
    spawned.share(blob, unpack)


def dumps(thing: Any) -> bytes:
    """A pickle of a user's object, to be read by `loads` where the same functions were unpacked.

    Classes of the script and of modules stand in it by name, so that `pickle.load` in the script
    reads it too. Raises what pickle raises.
    """
    return dumped(thing)[0]


def dumped(
    thing: Any, into: io.BytesIO | None = None, met: Callable[[Any], object] | None = None
) -> tuple[bytes, bool]:
    """What `dumps` gives, and whether there is any code of the user's that it needs.

    It is written `into` a file in memory, if there is one, and `met` is called with each thing in
    it that is not of one of Python's own plain types.
    """
    content = io.BytesIO() if into is None else into
    pickler = NotingPickler(content, Sources(), registered=True, met=met)
    pickler.dump(thing)
    return content.getvalue(), pickler.needs_code


def loads(content: bytes) -> Any:
    """The object of a `dumps`, also of one that holds its code: here that counts which is here."""
    with rebuild.without_registering():
        return _Unpickler(io.BytesIO(content)).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a pickle names."""
        if (module, name) == (__name__, restore.__name__):
            return lambda code, content: loads(content)
        return super().find_class(module, name)


_apart: dict[bytes, Apart] = {}


def restore(code: bytes, content: bytes) -> Any:
    """The object of a `dumps`, made by the pack of functions of its run, in any program.

    Models of one run have the same classes. Raises `ShippingError` for a pack of another version of
    Python, and where a package that the model's code needs is missing.
    """
    key = hashlib.sha256(code).digest()
    if key not in _apart:
        file = io.BytesIO(code)
        head = pickle.load(file)
        if head != {"format": FORMAT, "python": _python()}:
            raise ShippingError(
                f"the model was saved by Python {head.get('python')} in format "
                f"{head.get('format')}, and this is Python {_python()}, format {FORMAT}: its code "
                f"is compiled, so read it with Python {head.get('python')} and the version of "
                "cerebro-dl that saved it"
            )
        _apart[key] = Apart.of_pack(file)
    return _apart[key].load(content)


def _can_travel(thing: Any) -> bool:
    return _size(thing) is not None


def _size(thing: Any) -> int | None:
    """The bytes that a thing takes when it travels, None for one that cannot."""
    content = io.BytesIO()
    try:
        Pickler(content, Sources()).dump(thing)
    except Exception:
        return None
    return content.tell()


def _explain(functions: Mapping[str, Any], error: Exception) -> ShippingError:
    """The error for functions that cannot be packed, with the way to what is at fault."""
    for name, function in functions.items():
        if _can_travel(function):
            continue
        way, culprit = trace(function, _can_travel)
        path = " -> ".join([name, *way])
        reason = why_unshippable(culprit)
        if reason is not None:
            what, remedy = reason
            return ShippingError(
                f"{name} cannot travel to the workers: {path} holds {what} "
                f"({shorten(culprit, 80)}): {remedy}"
            )
        if isinstance(error, ShippingError) and not isinstance(error, Unshippable):
            return ShippingError(f"{name} cannot travel to the workers: {path}: {error}")
        return ShippingError(
            f"{name} cannot travel to the workers: {path} holds {shorten(culprit, 80)} "
            f"({type(error).__name__}: {error}): make it inside the function"
        )
    return ShippingError(f"the functions cannot travel to the workers: {error}")


def _too_large(
    functions: Mapping[str, Any], registered: Iterable[tuple[str, Any]], size: int
) -> ShippingError:
    held = [(f"{name} -> {x}", part) for name, f in functions.items() for x, part in children(f)]
    held += [(f"{name}.{item}", part) for name, node in registered for item, part in node.items]
    largest = max([(0, ""), *((_size(part) or 0, place) for place, part in held)])
    return ShippingError(
        f"the functions and what they captured take {size / 1e6:.0f} MB, more than the "
        f"{SIZE_LIMIT / 1e6:.0f} MB that may travel: {largest[1]} alone takes "
        f"{largest[0] / 1e6:.0f} MB; data belongs into a file that input_fn reads"
    )
