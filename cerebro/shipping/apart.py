"""A run's code in a process that has nothing of the run: made apart from all that is there.

A model of the script's classes is read by programs that are not the script. The classes are made
from the pack of functions that the run's workers got, in a `__main__` and in modules beside the
script that only they see, under whatever names the program has its own. Where the program has the
very same class or module, as the script itself has, it is that one.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.machinery
import importlib.util
import io
import pickle
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cerebro.errors import ShippingError
from cerebro.formatting import message_of
from cerebro.shipping import module_origin, modules, rebuild, registries, sent_source
from cerebro.shipping.fingerprint import fingerprint
from cerebro.shipping.modules import Source, Sources
from cerebro.shipping.package_files import PackageFiles
from cerebro.shipping.pickler import Pickler
from cerebro.shipping.sent_source import SentFiles


class NotingPickler(Pickler):
    """Takes note in `needs_code` of whether there is code of the user's that a pickle needs."""

    needs_code = False

    def reducer_override(self, thing: Any) -> Any:
        """How to take a thing; `NotImplemented` leaves it to pickle."""
        how = super().reducer_override(thing)
        if how is not NotImplemented:
            self.needs_code = True
        return how

    def _goes_by_name(self, thing: Any) -> bool:
        by_name = super()._goes_by_name(thing)
        if by_name and module_origin.is_local(thing.__module__):
            self.needs_code = True
        return by_name


