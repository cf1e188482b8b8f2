"""Shell completion of names, found without importing what they name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from filtersurgeon.registry import (
    BANKS,
    COMPENSATIONS,
    INITIALIZERS,
    RANKING_METHODS,
    STUDIES,
    Registry,
)


def words(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Make a completion of words that never change."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in known if word.startswith(incomplete)]

    return complete


def ranking_methods(incomplete: str) -> list[tuple[str, str]]:
    """Complete the name of a ranking method."""
    return _matching(RANKING_METHODS, incomplete)


def banks(incomplete: str) -> list[tuple[str, str]]:
    """Complete the name of a built-in bank."""
    return _matching(BANKS, incomplete)


def initializers(incomplete: str) -> list[tuple[str, str]]:
    """Complete the name of an initialisation."""
    return _matching(INITIALIZERS, incomplete)


def studies(incomplete: str) -> list[tuple[str, str]]:
    """Complete the name of a study."""
    return _matching(STUDIES, incomplete)


def compensations(incomplete: str) -> list[tuple[str, str]]:
    """Complete the name of a compensation."""
    return _matching(COMPENSATIONS, incomplete)


def schemas(incomplete: str) -> list[str]:
    """Complete the name of a JSON Schema."""
    from filtersurgeon.schemas import schema_names

    return [name for name in schema_names() if name.startswith(incomplete)]


def _matching(registry: Registry, incomplete: str) -> list[tuple[str, str]]:
    # typer's script for zsh loses straight apostrophes.
    return [
        (name, registry.summary(name).replace("'", "\N{RIGHT SINGLE QUOTATION MARK}"))
        for name in registry.names()
        if name.startswith(incomplete)
    ]
