from __future__ import annotations

from typing import Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.complete import schemas


def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            show_default=False,
            help="Such as ranking, ranking/1 or filtersurgeon.ranking/1; without it, a list.",
            autocompletion=schemas,
        ),
    ] = None,
    as_json: options.Json = None,
    output: options.Results = None,
    force: options.Force = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Give the JSON Schema of what a command prints.

    Every JSON document of fsurgeon names its schema and version in its key "schema".
    """
    from filtersurgeon.schemas import schema as find_schema

    show.check_json_path(output, force)
    if name is not None:
        show.result(find_schema(name), lambda: [], as_json=True, output=output)
        return
    content = _listed()
    rows = [(s["name"], s["version"], s["summary"]) for s in content["schemas"]]
    columns = [("schema", "left"), ("version", "right"), ("what it describes", "wrap")]
    show.result(
        content, lambda: [show.table("schemas", columns, rows)], as_json=as_json, output=output
    )


def _listed() -> dict[str, Any]:
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