class Apart:
    """A home for things that are made again (see `rebuild`), with its own modules."""

    def __init__(
        self, sources: Iterable[Source], names: Mapping[str, str], packages: PackageFiles
    ) -> None:
        self.classes: dict[tuple[str, str], type] = {}
        self._sources = {source.name: source for source in sources}
        self._names = names
        self._packages = packages
        self._modules: dict[str, types.ModuleType] = {}
        self._namespaces: dict[str, dict[str, Any]] = {}
        # An import statement asks the builtins of its own globals.
        self._builtins = {**vars(builtins), "__import__": self._import}
        self._are_here = _are_here(self._sources)

    @classmethod
    def of_pack(cls, content: io.BytesIO) -> Apart:
        """What a pack of functions holds, read from behind its head.

        Raises `ShippingError` where a package is missing.
        """
        attachments = pickle.load(content)
        sent_source.show(attachments["files"])
        made = cls(attachments["modules"], attachments["names"], attachments["packages"])
        # What has been registered refers to what the functions use.
        unpickler = _Unpickler(content, made)
        made._read(unpickler)
        registered = made._read(unpickler)
        registries.fill_modules(registered, made.import_module, keep=made._are_here)
        return made

    def load(self, content: bytes) -> Any:
        """The object of a `dumps`."""
        return self._read(_Unpickler(io.BytesIO(content), self))

    def _read(self, unpickler: _Unpickler) -> Any:
        try:
            with rebuild.in_home(self):
                return unpickler.load()
        except ImportError as error:
            raise ShippingError(
                f"the model needs the module {error.name!r}, which cannot be imported here "
                f"({message_of(error)}): install it"
            ) from error

    # --- what `rebuild` asks for -----------------------------------------------------------------

    def namespace(self, module: str) -> dict[str, Any]:
        """The globals of what travelled by value from a module."""
        return self._namespaces.setdefault(
            module, {"__name__": module, "__builtins__": self._builtins}
        )

    def register(self, cls: type) -> None:
        """Take note of a class that was made."""
        self.classes[cls.__module__, cls.__qualname__] = cls
        if cls.__module__ == "__main__" and "." not in cls.__qualname__:
            self.namespace("__main__")[cls.__name__] = cls

    def import_module(self, name: str) -> Any:
        """A module by its name; where an installed one is missing, what says so when it is used."""
        if name in self._sources:
            return self._module(name)
        try:
            return importlib.import_module(name)
        except ImportError:
            return Missing(name)

    def find(self, module: str, qualname: str) -> Any:
        """Return what a name in a module refers to."""
        if module == "__main__":
            return self._of_script(qualname)
        found = self.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
        return found

    def _of_script(self, qualname: str) -> Any:
        first, *rest = qualname.split(".")
        found = self.namespace("__main__").get(first)
        for part in rest:
            found = getattr(found, part, None)
        if found is None:
            raise ShippingError(
                f"the model needs {qualname} of the script, which is not among the code that the "
                "run's functions use: refer to it in model_fn or train_fn"
            )
        own = module_origin.find_by_name("__main__", qualname)
        return own if self._are_here and self._is_same(own, found) else found

    def _is_same(self, own: Any, found: Any) -> bool:
        """Whether a class or function of this program is the one that was sent."""
        if not isinstance(own, (type, types.FunctionType)) or type(own) is not type(found):
            return False
        content = io.BytesIO()
        try:
            Pickler(content, Sources(), sent=SentFiles()).dump(own)
            again = Apart((), self._names, self._packages).load(content.getvalue())
            return fingerprint(again) == fingerprint(found)
        except Exception:  # it may hold anything by now: then it is not what was sent
            return False

    # --- modules beside the script ---------------------------------------------------------------

    def _module(self, name: str) -> types.ModuleType:
        if self._are_here:
            return importlib.import_module(name)
        if name in self._modules:
            return self._modules[name]
        parent = name.rpartition(".")[0]
        package = self.import_module(parent) if parent else None
        source = self._sources[name]
        made = types.ModuleType(name)
        spec = importlib.machinery.ModuleSpec(
            name,
            modules.Importer([source], self._names, self._packages),
            origin=self._packages.place(source.file),
            is_package=source.is_package,
        )
        spec.has_location = True
        vars(made).update(
            __spec__=spec,
            __loader__=spec.loader,
            __file__=spec.origin,
            __package__=spec.parent,
            __builtins__=self._builtins,
        )
        if source.is_package:
            made.__path__ = []
        self._modules[name] = made
        try:
            assert spec.loader is not None
            spec.loader.exec_module(made)
        except BaseException:
            del self._modules[name]
            raise
        if package is not None:
            setattr(package, name.rpartition(".")[2], made)
        return made

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """What an import statement in this code calls."""
        full = name
        if level:
            full = importlib.util.resolve_name(
                "." * level + name, (globals or {}).get("__package__") or ""
            )
        if full not in self._sources:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        found = self._module(full)
        if not fromlist:
            return self._module(full.partition(".")[0])
        for item in fromlist:
            if f"{full}.{item}" in self._sources:
                self._module(f"{full}.{item}")
        return found


class Missing:
    """Stands for a package that is not installed here, and for what is in it.

    A model can be read without the packages that only other functions of its script use.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Missing(f"{self._name}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise self._error()

    def __mro_entries__(self, bases: tuple[Any, ...]) -> Any:
        raise self._error()

    def __instancecheck__(self, instance: Any) -> bool:
        return False

    def _error(self) -> ModuleNotFoundError:
        top = self._name.partition(".")[0]
        return ModuleNotFoundError(f"{self._name} is used, and {top} is not installed", name=top)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, home: Apart) -> None:
        super().__init__(file)
        self._home = home

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle names."""
        return self._home.find(module, name)


def _are_here(sources: Mapping[str, Source]) -> bool:
    """Whether this process can import the very modules that were sent."""
    for name in sorted(sources):  # a package comes before what is in it
        source = sources[name]
        try:
            module = sys.modules.get(name)
            spec = module.__spec__ if module is not None else importlib.util.find_spec(name)
            if spec is None or (spec.origin is None and source.text):
                return False
            if spec.origin is not None:
                with open(spec.origin, "rb") as file:
                    if importlib.util.decode_source(file.read()) != source.text:
                        return False
            if module is not None and modules.plain_data(module) != source.data:
                return False
        except (ImportError, OSError, SyntaxError, UnicodeDecodeError, ValueError):
            return False
    return True
