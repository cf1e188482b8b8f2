"""The page of JSON Schemas, written from their files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from filtersurgeon.schemas import schema, schema_names

INTRODUCTION = """# JSON

Every document that a command prints (`--json`, or into a pipe, or `-o FILE.json`) names its schema
and version in the key `schema`. The version goes up when a key goes or changes its meaning; new
keys leave it as it is, so pass over keys that you do not know.

`fsurgeon schema NAME` gives the schema itself (JSON Schema, draft 2020-12), which lies in the
package as `filtersurgeon/schemas/NAME-VERSION.json`; `filtersurgeon.schema("ranking")` gives it to
Python. The tests hold real outputs of every command against these files.

```sh
fsurgeon rank m.safetensors | jq '.layers[0].order[:3]'
fsurgeon schema ranking > ranking.schema.json
```
"""


def schema_page() -> str:
    """Write a table of keys for every schema."""
    parts = [INTRODUCTION]
    for name in schema_names():
        content = schema(name)
        rows = "\n".join(_rows(content, content.get("$defs", {})))
        summary = re.sub(r"^What (.+?) (prints|keeps)", r"What `\1` \2", content["description"])
        parts.append(
            f"## `{content['title']}` {{ #{name} }}\n\n{summary}\n\n"
            f"| key | type | meaning |\n|---|---|---|\n{rows}\n"
        )
    return "\n".join(parts)


def _rows(part: dict[str, Any], shared: dict[str, Any], path: str = "") -> Iterator[str]:
    required = part.get("required", ())
    for key, value in part.get("properties", {}).items():
        if key == "schema":
            continue
        inner, suffix = _innermost(value)
        if inner.get("$ref", "").rpartition("/")[2] not in schema_names():
            inner = shared.get(inner.get("$ref", "").rpartition("/")[2], inner)
        words = _words(value) + ("" if key in required else ", may be absent")
        meaning = value["description"].replace("|", "\\|")
        yield f"| `{path}{key}` | {words} | {meaning} |"
        yield from _rows(inner, shared, f"{path}{key}{suffix}.")


def _innermost(value: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Give what a list of objects holds, and how its place is written."""
    suffix = ""
    while "items" in value and "properties" in value["items"]:
        value, suffix = value["items"], suffix + "[]"
    return value, suffix


def _words(value: dict[str, Any]) -> str:
    """Name the type of a value for people."""
    if "enum" in value:
        return " or ".join(f"`{word}`" for word in value["enum"])
    if "anyOf" in value:
        return " or ".join(_words(each) for each in value["anyOf"])
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})" if name in schema_names() else "object"
    kinds = value.get("type", "anything")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return " or ".join(_kind(kind, value) for kind in kinds)


def _kind(kind: str, value: dict[str, Any]) -> str:
    if kind == "array":
        return f"list of {_plural(_words(value['items']))}"
    if kind == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"object of {_plural(_words(value['additionalProperties']))}"
    return kind


def _plural(words: str) -> str:
    first, _, rest = words.partition(" ")
    plain = {"integer", "number", "string", "object", "boolean", "list"}
    return f"{first}s {rest}".strip() if first in plain else words
