"""Accuracy kept without training against multiply-accumulates left, for every way to prune.

``python -m benchmarks.frontier --page docs/frontier_table.md`` prunes three networks to four sizes
with this package, with Torch-Pruning and by plain rankings, and writes a table, a JSON file and a
picture after every row. An interrupted run goes on where it stopped, so it can run in the
background; ``--rows 1`` stops after one row. ``--folder`` holds ``weights/``, ``cifar10/`` and
``imagenet_sample/``. Lite0 is measured twice: each half of the images is tested by the network that
the other half calibrates.

``--zoo FOLDER`` takes the small networks that ``benchmarks.frontier_zoo`` trained instead, and adds
ways of this package that differ from its default. A U-Net is judged by the overlap of its masks.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "shared" / "data"
SHARES = (0.7, 0.5, 0.85, 0.3)
CALIBRATION = 500
CIFAR = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "input_size": (3, 32, 32)}


@dataclass(frozen=True)
class Subject:
    """A network, and how to feed it.

    Attributes:
        name: in the table.
        file: its weights, below ``weights/`` or with a full path.
        architecture: as ``--arch`` takes it.
        preprocess: of its images.
        images: to calibrate with and to test on, below the folder or with full paths; not used
            where ``preprocess`` is empty.
        masks: it gives masks, which the test images have, too.
    """

    name: str
    file: str
    architecture: str
    preprocess: dict[str, Any]
    images: tuple[str, str] = ("cifar10/train_10k.npz", "cifar10/test.npz")
    masks: bool = False


SUBJECTS = [
    Subject("ResNet-20", "cifar10_resnet20.safetensors",
            "factory:examples.zoo.networks:cifar_resnet20", CIFAR),
    Subject("ResNet-56", "cifar10_resnet56.safetensors",
            "factory:examples.zoo.networks:cifar_resnet56", CIFAR),
    Subject("Lite0", "tf_efficientnet_lite0.safetensors", "timm:tf_efficientnet_lite0", {}),
]  # fmt: skip


def zoo_subjects(zoo: Path) -> list[Subject]:
    """Give the networks that ``benchmarks.frontier_zoo`` wrote into a folder, and two examples."""
    zoo, examples = zoo.resolve(), Path(__file__).parents[1] / "examples" / "zoo"
    shapes = str(zoo / "shapes_train.npz"), str(zoo / "shapes_test.npz")
    own, given = "factory:benchmarks.frontier_networks:", "factory:examples.zoo.networks:"
    listed = [
        Subject("DenseNet", f"{zoo}/densenet.safetensors", f"{own}densenet", CIFAR),
        Subject("ConvNeXt V2", f"{zoo}/convnext.safetensors", f"{own}convnext", CIFAR),
        Subject("MobileNetV2", f"{zoo}/mobilenet.safetensors", f"{own}mobilenet", CIFAR),
        Subject("ResNet-18", f"{zoo}/resnet18.safetensors", f"{given}resnet18_small_images", CIFAR),
        Subject("U-Net", f"{zoo}/unet.safetensors", f"{own}unet", CIFAR, shapes, masks=True),
        Subject("ConvNeXt", f"{examples}/convnext_cifar10.safetensors",
                f"{given}convnext_small_images", CIFAR),
    ]  # fmt: skip
    return [subject for subject in listed if Path(subject.file).exists()]


@dataclass(frozen=True)
class Row:
    """A cell of the table.

    Attributes:
        subject: the network.
        way: how it was pruned.
        share: of the multiply-accumulates that was asked for.
        macs: the share that was left.
        right: test images that the pruned network is right about; of masks, pixels where a shape
            is and is found.
        images: test images; of masks, pixels where a shape is or is found.
        seconds: CPU time to prune, calibration included.
        failed: why there is no network.
    """

    subject: str
    way: str
    share: float
    macs: float = 0.0
    right: int = 0
    images: int = 0
    seconds: float = 0.0
    failed: str = ""

    @property
    def key(self) -> tuple[str, str, float]:
        return self.subject, self.way, self.share

    @property
    def accuracy(self) -> float:
        return 100 * self.right / max(self.images, 1)


def ways(*, more: bool = True) -> dict[str, Any]:
    """Give every way to prune: name -> function of (checkpoint, share, image run)."""
    from benchmarks import frontier_ways

    return {**frontier_ways.WAYS, **(frontier_ways.MORE_WAYS if more else {})}


def folds(subject: Subject, folder: Path, scratch: Path) -> Iterator[tuple[Any, Any]]:
    """Give the images to calibrate with and to test on; of few images, each half in turn."""
    from filtersurgeon.data.data import DataSpec

    if subject.preprocess:
        yield (
            DataSpec(str(folder / subject.images[0]), subset=CALIBRATION),
            DataSpec(str(folder / subject.images[1])),
        )
        return
    root = folder / "imagenet_sample"
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lists = []
    for half in (0, 1):
        lists.append(scratch / f"half_{half}.csv")
        with lists[-1].open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("file", "label"))
            writer.writerows((path.relative_to(root), int(path.stem)) for path in files[half::2])
    halves = [DataSpec(str(root), labels=str(path)) for path in lists]
    yield halves[0], halves[1]
    yield halves[1], halves[0]


def measure(subject: Subject, way: str, share: float, folder: Path, images: int | None) -> Row:
    """Prune a network one way, and count what it is still right about."""
    import filtersurgeon as fs
    from filtersurgeon.data.data import ImageRun
    from filtersurgeon.learn.measure import count_macs

    row = Row(subject.name, way, share)
    with tempfile.TemporaryDirectory() as scratch:
        for calibration, test in folds(subject, folder, Path(scratch)):
            # Opened anew, for a way may change the network.
            checkpoint = fs.load(folder / "weights" / subject.file, arch=subject.architecture)
            run = ImageRun(calibration, subject.preprocess)
            begun = time.process_time()
            try:
                model = ways()[way](checkpoint, share, run)
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                return replace(row, failed=reason.translate(str.maketrans("|`<>", "    "))[:120])
            seconds = time.process_time() - begun
            right, count = _evaluate(model, checkpoint, subject, replace(test, subset=images))
            size = subject.preprocess.get("input_size", (3, 224, 224))
            macs = count_macs(model, size) / _macs(checkpoint, size)
            row = replace(
                row,
                macs=max(macs, row.macs),
                right=row.right + right,
                images=row.images + count,
                seconds=row.seconds + seconds,
            )
    return row


def _macs(checkpoint: Any, size: tuple[int, ...]) -> int:
    from filtersurgeon.learn.measure import count_macs
    from filtersurgeon.learn.networks import open_network

    return count_macs(open_network(checkpoint).model, size)


def _evaluate(model: Any, checkpoint: Any, subject: Subject, test: Any) -> tuple[int, int]:
    from filtersurgeon.data.data import open_data
    from filtersurgeon.learn.evaluate import EvaluationSettings, evaluate
    from filtersurgeon.learn.networks import open_network

    network = open_network(checkpoint, subject.preprocess)
    images = open_data(test, network.preprocessing, network.n_classes)
    if subject.masks:
        return _overlap(model.eval(), images, Path(test.source))
    settings = EvaluationSettings(batch_size=50)
    found = evaluate(model.eval(), images, network.n_classes, settings)
    return round(found.accuracy * found.n_images), found.n_images


def _overlap(model: Any, images: Any, source: Path) -> tuple[int, int]:
    """Count pixels where a shape is and is found, and those where it is or is found."""
    import numpy as np
    import torch

    from filtersurgeon.data.images import batches, make_loader

    with np.load(source) as file:
        masks = torch.from_numpy(file["masks"])
    if len(images) != len(masks):
        raise SystemExit("--images: masks are tested on all images")
    both = either = seen = 0
    with torch.no_grad():
        for pixels, _ in batches(make_loader(images, 50)):
            found, wanted = model(pixels).argmax(1), masks[seen : seen + len(pixels)]
            seen += len(pixels)
            shared = int(((found == wanted) & (wanted > 0)).sum())
            both += shared
            either += int((found > 0).sum()) + int((wanted > 0).sum()) - shared
    return both, either


def original(subject: Subject, folder: Path, images: int | None) -> tuple[int, int]:
    """Count what the original is right about."""
    import filtersurgeon as fs

    checkpoint = fs.load(folder / "weights" / subject.file, arch=subject.architecture)
    model = fs.build(checkpoint).float()
    counts = []
    with tempfile.TemporaryDirectory() as scratch:
        for _, test in folds(subject, folder, Path(scratch)):
            counts.append(_evaluate(model, checkpoint, subject, replace(test, subset=images)))
    right, count = zip(*counts, strict=True)
    return sum(right), sum(count)


def page(rows: list[Row], subjects: list[Subject]) -> str:
    """Write the table in Markdown: a block per network, the best of each column in bold."""
    from filtersurgeon.doctor import machine

    shares = sorted(SHARES, reverse=True)
    masks = " (of masks: intersection over union)" if any(s.masks for s in subjects) else ""
    lines = [f"Top-1 in percent{masks} without training. Measured on {machine()}.", ""]
    for subject in subjects:
        mine = {(row.way, row.share): row for row in rows if row.subject == subject.name}
        if not mine:
            continue
        whole = mine.get(("original", 1.0))
        title = f"{subject.name}, {whole.accuracy:.2f} %" if whole else subject.name
        count = max(row.images for row in mine.values())
        head = " | ".join(f"{share:.0%} of the MACs" for share in shares)
        measured = "of the shapes" if subject.masks else f"{count:,} images"
        lines += [f"| {title} ({measured}) | {head} | CPU s |", "|---|--:|--:|--:|--:|--:|"]
        best = {
            # What is left larger by more than a fiftieth is no match.
            share: max(
                (r.accuracy for (_, s), r in mine.items() if s == share and r.macs < share + 0.02),
                default=0.0,
            )
            for share in shares
        }
        for way in dict.fromkeys(way for way, _ in mine if way != "original"):
            cells = [_cell(mine.get((way, share)), best[share]) for share in shares]
            took = [r.seconds for (name, _), r in mine.items() if name == way and not r.failed]
            mean = f"{sum(took) / len(took):.0f}" if took else ""
            lines.append(f"| {way} | {' | '.join(cells)} | {mean} |")
        lines.append("")
    failed = [f"- {r.subject}, {r.way}, {r.share:.0%}: {r.failed}" for r in rows if r.failed]
    if failed:
        lines += ["Without a network:", "", *failed, ""]
    return "\n".join(lines)


def _cell(row: Row | None, best: float) -> str:
    if row is None:
        return ""
    if row.failed:
        return "failed"
    text = f"{row.accuracy:.1f}"
    # What misses the size by more than a hundredth says so.
    aside = "" if abs(row.macs - row.share) <= 0.01 else f" ({row.macs:.1%})"
    matches = row.accuracy == best and row.macs < row.share + 0.02
    return (f"**{text}**" if matches else text) + aside


# A way is of the family that its name starts with, the first that fits.
FAMILIES = {
    "ours": ("fsurgeon prune --target", "C0", "-", 2.5),
    "ranking: l2, least squares": ("l2 norm, same share, least squares", "C2", "-", 1.5),
    "ranking": ("other rankings, same share, statistics re-estimated", "C2", "--", 1.5),
    "torch-pruning global": ("Torch-Pruning, global, statistics re-estimated", "C1", "-", 1.5),
    "torch-pruning isomorphic": ("Torch-Pruning, isomorphic, the same", "C1", "--", 1.5),
    "torch-pruning": ("Torch-Pruning, same ratio, the same", "C1", ":", 1.5),
}  # fmt: skip


def draw(rows: list[Row], path: Path, subjects: list[Subject]) -> None:
    """Draw top-1 against the multiply-accumulates left, a panel for every network.

    Of a family of ways the line goes through the best at each size; the others are points.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, len(subjects), squeeze=False)[0]
    for axes, subject in zip(panels, subjects, strict=True):
        mine = [row for row in rows if row.subject == subject.name and not row.failed]
        whole = [(row.macs, row.accuracy) for row in mine if row.way == "original"]
        for name, (label, colour, line, width) in FAMILIES.items():
            family = [row for row in mine if _family(row.way) == name]
            tops = [
                max((row for row in family if row.share == share), key=lambda row: row.accuracy)
                for share in {row.share for row in family}
            ]
            line_points = sorted([(row.macs, row.accuracy) for row in tops] + whole)
            axes.plot(*zip(*line_points, strict=True), line, color=colour, linewidth=width,
                      marker="o", markersize=4, label=label) if tops else None  # fmt: skip
            rest = [(row.macs, row.accuracy) for row in family if row not in tops]
            axes.scatter(*zip(*rest, strict=True), 9, colour, alpha=0.4) if rest else None
        axes.set(xlabel="MACs, share of the original", ylim=(0, 100))
        axes.set_title(f"{subject.name}, {max(row.images for row in mine):,} images", fontsize=11)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("top-1 without training (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=130)


def _family(way: str) -> str | None:
    return next((name for name in FAMILIES if way.startswith(name)), None)


def cells(
    chosen: list[Subject], named: Iterable[str], wanted: list[str], shares: tuple[float, ...]
) -> Iterator[Row]:
    """List the rows of the table, those of the original first, in the order of measurement."""
    for subject in chosen:
        yield Row(subject.name, "original", 1.0)
    for share in shares:
        for subject in chosen:
            for way in named:
                if not wanted or any(word in way for word in wanted):
                    yield Row(subject.name, way, share)


def write(path: Path, text: str) -> None:
    """Write a text in one step, so that a kill leaves the old or the new one."""
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)


