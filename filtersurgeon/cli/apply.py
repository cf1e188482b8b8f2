from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.streams import check_destination, deliver, opened

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint


def apply(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", show_default=False, help="A YAML file of steps.")
    ],
    source: options.Input = "-",
    output: options.Output = None,
    dry_run: options.DryRun = False,
    arch: options.Arch = None,
    as_json: options.Json = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Apply a recipe of several steps.

    A recipe is YAML in the words of the commands: "steps: [replace: {bank: dog8}]". Every
    folder that fsurgeon writes holds the recipe that made it.
    """
    from filtersurgeon.recipe import apply as apply_steps
    from filtersurgeon.recipe import read_recipe

    steps = read_recipe(recipe)
    if not dry_run:
        check_destination(output, source, force)
    with opened(source, arch=arch, allow_pickle=allow_pickle, quiet=quiet) as checkpoint:
        edited = apply_steps(checkpoint, steps)
        for text in edited.notes[len(checkpoint.notes) :]:
            show.note(f"note: {text}", quiet)
        if dry_run:
            show_plan(edited, as_json)
        else:
            deliver(edited, output, force=force, quiet=quiet)


def show_plan(edited: Checkpoint, as_json: bool | None) -> None:
    """Show which tensors would change, from what shape to what shape, and why."""
    content = {
        "schema": "filtersurgeon.plan/1",
        "changes": [
            {
                "tensor": change.tensor,
                "before": list(change.before),
                "after": list(change.after),
                "why": change.why,
            }
            for change in edited.changes
        ],
    }
    rows = [
        (c.tensor, "x".join(map(str, c.before)), "x".join(map(str, c.after)), c.why)
        for c in edited.changes
    ]
    columns = [("tensor", "left"), ("before", "right"), ("after", "right"), ("why", "wrap")]
    show.result(content, lambda: [show.table("plan", columns, rows)], as_json=as_json)
