"""Bundles: options that several commands share, declared once as the fields of a dataclass.

A command takes a whole bundle as one parameter. :func:`verb` makes an option of every field, and
gives the command an instance of the bundle::

    @dataclass(frozen=True)
    class Network(Bundle):
        arch: Annotated[str | None, typer.Option("--arch")] = None
        factory: Annotated[str | None, typer.Option("--factory")] = None

    @verb("fsurgeon inspect m.safetensors")
    def inspect(source: Input, *, network: Network) -> None: ...

A command that needs only some of the fields, or other defaults, says so beside the type:
``Annotated[Network, without("factory")]`` or ``Annotated[Running, changed(batch_size=16)]``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache, update_wrapper
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

Command = TypeVar("Command", bound=Callable[..., None])
Change = Callable[[dict[str, inspect.Parameter]], dict[str, inspect.Parameter]]


class Bundle:
    """Base of all bundles; a subclass is a dataclass whose fields are annotated for typer."""


def only(*names: str) -> Change:
    """Keep only these fields of a bundle as options."""
    return lambda options: {name: options[name] for name in names}


def without(*names: str) -> Change:
    """Leave these fields of a bundle out; they keep their defaults."""
    return lambda options: {k: option for k, option in options.items() if k not in names}


def changed(**defaults: Any) -> Change:
    """Give fields of a bundle other defaults."""
    return lambda options: {
        name: option.replace(default=defaults.get(name, option.default))
        for name, option in options.items()
    }


def replaced(**options: Any) -> Change:
    """Declare fields of a bundle anew, of the same type and default: another help or metavar."""

    def change(known: dict[str, inspect.Parameter]) -> dict[str, inspect.Parameter]:
        new = {name: _redeclare(known[name], option) for name, option in options.items()}
        return {**known, **new}

    return change


def _redeclare(known: inspect.Parameter, option: Any) -> inspect.Parameter:
    kind, *_ = get_args(known.annotation)
    return known.replace(annotation=Annotated[kind, option])


def verb(example: str) -> Callable[[Command], Command]:
    """Make a command of a function whose parameters may be bundles.

    Args:
        example: a command line that shows the verb at work; ``--help`` ends with it.
    """

    def decorate(function: Command) -> Command:
        parameters: list[inspect.Parameter] = []
        bundles: dict[str, tuple[type, tuple[str, ...]]] = {}
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            kind, changes = _bundle_of(parameter.annotation)
            if kind is None:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
                continue
            options = _options(kind)
            for change in changes:
                options = change(options)
            bundles[parameter.name] = kind, tuple(options)
            parameters += options.values()

        def command(**given: Any) -> None:
            made = {
                name: kind(**{option: given.pop(option) for option in options})
                for name, (kind, options) in bundles.items()
            }
            function(**given, **made)

        update_wrapper(command, function)
        found: Any = command
        found.__signature__ = inspect.Signature(parameters)
        found.__annotations__ = {}  # typer reads the signature
        found.example = example
        return found

    return decorate


def _bundle_of(annotation: Any) -> tuple[type | None, tuple[Change, ...]]:
    """Tell a bundle, and what is changed in it, from other annotations."""
    kind, *changes = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    if isinstance(kind, type) and issubclass(kind, Bundle):
        return kind, tuple(changes)
    return None, ()


def _options(kind: type) -> dict[str, inspect.Parameter]:
    return {option.name: option for option in _fields(kind)}


@cache
def _fields(kind: Any) -> tuple[inspect.Parameter, ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    )  # fmt: skip


def values(bundle: Bundle) -> dict[str, Any]:
    """Give what was said, by field: what a function of the library takes as keywords."""
    return dict(_pairs(bundle))


def _pairs(bundle: Any) -> Iterator[tuple[str, Any]]:
    return ((field.name, getattr(bundle, field.name)) for field in fields(bundle))
