"""Options and arguments that mean the same in every verb, declared once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.errors import OptionError, near_misses

if TYPE_CHECKING:
    from filtersurgeon.data.image_run import ImageRun


def _remember_debug(wanted: bool) -> None:
    if wanted:
        os.environ["FSURGEON_DEBUG"] = "1"


Input = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        show_default=False,
        help="A file, a folder, timm:NAME, torchvision:NAME, hf-hub:NAME, or - (standard input, "
        "also when left out).",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="PATH",
        help="Write here: a .safetensors file, or a folder (ends in /). Without it the checkpoint "
        "goes to a pipe.",
    ),
]
Results = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="FILE.json", help="Write the result here, as JSON."),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        metavar="GLOB",
        help="Only these layers; may be repeated; !GLOB leaves layers out.",
    ),
]
SeenLayers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        metavar="GLOB",
        help="These layers, by their names in the network; a name may be any layer's, * stands "
        "for convolutions and linear layers; may be repeated; !GLOB leaves layers out.",
    ),
]
Units = Annotated[
    str | None,
    typer.Option(
        "--units",
        metavar="LIST",
        help="Channels, or classes, such as 0,3,8-11, or all.  [default: the first 64]",
    ),
]
Sheet = Annotated[
    str | None, typer.Option("--picture", metavar="FILE.png", help="Draw a contact sheet.")
]
Others = Annotated[
    list[str] | None,
    typer.Option(
        "--against",
        metavar="INPUT",
        help="Another checkpoint, shown beside the first; may be repeated.",
    ),
]
Images = Annotated[
    list[str] | None,
    typer.Option("--image", metavar="FILE", help="An image; may be repeated."),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option("-p", metavar="NAME=VALUE", help="A parameter of the method; may be repeated."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done; write nothing.")]
Json = Annotated[
    bool | None,
    typer.Option(
        "--json/--table",
        show_default=False,
        help="Print JSON, or a table. By default a table on a terminal, JSON into a pipe.",
    ),
]
Archetypes = Annotated[
    float,
    typer.Option("--archetypes", metavar="SHARE", help="Archetypes per filter, above 0 to 1."),
]
Draw = Annotated[
    str,
    typer.Option("--draw", help="How to mix archetypes: uniform on the simplex, or dirichlet."),
]
Concentration = Annotated[
    float | None,
    typer.Option(
        "--concentration",
        metavar="A",
        help="Of --draw dirichlet: 1 is uniform, less mixes fewer.  [default: one over the number "
        "of archetypes]",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of whatever is drawn.", min=0)]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="NAME",
        help="Architecture, such as timm:resnet50 or 'timm:resnet50(output_stride=8)'.",
    ),
]
Untrained = Annotated[
    bool,
    typer.Option(
        "--untrained",
        help="Begin without weights, as the architecture INPUT (timm:NAME, torchvision:NAME, "
        "or --factory) initialises itself.",
    ),
]
Factory = Annotated[
    str | None,
    typer.Option(
        "--factory",
        metavar="MODULE:FUNCTION",
        help="A function of yours that makes the network, importable from the current folder.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="A folder of class folders, a folder with --labels, a .npz file, the name of a "
        "torchvision dataset under --root, or dashes (a toy that is made).",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="CSV or JSON that labels the files of --data, or maps its classes to the network's "
        "outputs; the word indices if its labels are those outputs.",
    ),
]
Root = Annotated[
    str | None, typer.Option("--root", metavar="DIR", help="Where torchvision datasets lie.")
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="SPLIT",
        help="Which images to measure with, if there are both: test or train.  [default: test]",
    ),
]
FitSplit = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="SPLIT",
        help="Which images to choose weights with, if there are both: test or train.  "
        "[default: train]",
    ),
]
Subset = Annotated[
    int | None,
    typer.Option("--subset", metavar="N", help="Only N images, drawn by --seed.", min=1),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out images that cannot be read or used.")
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", metavar="N", help="Images per batch.", min=1)
]
Workers = Annotated[
    int, typer.Option("--workers", metavar="N", help="Processes that read images ahead.", min=0)
]
Device = Annotated[str, typer.Option("--device", help="Such as cpu or cuda.")]
Preprocess = Annotated[
    list[str] | None,
    typer.Option(
        "--preprocess",
        metavar="NAME=VALUE",
        help="Instead of the checkpoint's own: mean, std, input_size, crop_pct, crop_mode, "
        "interpolation; such as mean=0.5,0.5,0.5. May be repeated.",
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle", help="Open archives that hold code and run it. Only if you trust them."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, notes or summaries.")]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug", help="Show the traceback of an error.", callback=_remember_debug, is_eager=True
    ),
]


def architecture(arch: str | None, factory: str | None, suffix: str = "") -> str | None:
    """Join ``--arch`` and ``--factory``, whose names end in ``suffix``.

    Raises:
        OptionError: both were given.
    """
    if arch and factory:
        raise OptionError(f"give --arch{suffix} or --factory{suffix}, not both")
    return f"factory:{factory}" if factory else arch


def image_run(
    *,
    data: str | None,
    labels: str | None,
    root: str | None,
    split: str | None,
    subset: int | None,
    seed: int,
    skip_bad: bool,
    preprocess: Iterable[str] | None,
    workers: int,
    device: str,
    quiet: bool,
) -> ImageRun | None:
    """Join what was said about images and where to run; None if no images were named.

    Raises:
        OptionError: something was said of images, but none were named.
    """
    if data is None:
        said = {
            "--labels": labels, "--root": root, "--subset": subset, "--skip-bad": skip_bad,
            "--preprocess": preprocess, "--workers": workers, "--split": split,
            "--device": device != "cpu",
        }  # fmt: skip
        useless = next((option for option, value in said.items() if value), None)
        if useless:
            raise OptionError(f"{useless} goes with --data, and no images are named")
        return None
    from filtersurgeon.cli import show
    from filtersurgeon.data.data import DataSpec
    from filtersurgeon.data.image_run import ImageRun

    spec = DataSpec(data, split, labels, root, subset, seed, skip_bad)
    values = preprocess_values(preprocess)
    return ImageRun(spec, values, workers, device, show.teller(quiet))


def preprocess_values(words: Iterable[str] | None) -> dict[str, Any]:
    """Read ``--preprocess`` words: numbers, lists of numbers, or names.

    Raises:
        OptionError: a word without ``=``, or an unknown name.
    """
    known = ("mean", "std", "input_size", "crop_pct", "crop_mode", "interpolation")
    values: dict[str, Any] = {}
    for name, text in key_values(words, "--preprocess").items():
        if name not in known:
            raise OptionError(f"--preprocess has no {name!r}{near_misses(name, known)}")
        if name in ("crop_mode", "interpolation"):
            values[name] = text
            continue
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            raise OptionError(f"--preprocess {name}={text} should be numbers") from None
        if name == "crop_pct" and len(numbers) > 1:
            raise OptionError(f"--preprocess crop_pct={text} should be one number")
        sizes = [int(number) for number in numbers] if name == "input_size" else numbers
        values[name] = sizes[0] if name == "crop_pct" else sizes
    return values


def key_values(words: Iterable[str] | None, option: str = "-p") -> dict[str, Any]:
    """Split ``name=value`` words, which were given with this option.

    Raises:
        OptionError: a word without ``=``.
    """
    pairs = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals:
            raise OptionError(f"{option} {word} should read {option} name=value")
        pairs[name] = value
    return pairs
