"""Devices: searches and studies, which open their network from a file, on a pretended GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pretended import pretended_gpus

import filtersurgeon as fs
from examples.zoo import train
from filtersurgeon.banks.search import SearchData, by_accuracy
from filtersurgeon.data.data import DataSpec
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.studies._lab import Lab

ZOO = "examples/zoo/lenet5_digits.safetensors"
FACTORY = "factory:examples.zoo.networks:lenet5"
QUICK = EvaluationSettings(batch_size=8)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    train.write_digits(path)
    return path


def searched(digits: Path, **options: Any) -> list[tuple[str | None, int | None]]:
    by_accuracy._trial.cache_clear()
    data = SearchData(DataSpec(str(digits), subset=24), ZOO, evaluation=QUICK)
    with fs.load(ZOO, arch=FACTORY) as checkpoint:
        found = fs.search_bank(
            checkpoint, "dog8", data, to=6, all_spatial=True, size=5, **options
        )  # fmt: skip
    by_accuracy._trial.cache_clear()
    return [(step.removed, step.wrong) for step in found.steps]


def test_a_bank_is_searched_on_the_device(digits: Path) -> None:
    expected = searched(digits)
    with pretended_gpus() as mode:
        assert searched(digits) == expected
    assert mode.ran > 100


STUDIES = {
    "gradients": {"slopes": "0.1", "repeats": 2, "batch": 4},
    "proxygrad": {"slopes": "0.1", "methods": "proxygrad", "steps": "1,2", "units": 3},
    "zeroing": {"zeroed": "50", "orders": "least", "train_subset": 8},
    "prune-ranking": {
        "removed": "50",
        "methods": "l1",
        "epochs": 1,
        "repeats": 1,
        "train_subset": 16,
    },
    "training-cost": {"zeroed": "90", "method": "l1", "steps": 1, "rounds": 2, "batch_size": 2},
}


def studied(name: str, digits: Path) -> Any:
    lab = Lab(
        fs.load(ZOO, arch=FACTORY), ZOO, DataSpec(str(digits), subset=16), evaluation=QUICK
    )  # fmt: skip
    if name == "training-cost":
        lab = replace(lab, data=None)
    elif name == "prune-ranking":
        STUDIES[name]["train"] = str(digits)
    return fs.study(name, lab, STUDIES[name]).findings


def numbers(findings: Any, path: str = "") -> dict[str, float]:
    """List the numbers of a JSON document, but for times."""
    if isinstance(findings, dict):
        parts = [numbers(value, f"{path}/{key}") for key, value in findings.items()]
    elif isinstance(findings, list | tuple):
        parts = [numbers(value, f"{path}/{key}") for key, value in enumerate(findings)]
    else:
        timed = any(word in path for word in ("second", "spread", "saved", "shares"))
        return {path: findings} if isinstance(findings, int | float) and not timed else {}
    return {key: value for part in parts for key, value in part.items()}


LONG = {"gradients", "prune-ranking", "training-cost"}


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.slow) if x in LONG else x for x in STUDIES]
)
def test_a_study_computes_on_the_device_and_finds_the_same(name: str, digits: Path) -> None:
    expected = numbers(studied(name, digits))
    with pretended_gpus() as mode:
        found = numbers(studied(name, digits))
    assert mode.ran > 20
    assert len(expected) > 2
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
