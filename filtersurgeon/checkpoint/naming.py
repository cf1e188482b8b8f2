"""Names of architectures, with their arguments: ``timm:resnet18(output_stride=8)``.

One string holds both, so that whatever carries the name of an architecture (metadata, ``--arch``,
workers) carries its arguments too. The arguments are written as in a Python call; their values are
those of JSON.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from filtersurgeon.errors import ArchitectureError

_LONGEST = 10_000
_SHOWN = 80
_NOT_TO_SET = frozenset(
    {
        *("cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
        *("pretrained_model_args", "weights", "weights_backbone", "progress"),
        *("exportable", "features_only", "jit", "no_jit", "scriptable"),
        *("base", "structure", "shapes"),
    }
)
"""Arguments of the libraries' functions that load files or wrap the network."""


def add_prefix(architecture: str | None) -> str | None:
    """Give a bare architecture name the prefix of timm, the library that leaves it out."""
    if not architecture or ":" in architecture.partition("(")[0]:
        return architecture
    return f"timm:{architecture}"


def is_factory(architecture: str | None) -> bool:
    """Tell whether an architecture is a function of the user's, or a module in memory.

    Such a function is run only when the user names it, never because a file does.
    """
    return bool(architecture and architecture.startswith(("factory:", "module:")))


def name_of(architecture: str) -> str:
    """Name an architecture in a message, without arguments if they are many."""
    return architecture if len(architecture) <= _SHOWN else architecture.partition("(")[0]


def split_arguments(architecture: str) -> tuple[str, dict[str, Any]]:
    """Split an architecture into its name and its arguments.

    Args:
        architecture: such as ``timm:resnet18(output_stride=8, act_layer='gelu')``.

    Returns:
        ``timm:resnet18`` and ``{"output_stride": 8, "act_layer": "gelu"}``.

    Raises:
        ArchitectureError: the arguments are no literals by name, or one of them may not be set.
    """
    name, opening, _ = architecture.partition("(")
    if not opening:
        return architecture, {}
    try:
        if len(architecture) > _LONGEST:
            raise ValueError
        # Only the part in brackets is parsed, as the call of a function that is never called.
        call = ast.parse(f"f{architecture[len(name) :]}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        arguments = {str(word.arg or ""): ast.literal_eval(word.value) for word in call.keywords}
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise ArchitectureError(
            f"architecture {architecture[:80]!r} should read timm:NAME(argument=value, ...)"
        ) from None
    return name, _check_arguments(name, arguments)


def with_arguments(name: str, arguments: Mapping[str, Any]) -> str:
    """Join the name of an architecture and its arguments; they are sorted.

    Raises:
        ArchitectureError: an argument may not be set, or its value is not one of JSON.
    """
    if not arguments:
        return name
    listed = ", ".join(f"{key}={value!r}" for key, value in sorted(arguments.items()))
    joined = f"{name}({listed})"
    if split_arguments(joined)[1] != dict(arguments):
        raise ArchitectureError(f"the arguments of {name} are not all numbers, words and lists")
    return joined


def _check_arguments(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    for key in arguments:
        if not key.isidentifier() or key in _NOT_TO_SET:
            raise ArchitectureError(f"{name} cannot be given the argument {key[:80]!r} here")
    return arguments
