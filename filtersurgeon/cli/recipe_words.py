"""The words of ``tune -p``: fields of a training recipe, or of an augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import OptionError, near_misses

if TYPE_CHECKING:
    from filtersurgeon.data.preprocess import Augmentation
    from filtersurgeon.learn.settings import TrainingRecipe


def recipe_from_words(
    words: Mapping[str, str], recipe: TrainingRecipe, augmentation: Augmentation | None
) -> tuple[TrainingRecipe, Augmentation | None]:
    """Set fields of a recipe, or of an augmentation, from ``name=value`` words.

    Raises:
        OptionError: an unknown name, a value of the wrong type, or an augmentation's field where
            images are not augmented.
    """
    from filtersurgeon.data.preprocess import Augmentation
    from filtersurgeon.learn.settings import TrainingRecipe

    options = {"freeze", "optimizer", "lr", "proxygrad"}
    known = {field.name for field in fields(TrainingRecipe)} - options
    for name, text in words.items():
        if name in known:
            recipe = replace(recipe, **{name: _parse(name, text, getattr(recipe, name))})
        elif augmentation and name in asdict(augmentation):
            value = _parse(name, text, getattr(augmentation, name))
            augmentation = replace(augmentation, **{name: value})
        elif name in asdict(Augmentation()):
            raise OptionError(f"-p {name} changes how images are augmented; add --augment")
        else:
            hint = near_misses(name, known | set(asdict(Augmentation())))
            hint = hint or "; fsurgeon tune --help lists them under -p"
            raise OptionError(f"-p {name}: no such parameter of training{hint}")
    return recipe, augmentation


def _parse(name: str, text: str, current: Any) -> Any:
    try:
        if isinstance(current, tuple):
            least, most = text.split(",")
            return float(least), float(most)
        return type(current)(text) if isinstance(current, int | float) else text
    except ValueError:
        example = ",".join(map(str, current)) if isinstance(current, tuple) else current
        raise OptionError(f"-p {name}={text} should be a value such as {example}") from None
