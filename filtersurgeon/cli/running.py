"""Options about images and about how a network runs on them, in bundles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import show
from filtersurgeon.cli.bundles import Bundle, replaced
from filtersurgeon.cli.options import choice, key_values
from filtersurgeon.cli.verbs import COMPUTATION, IMAGES
from filtersurgeon.errors import OptionError, near_misses

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint
    from filtersurgeon.data.data import DataSpec, ImageRun
    from filtersurgeon.learn.evaluate import EvaluationSettings
    from filtersurgeon.learn.jobs import JobSettings


SHOWN = 16
"""Images of ``--data`` that pictures show, unless ``--subset`` says otherwise."""

ImageFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--image", metavar="FILE", help="Image file; may be repeated.", rich_help_panel=IMAGES
    ),
]


def data_option(*names: str, help: str, metavar: str) -> Any:
    """Declare an option about images."""
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=IMAGES)


@dataclass(frozen=True)
class Data(Bundle):
    """Labelled images, read to measure something."""

    data: Annotated[
        str | None,
        data_option(
            "--data", metavar="DATA",
            help="Images: a directory of class directories, a directory with --labels, a directory "
            "of images and masks, or a .npz file. Or the name of a torchvision data set in --root. "
            "Or a generated toy data set: dashes (classes), findings (several labels) or cells "
            "(masks).",
        ),
    ] = None  # fmt: skip
    labels: Annotated[
        str | None,
        data_option(
            "--labels", metavar="FILE",
            help="CSV or JSON file that labels the files of --data, or maps its classes to the "
            "outputs of the network; or directory of masks. Pass indices if the labels are those "
            "outputs.",
        ),
    ] = None  # fmt: skip
    columns: Annotated[
        str | None,
        data_option(
            "--columns", metavar="NAMES",
            help="Class columns of a CSV file in --labels, separated by commas, in the order of "
            "the outputs.  [default: all columns of 0, 1, -1, U or blanks]",
        ),
    ] = None  # fmt: skip
    root: Annotated[
        str | None,
        data_option(
            "--root", metavar="DIR", help="Directory that contains the torchvision data sets."
        ),
    ] = None
    split: Annotated[
        str | None,
        choice(
            "--split", among=("test", "train"), panel=IMAGES,
            help="Split to measure on, if the data set has both.  [default: test]",
        ),
    ] = None  # fmt: skip
    subset: Annotated[
        int | None,
        typer.Option(
            "--subset",
            metavar="N",
            help="Use only N images, drawn with --seed.",
            min=1,
            rich_help_panel=IMAGES,
        ),
    ] = None
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Skip images that cannot be read or used.",
            rich_help_panel=IMAGES,
        ),
    ] = False
    preprocess: Annotated[
        list[str] | None,
        data_option(
            "--preprocess", metavar="NAME=VALUE",
            help="Replace a preprocessing value of the checkpoint: mean, std, input_size, "
            "crop_pct, crop_mode or interpolation, such as mean=0.5,0.5,0.5. May be repeated. "
            "An output stores the value.",
        ),
    ] = None  # fmt: skip

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The values of ``--preprocess``."""
        return preprocess_values(self.preprocess)

    def remembered(self, checkpoint: Checkpoint) -> Checkpoint:
        """State the values of ``--preprocess`` in a checkpoint, so that its output has them."""
        if not self.preprocess:
            return checkpoint
        stated = {**(checkpoint.pretrained_cfg or {}), **self.preprocessing}
        return replace(checkpoint, pretrained_cfg=stated)

    def spec(self, seed: int, at_most: int | None = None) -> DataSpec | None:
        """Say which images; None if none were named.

        Args:
            seed: of the drawing of ``--subset``.
            at_most: images to use where ``--subset`` was not given; None for all.
        """
        if self.data is None:
            return None
        from filtersurgeon.data.data import DataSpec

        return DataSpec(
            self.data, self.split, self.labels, self.root, self.subset or at_most, seed,
            self.skip_bad, tuple(x.strip() for x in (self.columns or "").split(",") if x.strip()),
        )  # fmt: skip

    def needed(self, seed: int) -> DataSpec:
        """Say which images.

        Raises:
            OptionError: none were named.
        """
        spec = self.spec(seed)
        if spec is None:
            raise OptionError("no images: pass them with --data")
        return spec

    def refuse_alone(self, more: dict[str, Any] | None = None, why: str = "needs --data") -> None:
        """Refuse options that do nothing without images.

        Args:
            more: further options and whether they were given.
            why: what is wrong with them.

        Raises:
            OptionError: one was given, and no images.
        """
        said = {
            "--labels": self.labels, "--root": self.root, "--subset": self.subset,
            "--skip-bad": self.skip_bad, "--split": self.split, "--columns": self.columns,
            **(more or {}),
        }  # fmt: skip
        useless = next((option for option, value in said.items() if value), None)
        if useless and self.data is None:
            raise OptionError(f"{useless} {why}")

    def refuse_computation(self, computation: Computation, *used: str) -> None:
        """Refuse options that say how the network runs on images where there are none.

        Args:
            computation: what was said.
            used: options of it that also say something else.

        Raises:
            OptionError: one was given, and no images.
        """
        said = {
            "--preprocess": self.preprocess, "--workers": computation.workers,
            "--device": computation.device != "auto",
        }  # fmt: skip
        self.refuse_alone({k: value for k, value in said.items() if k not in used})

    def run(self, seed: int, computation: Computation, quiet: bool, *used: str) -> ImageRun | None:
        """Say which images, and where the network runs on them; None if none were named.

        Args:
            seed: random seed.
            computation: where the network runs.
            quiet: whether notes are left out.
            used: options of it that also say something else.

        Raises:
            OptionError: something was said of images, but none were named.
        """
        self.refuse_computation(computation, *used)
        spec = self.spec(seed)
        if spec is None:
            return None
        from filtersurgeon.data.data import ImageRun

        return ImageRun(
            spec, self.preprocessing, computation.workers, computation.device, show.teller(quiet)
        )


