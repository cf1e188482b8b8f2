"""JSON and YAML of unknown origin: parsed within bounds, plain values only, one kind of refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_VALUES = 2_000_000
"""Values in one text, which take about a hundred bytes each: 200 MB, whatever the text's length."""


class TooManyValues(ValueError):  # noqa: N818 - what is wrong, not how bad it is
    """A text that holds more values than are read; it may be sound."""


def parse_json(
    text: str,
    *,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
    limit: int = MAX_VALUES,
) -> Any:
    """Parse a text.

    Args:
        text: the JSON.
        pairs: makes the objects of it, instead of ``dict``.
        limit: most values that it may hold.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
        TooManyValues: it has more values.
    """
    # Every value but the first follows one of these; a short text cannot hold too many.
    if len(text) > limit and sum(map(text.count, ",[{")) > limit:
        raise TooManyValues(f"more than {limit:,} values")
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise _in_plain_words(error) from None


def _in_plain_words(error: ValueError) -> ValueError:
    """Replace Python's advice to programmers about long numbers."""
    if "set_int_max_str_digits" in str(error):
        return ValueError("it holds an integer of thousands of digits")
    return error


MAX_YAML_LENGTH = 1 << 18
MAX_YAML_DEPTH = 20
MAX_YAML_VALUES = 50_000
MAX_DIGITS = 4000
_LARGEST = 10**MAX_DIGITS  # Python prints numbers that are a little longer


def read_yaml(path: Path) -> Any:
    """Parse a file, of which no more is read than a document may have.

    Raises:
        OSError: it cannot be read.
        ValueError, yaml.YAMLError: as :func:`parse_yaml`.
    """
    return parse_yaml(read_text(path))


_PIECE = 1 << 20


def read_text(path: Path, most: int = 4 * MAX_YAML_LENGTH) -> str:
    """Read a file of text, a device without end too.

    Args:
        path: the file.
        most: bytes that are read, and one more; by default what YAML may have.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
    """
    parts = []
    with path.open("rb") as file:
        # Piece by piece, for a buffer of `most` bytes would be allocated at once.
        while most >= 0 and (part := file.read(min(most + 1, _PIECE))):
            parts.append(part)
            most -= len(part)
    return b"".join(parts).decode("utf-8")


def parse_yaml(text: str) -> Any:
    """Parse a document of plain values; tags that would make objects are refused.

    Raises:
        ValueError: it is too long, too deep, its aliases stand for too many values, or an integer
            has too many digits.
        yaml.YAMLError: it is no YAML, or holds a tag that is not one of plain values.
    """
    import yaml

    if len(text) > MAX_YAML_LENGTH:
        raise ValueError(f"it is longer than {MAX_YAML_LENGTH:,} characters")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    _check(yaml.parse(text, loader))
    try:
        found = yaml.load(text, loader)
    except ValueError as error:
        raise _in_plain_words(error) from None
    _check_numbers(found)
    return found


def find_lines(text: str) -> dict[tuple[str | int, ...], int]:
    """Give the line, counted from 1, of every value by the keys and places that lead to it.

    Args:
        text: a document that :func:`parse_yaml` took.
    """
    import yaml

    found: dict[tuple[str | int, ...], int] = {}
    root = yaml.compose(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    left: list[tuple[tuple[str | int, ...], Any, Any]] = [((), root, root)]
    while left:
        path, node, named = left.pop()
        if node is None:
            continue
        found[path] = named.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            left += [((*path, str(key.value)), value, key) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            left += [((*path, place), value, value) for place, value in enumerate(node.value)]
    return found


def reason(error: Exception) -> str:
    """Say in one line why a file of YAML cannot be read."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not a text in UTF-8"
    if isinstance(error, KeyError):
        return f"it has no {error}"
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}: {getattr(error, 'problem', '')}"
    return str(getattr(error, "strerror", None) or " ".join(str(error).split()))


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
        if len(open_counts) > MAX_YAML_DEPTH:
            raise ValueError("it is nested too deeply")
        if open_counts[-1] > MAX_YAML_VALUES:
            raise ValueError(f"it holds more than {MAX_YAML_VALUES:,} values")


def _check_numbers(found: Any) -> None:
    """Refuse integers that no message could print; YAML writes them in base 16 or 60, too."""
    left = [found]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list | tuple | set):
            left += value
        elif isinstance(value, int) and abs(value) >= _LARGEST:
            raise ValueError(f"it holds an integer of more than {MAX_DIGITS:,} digits")
