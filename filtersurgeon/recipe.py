"""Recipes: several steps in one file, in the words of the commands."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.documents import read_yaml, reason
from filtersurgeon.checkpoint.sinks import BY_DATA
from filtersurgeon.errors import OptionError
from filtersurgeon.registry import TRANSFORMS

# Callbacks of the Python functions, which no recipe can give.
_RESERVED = ("observe", "progress")


@dataclass(frozen=True)
class RecipeStep:
    """One step: a transform and its options."""

    verb: str
    options: Mapping[str, Any]


def read_recipe(path: str | Path) -> list[RecipeStep]:
    """Read a recipe file, YAML of the form ``steps: [{replace: {bank: dog8}}]``.

    Raises:
        OptionError: it is missing, not YAML, or its steps are not of that form; unknown verbs and
            options are named.
    """
    import yaml

    try:
        content = read_yaml(Path(path))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise OptionError(f"cannot read recipe {path}: {reason(error)}") from None
    steps = content.get("steps") if isinstance(content, dict) else None
    if not isinstance(steps, list):
        raise OptionError(f"{path} is not a recipe: it should contain a list called steps")
    return [parse_step(item, number) for number, item in enumerate(steps, 1)]


def parse_step(item: object, number: int) -> RecipeStep:
    """Check one step of a recipe; raises OptionError as :func:`read_recipe` does."""
    verb, options = item, None
    if isinstance(item, dict) and len(item) == 1:
        verb, options = next(iter(item.items()))
    if not isinstance(verb, str) or not isinstance(options, dict | None):
        raise OptionError(f"step {number} should read VERB: {{option: value}}")
    if verb in BY_DATA:
        raise OptionError(
            f"step {number}: {verb} learns from images, which a recipe does not hold; "
            f"apply the steps before it, and then run fsurgeon {verb}"
        )
    named = {str(key): value for key, value in (options or {}).items()}
    for key, value in named.items():
        _check_files(value, f"step {number}: {key}")
    return RecipeStep(verb, TRANSFORMS.bind(verb, named, reserved=_RESERVED))


def _check_files(value: object, place: str) -> None:
    """Refuse names of what is neither file nor folder, such as a pipe that is never written to."""
    for name in value if isinstance(value, list) else [value]:
        if isinstance(name, str) and _is_special(name):
            raise OptionError(f"{place} {name!r} is neither a file nor a directory")


def _is_special(name: str) -> bool:
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):  # no file of that name, or none can have it
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def apply(checkpoint: Checkpoint, steps: Sequence[RecipeStep] | str | Path) -> Checkpoint:
    """Apply the steps of a recipe, one after another.

    Args:
        checkpoint: what to operate on.
        steps: parsed steps, or a recipe file.

    Returns:
        The checkpoint with all changes pending, the same as from a pipeline of the commands.

    Raises:
        OptionError: the recipe is wrong.
        LayerError: a step does not fit the network.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> step = fs.RecipeStep("replace", {"bank": "dog8", "all_spatial": True})
        >>> applied = fs.apply(checkpoint, [step])
        >>> applied["conv1.0.weight"].array().shape
        (16, 3, 3, 3)
        >>> applied.history[-1].verb
        'replace'
    """
    if isinstance(steps, str | Path):
        steps = read_recipe(steps)
    for step in steps:
        checkpoint = TRANSFORMS.function(step.verb)(checkpoint, **step.options)
    return checkpoint
