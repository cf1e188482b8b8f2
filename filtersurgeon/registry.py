"""Drop-in files: a module whose name is a method's name, found without being imported.

A drop-in ``some_method.py`` defines the function ``some_method``; users call it ``some-method``.
The first line of the module's docstring is its help, and the function's keyword-only parameters
are its options.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args

from filtersurgeon.errors import OptionError, near_misses


@dataclass(frozen=True)
class Registry:
    """The drop-ins of one folder.

    Attributes:
        package: the package that the files lie in, such as ``filtersurgeon.ranking.methods``.
        noun: what one of them is, for messages, such as ``ranking method``.
    """

    package: str
    noun: str

    @cached_property
    def _folder(self) -> Path:
        return Path(__file__).parent.joinpath(*self.package.split(".")[1:])

    def names(self) -> list[str]:
        """Name every drop-in, as users write it."""
        files = self._folder.glob("*.py")
        return sorted(f.stem.replace("_", "-") for f in files if not f.stem.startswith("_"))

    def choices(self, *more: str) -> str:
        """List the names, and other words, for a help text, such as ``l1, l2 or random``."""
        return alternatives([*self.names(), *more])

    def _stem(self, name: str) -> str:
        if name not in self.names():
            raise OptionError(f"no {self.noun} called {name!r}{near_misses(name, self.names())}")
        return name.replace("-", "_")

    def summary(self, name: str) -> str:
        """Give the first line of a drop-in's docstring without importing it."""
        source = (self._folder / f"{self._stem(name)}.py").read_text("utf-8")
        text = ast.get_docstring(ast.parse(source)) or ""
        return text.partition("\n")[0]

    def function(self, name: str) -> Callable[..., Any]:
        """Import a drop-in and give its function.

        Raises:
            OptionError: there is none of that name; names the near misses.
        """
        stem = self._stem(name)
        function: Callable[..., Any] = getattr(import_module(f"{self.package}.{stem}"), stem)
        return function

    def options(self, name: str) -> Mapping[str, inspect.Parameter]:
        """Give the keyword-only parameters of a drop-in."""
        parameters = inspect.signature(self.function(name), eval_str=True).parameters
        return {k: p for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}

    def inputs(self, name: str) -> tuple[str, ...]:
        """Name the positional parameters of a drop-in: what it is given, not told."""
        parameters = inspect.signature(self.function(name)).parameters
        return tuple(k for k, p in parameters.items() if p.kind is not p.KEYWORD_ONLY)

    def bind(
        self, name: str, values: Mapping[str, Any], reserved: Container[str] = ()
    ) -> dict[str, Any]:
        """Check option values against a drop-in, turning words into the types it declares.

        Args:
            name: the drop-in.
            values: option name -> value, or the word that stands for it.
            reserved: parameters that are not options for users here.

        Raises:
            OptionError: an unknown option, or a value of the wrong type.
        """
        known = {k: p for k, p in self.options(name).items() if k not in reserved}
        bound = {}
        for key, value in values.items():
            option = key.replace("-", "_")
            if option not in known:
                hint = near_misses(option, known) or "; it has no options"
                raise OptionError(f"{self.noun} {name} has no option {key!r}{hint}")
            bound[option] = _convert(value, known[option], f"{self.noun} {name}")
        return bound


INITIALIZERS = Registry("filtersurgeon.transforms.initializers", "initialisation")
RANKING_METHODS = Registry("filtersurgeon.ranking.methods", "ranking method")
BANKS = Registry("filtersurgeon.banks.builtin", "bank")
STUDIES = Registry("filtersurgeon.studies", "study")
COMPENSATIONS = Registry("filtersurgeon.pruning.compensation.kinds", "compensation")
TRANSFORMS = Registry("filtersurgeon.transforms", "transform")


def alternatives(names: Sequence[str]) -> str:
    """Join names as ``a, b or c``."""
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def read_share(value: Any) -> float:
    """Read a number, or a percentage: ``0.3`` and ``30%`` are the same share.

    Raises:
        ValueError: the text is neither.
        TypeError: it is no text and no number.
    """
    if isinstance(value, str) and value.rstrip().endswith("%"):
        return float(value.rstrip()[:-1]) / 100
    return float(value)


def _convert(value: Any, parameter: inspect.Parameter, owner: str) -> Any:
    kind = _kind(parameter.annotation)
    if value is None and kind is not parameter.annotation:
        return None
    if kind not in (bool, int, float, str):
        return value
    try:
        if kind is bool and isinstance(value, str):
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                value.lower()
            ]
        converted = read_share(value) if kind is float else kind(value)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise OptionError(
            f"{owner}: {parameter.name}={value} is not {_add_article(kind.__name__)}"
        ) from None
    return converted


def _kind(annotation: Any) -> Any:
    """Give the type that an optional parameter has when it is given."""
    others = [kind for kind in get_args(annotation) if kind is not NoneType]
    return others[0] if isinstance(annotation, UnionType) and len(others) == 1 else annotation


def _add_article(type_name: str) -> str:
    words = {"int": "a whole number", "float": "a number", "bool": "true or false"}
    return words.get(type_name, f"a {type_name}")
