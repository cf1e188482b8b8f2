from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import only, verb

if TYPE_CHECKING:
    from filtersurgeon.doctor import Environment


@verb("fsurgeon doctor --json")
def doctor(
    *,
    output: Annotated[options.ResultOutput, only("as_json")],
    general: Annotated[options.General, only("debug")],  # noqa: ARG001 - acts through its callback
) -> None:
    """Show versions, devices and optional packages.

    Exits with 1 if a required package is missing.
    """
    from filtersurgeon.doctor import diagnose

    found = diagnose()
    output.show(found.to_json(), lambda: _render(found))
    if found.missing:
        raise typer.Exit(1)


def _render(found: Environment) -> Iterator[Any]:
    from rich.text import Text

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
    yield f"--device auto: {found.device or 'none'}"
    yield f"cache: {found.cache}"
    if found.missing:
        missing = f"missing: {', '.join(found.missing)}"
        yield Text.assemble((missing, "red"), "; pip install --upgrade filtersurgeon")
