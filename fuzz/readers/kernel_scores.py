"""Scores of kernels, JSON and safetensors."""

import numpy as np

from filtersurgeon.ranking.kernel_scores import (
    KernelScores,
    read_kernel_scores,
    write_kernel_scores,
)
from fuzz.scratch import FOLDER, place, with_length


def corpus() -> list[bytes]:
    scores = KernelScores("l1", {"a": 1}, {"stem": np.arange(24.0).reshape(8, 3)}, 4)
    found = []
    for suffix in ("json", "safetensors"):
        write_kernel_scores(scores, FOLDER / f"good.{suffix}")
        found.append((FOLDER / f"good.{suffix}").read_bytes())
    return found


def repair(case: bytes) -> bytes:
    return case if case[:1] == b"{" else with_length(case)


def read(case: bytes) -> None:
    suffix = "json" if case[:1] == b"{" else "safetensors"
    scores = read_kernel_scores(place(f"scores.{suffix}", case))
    assert all(values.ndim == 2 for values in scores.layers.values())
    scores.to_json()
