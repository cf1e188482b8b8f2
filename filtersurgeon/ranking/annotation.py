"""Reading the ranking that an earlier command left in a checkpoint's metadata."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.documents import parse_json
from filtersurgeon.errors import CheckpointError
from filtersurgeon.ranking.ranking import ANNOTATION, SCHEMA, LayerRanking, Ranking

T = TypeVar("T")


@dataclass(frozen=True)
class Orders:
    """The order of the filters of every ranked layer.

    Attributes:
        orders: layer -> indices of its filters, most important first.
        patterns: of the layers, as they were chosen; none for all spatial ones.
    """

    orders: dict[str, NDArray[np.int64]]
    patterns: tuple[str, ...]


def read_annotation(checkpoint: Checkpoint) -> Orders | None:
    """Take the order of the filters of every ranked layer; None if there is no ranking.

    Raises:
        CheckpointError: the metadata hold something else under that name.
    """
    content = _content(checkpoint)
    return None if content is None else _check(checkpoint, _orders, content)


def read_ranking(checkpoint: Checkpoint) -> Ranking | None:
    """Take the whole ranking, with its scores; None if there is none.

    Raises:
        CheckpointError: the metadata hold something else under that name.
    """
    content = _content(checkpoint)
    return None if content is None else _check(checkpoint, _ranking, content)


def _content(checkpoint: Checkpoint) -> Any:
    text = checkpoint.annotations.get(ANNOTATION)
    return None if text is None else _check(checkpoint, _parse, text)


def _check(checkpoint: Checkpoint, read: Callable[[Any], T], stored: Any) -> T:
    try:
        return read(stored)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{checkpoint.name} contains a corrupt ranking in its metadata: {error}"
        ) from None


def _parse(text: str) -> Any:
    content = parse_json(text)
    if content["schema"] != SCHEMA:
        raise ValueError(f"its schema is {content['schema']!r}")
    return content


def _orders(content: Any) -> Orders:
    orders = {item["name"]: _order(item["order"]) for item in content["layers"]}
    return Orders(orders, _patterns(content))


def _patterns(content: Any) -> tuple[str, ...]:
    patterns = content.get("patterns", [])
    if not isinstance(patterns, list) or not all(isinstance(x, str) for x in patterns):
        raise ValueError("its patterns are no list of names")
    return tuple(patterns)


def _ranking(content: Any) -> Ranking:
    layers = {
        item["name"]: LayerRanking(
            item["name"],
            str(item["kind"]),
            np.array(item["scores"], np.float64),
            _order(item["order"]),
            dict(item["statistics"]),
        )
        for item in content["layers"]
    }
    method, options = str(content["method"]), dict(content["options"])
    return Ranking(method, options, layers, _patterns(content), dict(content.get("data", {})))


def _order(indices: object) -> NDArray[np.int64]:
    order = np.array(indices)
    if (
        order.ndim != 1
        or order.dtype.kind != "i"
        or (np.sort(order) != np.arange(len(order))).any()
    ):
        raise ValueError("an order is not one of all filters")
    return order.astype(np.int64)
