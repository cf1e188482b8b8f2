from __future__ import annotations

from typing import Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import only, verb
from filtersurgeon.cli.complete import schemas


@verb("fsurgeon schema ranking")
def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            show_default=False,
            help="Name such as ranking, ranking/1 or filtersurgeon.ranking/1; without it, a list.",
            autocompletion=schemas,
        ),
    ] = None,
    *,
    output: options.ResultOutput,
    general: Annotated[options.General, only("debug")],  # noqa: ARG001 - acts through its callback
) -> None:
    """Print the JSON Schema of the output of a command.

    Every JSON document of fsurgeon names its schema and version in its key "schema".
    """
    from filtersurgeon.schemas import schema as find_schema

    output.check()
    if name is not None:
        show.result(find_schema(name), lambda: [], as_json=True, output=output.output)
        return
    content = _list_schemas()
    rows = [(s["name"], s["version"], s["summary"]) for s in content["schemas"]]
    columns = [("schema", "left"), ("version", "right"), ("what it describes", "wrap")]
    output.show(content, lambda: [show.table("schemas", columns, rows)])


def _list_schemas() -> dict[str, Any]:
    from filtersurgeon.schemas import schema as find_schema
    from filtersurgeon.schemas import schema_names

    found = [(name, find_schema(name)) for name in schema_names()]
    return {
        "schema": "filtersurgeon.schemas/1",
        "schemas": [
            {
                "name": name,
                "version": int(content["title"].rpartition("/")[2]),
                "summary": content["description"],
            }
            for name, content in found
        ],
    }
