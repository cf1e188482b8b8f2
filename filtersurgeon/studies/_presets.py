"""Presets of studies: parameters that are set together, such as those of the authors."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from filtersurgeon.errors import OptionError, near_misses
from filtersurgeon.registry import STUDIES


def presets(name: str) -> Mapping[str, Mapping[str, Any]]:
    """Give the presets of a study, by name: what its file calls ``PRESETS``.

    Raises:
        OptionError: there is no such study.
    """
    module = import_module(STUDIES.function(name).__module__)
    found: Mapping[str, Mapping[str, Any]] = getattr(module, "PRESETS", {})
    return found


def with_preset(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Add the parameters of the preset that is among the options; those that are given hold.

    Raises:
        OptionError: the study has no such preset.
    """
    given = {key.replace("-", "_"): value for key, value in options.items()}
    chosen = given.get("preset")
    if not chosen or "preset" not in STUDIES.options(name):
        return given
    known = presets(name)
    if chosen not in known:
        hint = near_misses(chosen, known)
        raise OptionError(f"study {name} has no preset {chosen!r}{hint}")
    return {**known[chosen], **given}
