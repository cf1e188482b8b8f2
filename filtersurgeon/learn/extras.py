"""Packages that only some commands need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from filtersurgeon.errors import OptionError


def require(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: what to import.
        extra: the extra of this package that installs it.

    Raises:
        OptionError: it is not installed; the text says how to get it.
    """
    # Some of them look for torchvision, which must be importable by then.
    from filtersurgeon.checkpoint.vision import import_torchvision

    import_torchvision()
    try:
        return import_module(module)
    except ImportError as problem:
        package = module.partition(".")[0]
        raise OptionError(
            f"{package} cannot be imported ({problem}): pip install 'filtersurgeon[{extra}]'"
        ) from problem
