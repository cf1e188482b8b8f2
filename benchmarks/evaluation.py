"""Images per second of ``evaluate`` beside a plain timm validation loop on the same data.

``python benchmarks/evaluation.py DATA`` with DATA holding ``imagenet_sample`` and ``weights``.
Prints JSON: the speed of both in each round, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from safetensors.torch import load_file

from filtersurgeon.checkpoint.vision import import_timm
from filtersurgeon.learn.data import DataSpec, open_data
from filtersurgeon.learn.evaluate import EvaluationSettings, evaluate
from filtersurgeon.learn.preprocess import read_preprocessing

timm = import_timm()


def timm_speed(model: torch.nn.Module, folder: Path, batch_size: int) -> float:
    """Validate as timm's ``validate.py`` does on a CPU."""
    from timm.data import ImageDataset, create_loader, resolve_data_config
    from timm.utils import AverageMeter, accuracy

    config = resolve_data_config({}, model=model)
    loader = create_loader(
        ImageDataset(str(folder)),
        input_size=config["input_size"],
        batch_size=batch_size,
        use_prefetcher=False,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        num_workers=0,
        device=torch.device("cpu"),
    )
    criterion = torch.nn.CrossEntropyLoss()
    losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
    count, start = 0, perf_counter()
    model.eval()
    with torch.inference_mode():
        for images, labels in loader:
            outputs = model(images)
            losses.update(criterion(outputs, labels).item(), len(images))
            first, fifth = accuracy(outputs, labels, topk=(1, 5))
            top1.update(first.item(), len(images))
            top5.update(fifth.item(), len(images))
            count += len(images)
    return count / (perf_counter() - start)


def our_speed(model: torch.nn.Module, folder: Path, batch_size: int) -> float:
    """Validate with this package."""
    data = open_data(DataSpec(str(folder)), read_preprocessing(model.pretrained_cfg), 1000)
    return evaluate(model, data, 1000, EvaluationSettings(batch_size=batch_size)).images_per_second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(load_file(options.data / "weights" / "tf_efficientnet_lite0.safetensors"))
    folder = options.data / "imagenet_sample"
    speeds: dict[str, list[float]] = {"timm": [], "filtersurgeon": []}
    for _ in range(options.rounds):
        speeds["timm"].append(timm_speed(model, folder, options.batch_size))
        speeds["filtersurgeon"].append(our_speed(model, folder, options.batch_size))
    ratio = median(speeds["filtersurgeon"]) / median(speeds["timm"])
    print(json.dumps({"images_per_second": speeds, "ratio": ratio}, indent=2))


if __name__ == "__main__":
    main()
