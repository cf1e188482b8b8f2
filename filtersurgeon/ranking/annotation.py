"""Reading the ranking that an earlier command left in a checkpoint's metadata."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.jsontext import parse_json
from filtersurgeon.errors import CheckpointError
from filtersurgeon.ranking.ranking import ANNOTATION, SCHEMA

Orders = dict[str, NDArray[np.int64]]
"""Layer -> indices of its filters, most important first."""


def read_annotation(checkpoint: Checkpoint) -> Orders | None:
    """Take the order of the filters of every ranked layer; None if there is no ranking.

    Raises:
        CheckpointError: the metadata hold something else under that name.
    """
    text = checkpoint.annotations.get(ANNOTATION)
    if text is None:
        return None
    try:
        content = parse_json(text)
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']!r}")
        orders = {item["name"]: _order(item["order"]) for item in content["layers"]}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{checkpoint.name} carries a corrupt ranking in its metadata: {error}"
        ) from None
    return orders


def _order(indices: object) -> NDArray[np.int64]:
    order = np.array(indices)
    if (
        order.ndim != 1
        or order.dtype.kind != "i"
        or (np.sort(order) != np.arange(len(order))).any()
    ):
        raise ValueError("an order is not one of all filters")
    return order.astype(np.int64)
