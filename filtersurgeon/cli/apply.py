from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import verb

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint


@verb("fsurgeon apply recipe.yaml m.safetensors -o edited.safetensors")
def apply(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", show_default=False, help="YAML file of steps.")
    ],
    source: options.Input = "-",
    *,
    network: options.Network,
    output: options.CheckpointOutput,
    general: options.General,
) -> None:
    """Apply the steps of a recipe.

    A recipe is a YAML file with the names of commands and options, such as
    "steps: [replace: {bank: dog8}]". Every directory that fsurgeon writes contains the recipe that
    made it.
    """
    from filtersurgeon.recipe import apply as apply_steps
    from filtersurgeon.recipe import read_recipe

    steps = read_recipe(recipe)
    output.check(source)
    with network.opened(source, general.quiet) as checkpoint:
        edited = apply_steps(checkpoint, steps)
        for text in edited.notes[len(checkpoint.notes) :]:
            show.note(f"note: {text}", general.quiet)
        if output.dry_run:
            show_plan(edited, output)
        else:
            output.deliver(edited, general.quiet)


def show_plan(edited: Checkpoint, output: options.CheckpointOutput) -> None:
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
    output.show(content, lambda: [show.table("plan", columns, rows)])
