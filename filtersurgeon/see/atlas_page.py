"""Write an atlas of kernels: a page that works offline, and a table of all kernels."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from filtersurgeon.banks.scale_space import ORDERS
from filtersurgeon.checkpoint.atomic import write_bytes
from filtersurgeon.errors import OptionError
from filtersurgeon.plots.page import script_data, write_page
from filtersurgeon.see.embedding import TITLES
from filtersurgeon.see.gradcam import short_name
from filtersurgeon.see.kernel_atlas import KernelAtlas, rounded

_QUALITATIVE = (
    "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5",
    "#9c6b4e", "#5d6675", "#0b7a75", "#c2185b",
)  # fmt: skip


def write_atlas(found: KernelAtlas, path: str | Path) -> None:
    """Write the page of an atlas, one file that works without a network connection.

    Raises:
        OptionError: nothing was laid out.
        CheckpointError: the file cannot be written.

    Examples:
        >>> import filtersurgeon as fs
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> found = fs.map_kernels([fs.untrained("timm:test_resnet")], method="pca", points=100)
        >>> with TemporaryDirectory() as folder:
        ...     fs.write_atlas(found, Path(folder, "atlas.html"))
        ...     page = Path(folder, "atlas.html").read_text("utf-8")
        >>> "DX+" in page.upper()
        True
    """
    if found.method is None:
        raise OptionError("nothing was laid out; pass a `method`")
    names = [short_name(name) for name in found.names]
    total, shown = sum(map(len, found.layers)), len(found.shown)
    counted = f"{total:,} kernels" if shown == total else f"{shown:,} of {total:,} kernels"
    write_page(
        "atlas.html",
        path,
        title=f"Kernels of {', '.join(names)}",
        summary=f"{counted} of {len(found.layers)} layers, {TITLES[found.method]} of their weights "
        "without scale, sign and offset.",
        bank=found.bank,
        labels=found.labels,
        usage=[_usage_table(k, found) for k in dict.fromkeys(x["network"] for x in found.usage())],
        orders=_order_tables(found),
        data=script_data(_page_data(found, names)),
    )


def _page_data(found: KernelAtlas, names: Sequence[str]) -> dict[str, Any]:
    per_kernel = [(found.layers[k], index) for k, index in found.shown]
    return {
        "networks": names,
        "labels": list(found.labels),
        "orders": list(ORDERS),
        "palette": list(_QUALITATIVE),
        "layers": [
            {"network": x.network, "name": x.name, "depth": round(x.depth, 4),
             "size": list(x.kernel_size)}
            for x in found.layers
        ],
        "x": [round(float(x), 3) for x in found.points[:, 0]],
        "y": [round(float(y), 3) for y in found.points[:, 1]],
        "layer": found.shown[:, 0].tolist(),
        "index": found.shown[:, 1].tolist(),
        "member": [int(layer.member[k]) for layer, k in per_kernel],
        "order": [int(layer.order[k]) for layer, k in per_kernel],
        **{
            name: rounded(np.array([getattr(layer, name)[k] for layer, k in per_kernel]))
            for name in ("cosine", "sigma_x", "sigma_y", "residual")
        },
        "weights": b64encode(b"".join(map(_quantised, found.kernels))).decode(),
        "members": {
            "x".join(map(str, size)): b64encode(b"".join(map(_quantised, kernels))).decode()
            for size, kernels in found.members.items()
        },
    }  # fmt: skip


def _quantised(kernel: np.ndarray) -> bytes:
    """Give a kernel for a small picture: its values in 255 steps of its largest."""
    limit = np.abs(kernel).max() or 1.0
    return np.round(127 * kernel / limit).astype(np.int8).tobytes()


def _usage_table(network: int, found: KernelAtlas) -> dict[str, Any]:
    """Give a network's usage of members as shares of its kernels in each part of its depth."""
    parts = [part for part in found.usage() if part["network"] == network]
    shares = np.array([part["members"] for part in parts], np.float64)
    shares /= [[part["kernels"]] for part in parts]
    return {
        "network": short_name(found.names[network]),
        "parts": [
            [part["from"]] if part["from"] == part["to"] else [part["from"], "to", part["to"]]
            for part in parts
        ],
        "kernels": [f"{part['kernels']:,}" for part in parts],
        "rows": [
            (label, [(f"{100 * share:.0f}", round(float(share), 3)) for share in shares[:, k]])
            for k, label in enumerate(found.labels)
        ],
    }


def _order_tables(found: KernelAtlas) -> list[dict[str, Any]]:
    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    tables: dict[str, list[dict[str, Any]]] = {}
    for row in found.orders():
        title = (
            f"{short_name(found.names[row['network']])}, {'x'.join(map(str, row['kernel_size']))}"
        )
        tables.setdefault(title, []).append({
            "order": row["order"],
            "kernels": f"{row['kernels']:,}",
            "share": f"{100 * row['share']:.0f} %",
            **{name: shown(row[name]) for name in ("sigma_x", "sigma_y", "residual")},
        })  # fmt: skip
    return [{"title": title, "rows": rows} for title, rows in tables.items()]


def write_table(found: KernelAtlas, path: str | Path) -> None:
    """Write a CSV file with a line for each kernel; raises CheckpointError if it cannot."""
    write_bytes(Path(path), found.to_csv().encode())
