"""The one place that imports torchvision and timm, and packages that only some commands need.

The torchvision wheel on PyPI carries CUDA operators. Beside a CPU build of torch its compiled
part does not load, and ``import torchvision`` (which timm needs) then fails while registering
fake kernels for operators that do not exist. Models, transforms and datasets need none of those
operators, so the registrations are skipped; detection operators stay unavailable.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from filtersurgeon.errors import OptionError


@cache
def import_torchvision() -> ModuleType:
    """Import torchvision, with or without its compiled operators.

    Returns:
        The torchvision module.

    Raises:
        ImportError: torchvision is not installed.
    """
    if "torchvision" in sys.modules or torchvision_state() != "without compiled operators":
        return import_module("torchvision")
    with _fake_kernels_skipped():
        return import_module("torchvision")


@cache
def import_timm() -> ModuleType:
    """Import timm after making torchvision importable.

    Returns:
        The timm module.

    Raises:
        ImportError: timm or torchvision is not installed.
    """
    import_torchvision()
    return import_module("timm")


@cache
def torchvision_state() -> str:
    """Say what part of torchvision works here.

    Returns:
        ``"complete"``, ``"without compiled operators"`` (its binary does not load beside this
        build of torch) or ``"not installed"``.
    """
    spec = find_spec("torchvision")
    if spec is None:
        return "not installed"
    folders = list(spec.submodule_search_locations or [])
    return "complete" if _operators_load(folders) else "without compiled operators"


def _operators_load(folders: list[str]) -> bool:
    """Try to load torchvision's compiled part, as torchvision itself will."""
    import torch

    binary = PathFinder.find_spec("_C", folders)
    if binary is None or binary.origin is None:
        return False
    try:
        torch.ops.load_library(binary.origin)
    except (ImportError, OSError):
        return False
    return True


@contextmanager
def _fake_kernels_skipped() -> Iterator[None]:
    """Ignore fake kernels for ``torchvision::`` operators inside the block."""
    import torch

    original = torch.library.register_fake

    def register(op: Any, func: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        if isinstance(op, str) and op.startswith("torchvision::"):
            return func if func is not None else (lambda function: function)
        return original(op, func, **options)

    torch.library.register_fake = register
    try:
        yield
    finally:
        torch.library.register_fake = original


def require(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: what to import.
        extra: the extra of this package that installs it.

    Raises:
        OptionError: it is not installed; the text says how to get it.
    """
    # Some of them look for torchvision, which must be importable by then.
    import_torchvision()
    return import_optional(module, extra)


def import_optional(module: str, extra: str, purpose: str = "") -> ModuleType:
    """Import a module of an optional package that does not look for torchvision.

    Args:
        module: what to import.
        extra: the extra of this package that installs it.
        purpose: what needs it; the text of the error begins with it.

    Raises:
        OptionError: it is not installed; the text says how to get it.
    """
    try:
        return import_module(module)
    except ImportError as problem:
        package = module.partition(".")[0]
        missing = f"{purpose} needs {package}" if purpose else f"{package} cannot be imported"
        raise OptionError(
            f"{missing} ({problem}): pip install 'filtersurgeon[{extra}]'"
        ) from problem
