"""Tell timm of this package's networks when timm is imported, without importing it.

``timm.create_model`` finds networks by name in a table that modules fill as they are imported.
Importing timm for an entry in it would make ``import filtersurgeon`` take seconds, and timm knows
no plug-ins that it looks for by itself. So the entry is made at once if timm is there already, and
else right after timm has been imported, by whomever: a finder on ``sys.meta_path`` has Python find
timm as ever, adds one call at the end of its import, and goes away. Nothing of timm is altered.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

TIMM = "timm"


def announce() -> None:
    """See to it that timm knows this package's entry, now or once it is imported."""
    if hasattr(sys.modules.get(TIMM), "create_model"):
        _register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _register() -> None:
    try:
        from filtersurgeon.networks import timm_entry

        # Where the entry's own file imports timm, it is not complete yet and registers at its end.
        if hasattr(timm_entry, "register"):
            timm_entry.register()
    except Exception as problem:
        # Whoever imports timm must get it, whatever becomes of an entry in its table.
        import warnings

        warnings.warn(f"timm will not load networks of filtersurgeon: {problem}", stacklevel=2)


def _prepare_torchvision() -> None:
    """Import torchvision as this package does, so that timm loads beside any build of torch."""
    from filtersurgeon.checkpoint.vision import import_torchvision

    # What timm does without torchvision is timm's own affair.
    with suppress(ImportError):
        import_torchvision()


class _Finder:
    """Finds timm through the other finders, and has the entry made after its import."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Give the specification of timm, and None for all else."""
        if name != TIMM:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((each for each in found if each is not None), None)
        if spec is not None and spec.loader is not None:
            self._follow(spec)
        return spec

    def _follow(self, spec: ModuleSpec) -> None:
        loader = spec.loader
        assert loader is not None
        execute = loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            del loader.exec_module  # the loader's own method is in its class
            _prepare_torchvision()
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _register()

        loader.exec_module = execute_and_register  # type: ignore[method-assign]