def main() -> None:
    """Measure what is missing, one row after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frontier", description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("frontier.json"))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--zoo", type=Path, help="the networks of this folder instead")
    parser.add_argument("--network", action="append", default=[], help="only this one")
    parser.add_argument("--way", action="append", default=[], help="only ways with this word")
    parser.add_argument("--share", type=float, action="append", help="of the MACs, only this one")
    parser.add_argument("--rows", type=int, help="stop after so many")
    parser.add_argument("--images", type=int, help="test on so many, for a trial")
    words = parser.parse_args()
    rows = [Row(**entry) for entry in json.loads(words.json.read_text())] \
        if words.json.exists() else []  # fmt: skip
    known = {row.key for row in rows}
    listed = zoo_subjects(words.zoo) if words.zoo else SUBJECTS
    chosen = [s for s in listed if not words.network or s.name in words.network]
    named = ways(more=words.zoo is not None)
    missing = [
        row
        for row in cells(chosen, named, words.way, tuple(words.share or SHARES))
        if row.key not in known
    ]
    subjects = {subject.name: subject for subject in listed}
    for blank in missing[: words.rows]:
        subject = subjects[blank.subject]
        if blank.way == "original":
            right, count = original(subject, words.folder, words.images)
            row = replace(blank, macs=1.0, right=right, images=count)
        else:
            row = measure(subject, blank.way, blank.share, words.folder, words.images)
        rows.append(row)
        print(asdict(row), flush=True)
        write(words.json, json.dumps([asdict(each) for each in rows], indent=1) + "\n")
        if words.page:
            write(words.page, page(rows, listed))
        if words.picture:
            draw(rows, words.picture, listed)


if __name__ == "__main__":
    main()
