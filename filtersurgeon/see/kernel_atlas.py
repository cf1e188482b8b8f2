"""The spatial kernels of networks, with their bank members and Gaussian fits, as a result."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from filtersurgeon.banks.bank import Size
from filtersurgeon.banks.scale_space import ORDERS
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tables import Row, Tabular
from filtersurgeon.see.gradcam import short_name

NONE = -1
"""Stands for no member, and no order."""

_BINS = 8  # parts of a network's depth


@dataclass(frozen=True)
class MappedLayer:
    """The n kernels of one layer.

    Attributes:
        network: index of the network.
        name: the module's name.
        depth: place among the network's spatial layers in the natural order of their names, those
            that read the image first: 0 for the first to 1 for the last.
        kernel_size: height and width.
        member: ``(n,)`` index of the closest bank member; -1 where the bank lacks the size, and for
            constant kernels.
        cosine: ``(n,)`` |cosine| of the mean-free kernel to it; NaN where there is none.
        order: ``(n,)`` the closest derivative of a Gaussian, an index into ``ORDERS``; -1 for
            constant kernels, and for sides that are even or less than 3.
        sigma_x: ``(n,)`` its scale along the width, in pixels; NaN where there is none.
        sigma_y: ``(n,)`` its scale along the height.
        residual: ``(n,)`` what its closest linear transform leaves, as a share of the norm of the
            mean-free kernel.
    """

    network: int
    name: str
    depth: float
    kernel_size: Size
    member: np.ndarray
    cosine: np.ndarray
    order: np.ndarray
    sigma_x: np.ndarray
    sigma_y: np.ndarray
    residual: np.ndarray

    def __len__(self) -> int:
        return len(self.member)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.kernel_size))
        return summarise(self, name=self.name, size=size, kernels=len(self))

    def to_json(self, labels: Sequence[str]) -> dict[str, Any]:
        """Give the layer as it stands in the JSON of an atlas."""
        return {
            "name": self.name,
            "depth": round(self.depth, 4),
            "kernel_size": list(self.kernel_size),
            "kernels": len(self),
            "member": [labels[k] if k != NONE else None for k in self.member],
            "cosine": rounded(self.cosine),
            "order": [ORDERS[k] if k != NONE else None for k in self.order],
            "sigma_x": rounded(self.sigma_x),
            "sigma_y": rounded(self.sigma_y),
            "residual": rounded(self.residual),
        }


def rounded(values: np.ndarray) -> list[float | None]:
    """Give numbers to four digits after the point, as JSON has them; None for NaN."""
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


@dataclass(frozen=True)
class KernelAtlas(Tabular):
    """The spatial kernels of networks, described one by one and laid out together.

    Attributes:
        names: of the networks.
        bank: the name of the bank.
        labels: of its members.
        layers: all layers, network by network, first layer first.
        method: ``tsne``, ``pca`` or ``umap``; None where nothing was laid out.
        points: ``(P, 2)`` places of the kernels that were laid out.
        shown: ``(P, 2)`` which they are: the index of the layer and of the kernel in it.
        kernels: their weights, ``(height, width)`` each.
        members: the bank's members at each kernel size that occurs and that it has.
    """

    names: tuple[str, ...]
    bank: str
    labels: tuple[str, ...]
    layers: tuple[MappedLayer, ...]
    method: str | None
    points: np.ndarray
    shown: np.ndarray
    kernels: tuple[np.ndarray, ...]
    members: dict[Size, np.ndarray]

    def __repr__(self) -> str:
        entries = (
            f"{self.names[x.network]} {x.name}: {len(x)} kernels of "
            f"{'x'.join(map(str, x.kernel_size))}"
            for x in self.layers
        )
        return summarise(
            self, entries, networks=len(self.names), bank=self.bank, method=self.method,
            kernels=sum(map(len, self.layers)), points=self.points.shape,
        )  # fmt: skip

    def rows(self) -> Iterator[Row]:
        """Give a row for each layer: its kernels, and the medians of their fits."""
        for layer in self.layers:
            fitted = layer.order != NONE
            yield {
                "network": short_name(self.names[layer.network]),
                "layer": layer.name,
                "size": "x".join(map(str, layer.kernel_size)),
                "kernels": len(layer),
                "member": _commonest(layer.member, self.labels),
                "cosine": _median(layer.cosine),
                "order": _commonest(layer.order, ORDERS),
                "sigma_x": _median(layer.sigma_x[fitted]),
                "sigma_y": _median(layer.sigma_y[fitted]),
                "residual": _median(layer.residual[fitted]),
            }

    def records(self) -> Iterator[Row]:
        """Give a row for each kernel."""
        for layer in self.layers:
            content = layer.to_json(self.labels)
            for k in range(len(layer)):
                yield {
                    "network": short_name(self.names[layer.network]),
                    "layer": layer.name,
                    "depth": content["depth"],
                    "size": "x".join(map(str, layer.kernel_size)),
                    "kernel": k,
                    **{name: content[name][k] for name in _COLUMNS},
                }

    def to_csv(self) -> str:
        """Give a table with a line for each kernel."""
        text = io.StringIO()
        writer = csv.DictWriter(text, ["network", "layer", "depth", "size", "kernel", *_COLUMNS])
        writer.writeheader()
        writer.writerows(self.records())
        return text.getvalue()

    def orders(self) -> list[dict[str, Any]]:
        """Summarise the fits by network, kernel size and order, the commonest order first."""
        found = []
        groups = dict.fromkeys((x.network, x.kernel_size) for x in self.layers)
        for network, size in groups:
            part = [x for x in self.layers if (x.network, x.kernel_size) == (network, size)]
            order, sigma_x, sigma_y, residual = (
                np.concatenate([getattr(x, name) for x in part])
                for name in ("order", "sigma_x", "sigma_y", "residual")
            )
            counts = np.bincount(order[order != NONE], minlength=len(ORDERS))
            for k in np.argsort(-counts, kind="stable"):
                if counts[k]:
                    its = order == k
                    found.append({
                        "network": network,
                        "kernel_size": list(size),
                        "order": ORDERS[k],
                        "kernels": int(counts[k]),
                        "share": float(counts[k] / len(order)),
                        "sigma_x": _median(sigma_x[its]),
                        "sigma_y": _median(sigma_y[its]),
                        "residual": _median(residual[its]),
                    })  # fmt: skip
        return found

    def usage(self) -> list[dict[str, Any]]:
        """Count the kernels of each bank member, by network and part of its depth.

        The layers of a network that have members are divided into at most eight parts of equal
        length, in the order of their depth.
        """
        found = []
        for network in range(len(self.names)):
            own = [x for x in self.layers if x.network == network and (x.member != NONE).any()]
            for part in np.array_split(np.arange(len(own)), min(_BINS, len(own))) if own else ():
                member = np.concatenate([own[k].member for k in part])
                counts = np.bincount(member[member != NONE], minlength=len(self.labels))
                found.append({
                    "network": network,
                    "from": own[part[0]].name,
                    "to": own[part[-1]].name,
                    "kernels": int(counts.sum()),
                    "members": counts.tolist(),
                })  # fmt: skip
        return found

    def to_json(self) -> dict[str, Any]:
        """Give the atlas in its JSON schema, ``filtersurgeon.kernel-atlas/1``."""
        laid_out = {
            "method": self.method,
            "points": [
                {"layer": int(layer), "kernel": int(kernel), "x": round(float(x), 4),
                 "y": round(float(y), 4)}
                for (layer, kernel), (x, y) in zip(self.shown, self.points, strict=True)
            ],
        }  # fmt: skip
        return {
            "schema": "filtersurgeon.kernel-atlas/1",
            "bank": self.bank,
            "members": list(self.labels),
            "networks": [short_name(name) for name in self.names],
            "layers": [{"network": x.network, **x.to_json(self.labels)} for x in self.layers],
            "orders": self.orders(),
            "usage": self.usage(),
            **(laid_out if self.method else {}),
        }


_COLUMNS = ("member", "cosine", "order", "sigma_x", "sigma_y", "residual")


def _median(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return round(float(np.median(known)), 4) if len(known) else None


def _commonest(values: np.ndarray, labels: Sequence[str]) -> str | None:
    known = values[values != NONE]
    return labels[int(np.bincount(known).argmax())] if len(known) else None
