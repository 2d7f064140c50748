"""Registries that fill themselves: a new attack, defense or data set is one new file."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

from pst_fast.errors import InputError

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries by name, found by importing every module of ``package`` on first use.

    Args:
        kind: What an entry is ("attack", "defense", ...), for messages.
        package: Dotted name of the package whose modules register entries.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files an entry under ``name``."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"two {self.kind}s are named {name!r}")
            self._entries[name] = entry
            return entry

        return add

    @contextmanager
    def extended(self, entries: Mapping[str, T]) -> Iterator[None]:
        """Know these entries too, inside the block."""
        self._discover()
        before = dict(self._entries)
        try:
            for name, entry in entries.items():
                self.register(name)(entry)
            yield
        finally:
            self._entries = before

    def names(self) -> list[str]:
        """All names, sorted."""
        self._discover()
        return sorted(self._entries)

    def __getitem__(self, name: str) -> T:
        """The entry called ``name``; InputError lists the known ones where there is none."""
        self._discover()
        if name not in self._entries:
            raise InputError(f"unknown {self.kind} {name!r}: expected one of {', '.join(self.names())}")
        return self._entries[name]

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
