# SPDX-License-Identifier: Apache-2.0
"""Imports of one module as soon as another one has been imported.

torch and timm take seconds to import, and neither has plug-ins. So ``import rsvheat`` imports
neither, and registers operators and models with them once the user's program imports them.
"""

import importlib
import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def after_import(first: str, then: str, *, unless: str | None = None) -> None:
    """Import ``then`` once ``first`` has been imported: at once where it is there already.

    Args:
        first: Name of the module that the program imports.
        then: Name of the module that is imported after it.
        unless: Name of a module that imports ``first`` itself and is needed by ``then``, which
            therefore cannot be imported before it is complete: nothing is done in that case.
    """
    if first in sys.modules:
        importlib.import_module(then)
    else:
        sys.meta_path.insert(0, _Finder(first, then, unless))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module as the other finders do, and has another one imported after it."""

    def __init__(self, first: str, then: str, unless: str | None) -> None:
        self.first = first
        self.then = then
        self.unless = unless

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.first:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    """Loads a module with its own loader, then imports the one that a finder names."""

    def __init__(self, loader: importlib.abc.Loader, finder: _Finder) -> None:
        self.loader = loader
        self.finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # A module's resources and sources are read through its loader.
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        # Here, not where the module is found: programs look for it without importing it, too.
        if self.finder in sys.meta_path:
            sys.meta_path.remove(self.finder)
        if self.finder.unless not in sys.modules:
            importlib.import_module(self.finder.then)