@dataclass(frozen=True)
class FitData(Data):
    """Labelled images, read to choose weights or filters."""

    split: Annotated[
        str | None,
        choice(
            "--split", among=("test", "train"), panel=IMAGES,
            help="Split to choose weights with, if the data set has both.  [default: train]",
        ),
    ] = None  # fmt: skip


@dataclass(frozen=True)
class Compensation(Bundle):
    """How the rest of the network is adapted to new weights."""

    compensate: Annotated[
        str,
        choice(
            "--compensate", among=("none", "batchnorm", "least-squares"), panel=IMAGES,
            help="Adapt the network to the new weights, on --data, without training. batchnorm: "
            "match the statistics. least-squares: also refit the pointwise and linear "
            "layers that read changed ones.",
        ),
    ] = "none"  # fmt: skip


def device_option(words: str) -> Any:
    """Declare ``--device`` with a help of its own."""
    return typer.Option("--device", metavar="DEVICE", help=words, rich_help_panel=COMPUTATION)


ANALYSIS_DEVICE = replaced(
    device=device_option(
        "Device of the analysis: auto (the CPU), cpu, cuda, cuda:1 or xpu. A GPU analyses layers "
        "of equal size together."
    )
)
"""``--device`` of commands that run no network, and find archetypes."""
DATA_DEVICE = replaced(
    device=device_option(
        "Device that runs the network on --data: auto (a GPU, else the CPU), cpu, cuda, cuda:1, "
        "mps or xpu. The closest kernels are found on the CPU."
    )
)
"""``--device`` of commands that read each kernel once, and run the network on images only."""


@dataclass(frozen=True)
class Computation(Bundle):
    """How and where a network runs."""

    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", metavar="N", help="Images per batch.", min=1,
            rich_help_panel=COMPUTATION,
        ),
    ] = 64  # fmt: skip
    workers: Annotated[
        int,
        typer.Option(
            "--workers", metavar="N", help="Number of processes that load images.", min=0,
            rich_help_panel=COMPUTATION,
        ),
    ] = 0  # fmt: skip
    device: Annotated[
        str,
        device_option(
            "Device to compute on: auto (a GPU, else the CPU), cpu, cuda, cuda:1, mps or xpu."
        ),
    ] = "auto"

    def settings(self, confusion: bool = False) -> EvaluationSettings:
        """Give them as the library takes them."""
        from filtersurgeon.learn.evaluate import EvaluationSettings

        return EvaluationSettings(self.batch_size, self.workers, self.device, confusion)


@dataclass(frozen=True)
class Jobs(Bundle):
    """Evaluations side by side, on this machine or on others."""

    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", metavar="N", help="Number of evaluations that run at a time.", min=1,
            rich_help_panel=COMPUTATION,
        ),
    ] = 1  # fmt: skip
    backend: Annotated[
        str,
        choice(
            "--backend", among=("loky", "dask", "ray"), panel=COMPUTATION,
            help="Where jobs run: processes of this machine (loky), Dask or Ray.",
        ),
    ] = "loky"  # fmt: skip
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="ADDRESS", rich_help_panel=COMPUTATION,
            help="Address of a running Dask scheduler or Ray cluster.  [default: start one]",
        ),
    ] = None  # fmt: skip
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache", metavar="DIR", rich_help_panel=COMPUTATION,
            help="Directory that keeps finished evaluations; the same command resumes from it.",
        ),
    ] = None  # fmt: skip

    def settings(self) -> JobSettings:
        """Give them as the library takes them."""
        from filtersurgeon.learn.jobs import JobSettings

        return JobSettings(self.jobs, self.backend, self.address, self.cache)


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
