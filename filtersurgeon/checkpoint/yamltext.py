"""YAML that others wrote: plain values only, and no more of them than were written."""

from __future__ import annotations

from typing import Any

MAX_LENGTH = 1 << 18
MAX_DEPTH = 20
MAX_VALUES = 50_000


def parse_yaml(text: str) -> Any:
    """Parse a document of plain values; tags that would make objects are refused.

    Raises:
        ValueError: it is too long, too deep, or its aliases stand for too many values.
        yaml.YAMLError: it is no YAML, or holds a tag that is not one of plain values.
    """
    import yaml

    if len(text) > MAX_LENGTH:
        raise ValueError(f"it is longer than {MAX_LENGTH:,} characters")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    _check(yaml.parse(text, loader))
    return yaml.load(text, loader)


def _check(events: Any) -> None:
    """Count values as if every alias were written out."""
    import yaml

    sizes: dict[str, int] = {}
    open_counts, anchors = [0], [""]
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"the alias *{event.anchor} stands for nothing, or for itself")
            open_counts[-1] += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            open_counts.append(1)
            anchors.append(event.anchor or "")
        elif isinstance(event, yaml.CollectionEndEvent):
            size = open_counts.pop()
            sizes[anchors.pop()] = size
            open_counts[-1] += size
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor or ""] = 1
            open_counts[-1] += 1
        if len(open_counts) > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        if open_counts[-1] > MAX_VALUES:
            raise ValueError(f"it holds more than {MAX_VALUES:,} values")
