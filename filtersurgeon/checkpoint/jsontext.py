"""JSON that others wrote: parsed within bounds, and refused in one way."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MAX_VALUES = 2_000_000
"""Values in one text, which take about a hundred bytes each: 200 MB, whatever the text's length."""


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
        ValueError: it is no JSON, nested too deeply, or has more values.
    """
    # Every value but the first follows one of these; a short text cannot hold too many.
    if len(text) > limit and sum(map(text.count, ",[{")) > limit:
        raise ValueError(f"more than {limit:,} values")
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("nested too deeply") from None
