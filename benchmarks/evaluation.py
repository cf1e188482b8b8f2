"""Time to evaluate a network on photographs, against a plain timm validation loop."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import Row, in_turn
from filtersurgeon.checkpoint.vision import import_timm
from filtersurgeon.data.data import DataSpec, open_data
from filtersurgeon.data.preprocess import read_preprocessing
from filtersurgeon.learn.evaluate import EvaluationSettings, evaluate

NETWORK = "tf_efficientnet_lite0"
IMAGES, BATCH = 96, 32


def _write_photographs(folder: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        path = folder / ("n01440764", "n15075141")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(coarse).resize((384, 288), Image.Resampling.BICUBIC).save(path)


def _validate_by_timm(model: Any, folder: Path) -> None:
    """Do what timm's ``validate.py`` does on a CPU."""
    import torch
    from timm.data import ImageDataset, create_loader, resolve_data_config
    from timm.utils import AverageMeter, accuracy

    config = resolve_data_config({}, model=model)
    loader = create_loader(
        ImageDataset(str(folder)),
        batch_size=BATCH,
        use_prefetcher=False,
        num_workers=0,
        device=torch.device("cpu"),
        **{
            word: config[word]
            for word in ("input_size", "interpolation", "mean", "std", "crop_pct")
        },
    )
    criterion = torch.nn.CrossEntropyLoss()
    losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
    model.eval()
    with torch.inference_mode():
        for images, labels in loader:
            outputs = model(images)
            losses.update(criterion(outputs, labels).item(), len(images))
            first, fifth = accuracy(outputs, labels, topk=(1, 5))
            top1.update(first.item(), len(images))
            top5.update(fifth.item(), len(images))


def _validate_by_us(model: Any, folder: Path) -> None:
    data = open_data(DataSpec(str(folder)), read_preprocessing(model.pretrained_cfg), 1000)
    evaluate(model, data, 1000, EvaluationSettings(batch_size=BATCH))


def run() -> Iterator[Row]:
    model = import_timm().create_model(NETWORK)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _write_photographs(folder)
        ours, peer = in_turn(
            lambda: _validate_by_us(model, folder), lambda: _validate_by_timm(model, folder), 5
        )
    per_image = 1e3 / IMAGES
    # At least 0.9 of the peer's images per second.
    yield Row(
        f"evaluate {NETWORK} : timm's loop", per_image * ours, per_image * peer, "ms/image", 1 / 0.9
    )
