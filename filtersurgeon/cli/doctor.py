from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from filtersurgeon.cli import options, show

if TYPE_CHECKING:
    from filtersurgeon.doctor import Environment


def doctor(
    as_json: options.Json = None,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Show versions, devices and optional parts.

    Exits with 1 if something needed is missing.
    """
    from filtersurgeon.doctor import diagnose

    found = diagnose()
    show.result(found.to_json(), lambda: _render(found), as_json=as_json)
    if found.missing:
        raise typer.Exit(1)


def _render(found: Environment) -> Iterator[Any]:
    from filtersurgeon.doctor import EXTRAS

    part = {name: f"extra {extra}" for extra, names in EXTRAS.items() for name in names}
    rows = [
        (name, version or "missing", part.get(name, "needed"))
        for name, version in found.versions.items()
    ]
    yield show.table(
        "fsurgeon doctor", [("package", "left"), ("version", "left"), ("for", "left")], rows
    )
    yield f"torchvision: {found.torchvision}"
    yield f"devices: {', '.join(found.devices) or 'none'}"
    yield f"cache: {found.cache}"
    if found.missing:
        yield f"[red]missing: {', '.join(found.missing)}[/]; pip install --upgrade filtersurgeon"
