"""Write the library's names of parameters as options of the command line.

A message of the library names parameters as Python does, between backquotes: "`sparsity` 1.0
should be at least 0 and below 1". A user of the command line typed ``--sparsity``. Everything that
is printed goes through :func:`spell`, so no other file has to know both spellings.
"""

from __future__ import annotations

import re
from typing import Any

_PARAMETER = re.compile(r"`([A-Za-z_]\w*)(?:=(\w[\w.+-]*|'[^'`]*'|\"[^\"`]*\"))?`")

_QUOTES = "'\""

_running: list[Any] = []
"""The command that runs, if one does."""


def remember_command(command: Any) -> None:
    """Spell parameters as options of this command from now on; None: leave them as they are."""
    _running[:] = [] if command is None else [command]


def spell(message: str) -> str:
    """Write parameters in a message as options of the running command."""
    return spell_options(message, _running[0]) if _running and "`" in message else message


def spell_options(message: str, command: Any) -> str:
    """Write parameters in a message as options of a command.

    Args:
        message: parameters stand in backquotes, ``name`` or ``name=value``.
        command: a command of typer. Names that are no option of it keep their backquotes.

    Examples:
        "`per_layer` needs `sparsity`" becomes "--per-layer needs --sparsity", and
        "pass `mode='exact'` or `verify=False`" becomes "pass --mode exact or --no-verify".
    """
    known = _options(command)

    def spelt(match: re.Match[str]) -> str:
        found = known.get(match[1])
        return (_with_value(found, match[2]) if found else None) or match[0]

    return _PARAMETER.sub(spelt, message)


def _options(command: Any) -> dict[str, Any]:
    """Find the options of a command: by the names of its parameters, then by their own."""
    options = [each for each in command.params if each.param_type_name == "option"]
    found = {option.name: option for option in options}
    if "parameters" in found:  # -p, which the library calls the options of a method
        found.setdefault("options", found["parameters"])
    for option in options:
        found.setdefault(_longest(option.opts).lstrip("-").replace("-", "_"), option)
    return found


def _longest(spellings: list[str]) -> str:
    """Choose ``--sparsity`` rather than ``-s``."""
    return next((word for word in spellings if word.startswith("--")), spellings[0])


def _with_value(option: Any, value: str | None) -> str | None:
    """Write an option with its value; None where no spelling sets it."""
    if value is None:
        return _longest(option.opts)
    if value == "None":
        return None
    if value in ("True", "False") and option.is_flag:
        spellings = option.opts if value == "True" else option.secondary_opts
        return _longest(spellings) if spellings else None
    return f"{_longest(option.opts)} {value.strip(_QUOTES)}"
