"""Options and arguments that mean the same in every verb, declared once.

What several verbs take together is a bundle: a command names the bundle as one parameter, and asks
it for what the library wants (:mod:`filtersurgeon.cli.bundles`). Bundles about images and
computation are in :mod:`filtersurgeon.cli.running`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from filtersurgeon.cli import show, streams
from filtersurgeon.cli.bundles import Bundle, values
from filtersurgeon.cli.complete import words
from filtersurgeon.cli.verbs import COMPUTATION, GENERAL, INPUT, OUTPUT
from filtersurgeon.errors import OptionError
from filtersurgeon.registry import read_share

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint


def choice(*names: str, among: Iterable[str], help: str, panel: str | None = None) -> Any:
    """Declare an option whose values are a closed set, which help shows in brackets.

    The library refuses other values, so that Python and the command line say the same.
    """
    known = tuple(among)
    return typer.Option(
        *names, metavar=f"[{'|'.join(known)}]", help=help, autocompletion=words(known),
        rich_help_panel=panel,
    )  # fmt: skip


def share(text: Any) -> float:
    """Read ``0.3`` or ``30%``, the value of an option; the library checks the bounds."""
    try:
        return read_share(text)
    except ValueError:
        raise typer.BadParameter(f"{text} should be a share such as 0.3 or 30%") from None


def fraction(text: Any) -> float:
    """Read a share from 0 to 1, the value of an option."""
    value = share(text)
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"{text} should be from 0 to 1, or 0% to 100%")
    return value


def accuracy(text: Any) -> float:
    """Read an accuracy: a share, or a number above 1 that can only be a percentage."""
    value = share(text)
    return fraction(value / 100 if value > 1 and "%" not in str(text) else value)


def points(text: Any) -> float:
    """Read a difference of two accuracies in percent, the value of an option."""
    value, percent = share(text), "%" in str(text)
    if 0 < abs(value) <= 1 and not percent:
        raise typer.BadParameter(f"{text} is ambiguous; write {value:g}% or {100 * value:g}%")
    value = 100 * value if percent else value
    if not -100 <= value <= 100:
        raise typer.BadParameter(f"{text} should be from -100% to 100%")
    return value


def picture(help: str, metavar: str = "FILE") -> Any:
    """Declare ``--picture``."""
    return typer.Option("--picture", metavar=metavar, help=help, rich_help_panel=OUTPUT)


def against(help: str) -> Any:
    """Declare ``--against``, the second network of a command."""
    return typer.Option("--against", metavar="INPUT", help=help, rich_help_panel=INPUT)


def output_option(metavar: str, help: str) -> Any:
    """Declare ``--output``."""
    return typer.Option(
        "-o", "--output", metavar=metavar, help=help, show_default=False, rich_help_panel=OUTPUT
    )


def _remember_debug(wanted: bool) -> None:
    if wanted:
        os.environ["FSURGEON_DEBUG"] = "1"


Input = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        show_default=False,
        help="Checkpoint: a file, a directory, timm:NAME, torchvision:NAME, hf-hub:NAME, or - for "
        "standard input.  [default: -]",
    ),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        metavar="GLOB",
        help="Select layers by name; may be repeated. !GLOB excludes layers.",
    ),
]
SeenLayers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        metavar="GLOB",
        help="Select modules by name; may be repeated. * matches convolutions and linear layers "
        "only; !GLOB excludes modules.",
    ),
]
Units = Annotated[
    str | None,
    typer.Option(
        "--units",
        metavar="LIST",
        help="Channels or classes, such as 0,3,8-11, or all.  [default: the first 64]",
    ),
]
Others = Annotated[
    list[str] | None,
    typer.Option(
        "--against",
        metavar="INPUT",
        help="Another checkpoint, shown beside the first; may be repeated.",
        rich_help_panel=INPUT,
    ),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option("-p", metavar="NAME=VALUE", help="Parameter of the method; may be repeated."),
]
Archetypes = Annotated[
    list[str] | None,
    typer.Option(
        "--archetypes",
        metavar="N",
        help="Archetypes of a layer: a number such as 16, a share of its filters such as 25%, or "
        "elbow, where the error turns. GLOB=N sets it for some layers. May be repeated.  "
        "[default: 0.25]",
    ),
]
Draw = Annotated[
    str,
    choice(
        "--draw", among=("uniform", "dirichlet"),
        help="Distribution of the mixing coefficients: uniform on the simplex, or Dirichlet.",
    ),
]  # fmt: skip
Concentration = Annotated[
    float | None,
    typer.Option(
        "--concentration",
        metavar="A",
        help="Concentration for --draw dirichlet. 1 is uniform; lower values mix fewer archetypes."
        "  [default: one over the number of archetypes]",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Random seed.", min=0)]
LatencyRuns = Annotated[
    int,
    typer.Option("--latency-runs", metavar="N", help="Number of timed passes; 0 for none.", min=0),
]
Runtime = Annotated[
    str,
    choice(
        "--runtime",
        among=("torch", "onnxruntime"),
        help="What latency is measured in: torch, or onnxruntime, to which networks are exported.",
    ),
]
Untrained = Annotated[
    bool,
    typer.Option(
        "--untrained",
        help="Start from the architecture's own random initialisation. INPUT is timm:NAME or "
        "torchvision:NAME, or pass --factory.",
        rich_help_panel=INPUT,
    ),
]


@dataclass(frozen=True)
class ArchetypeSearch(Bundle):
    """How archetypes are searched for."""

    n_init: Annotated[
        int | None,
        typer.Option(
            "--n-init",
            metavar="N",
            help="Number of starts of the archetypal analysis, of which the best is kept.  "
            "[default: by the width of the layer]",
            min=1,
            rich_help_panel=COMPUTATION,
        ),
    ] = None
    tol: Annotated[
        float,
        typer.Option(
            "--tol",
            metavar="T",
            help="Relative improvement of the objective at which the analysis stops.",
            rich_help_panel=COMPUTATION,
        ),
    ] = 1e-5
    max_iter: Annotated[
        int,
        typer.Option(
            "--max-iter",
            metavar="N",
            help="Maximum number of sweeps of a start.",
            min=1,
            rich_help_panel=COMPUTATION,
        ),
    ] = 300


@dataclass(frozen=True)
class General(Bundle):
    """What a command tells while it runs."""

    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Print no progress, notes or summaries.", rich_help_panel=GENERAL
        ),
    ] = False
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            help="Show the traceback of an error.",
            callback=_remember_debug,
            is_eager=True,
            rich_help_panel=GENERAL,
        ),
    ] = False


@dataclass(frozen=True)
class Network(Bundle):
    """The architecture of the input, and whether code in files may run."""

    arch: Annotated[
        str | None,
        typer.Option(
            "--arch",
            metavar="NAME",
            help="Architecture, such as timm:resnet50 or 'timm:resnet50(output_stride=8)'.",
            rich_help_panel=INPUT,
        ),
    ] = None
    factory: Annotated[
        str | None,
        typer.Option(
            "--factory",
            metavar="MODULE:FUNCTION",
            help="Python function that builds the network, importable from the working directory.",
            rich_help_panel=INPUT,
        ),
    ] = None
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Open archives that contain code, and run it. Use it for trusted files only.",
            rich_help_panel=INPUT,
        ),
    ] = False
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="NAME",
            help="Entry of a PyTorch archive that holds the weights.",
            rich_help_panel=INPUT,
        ),
    ] = None
    prefix: Annotated[
        str | None,
        typer.Option(
            "--prefix",
            metavar="TEXT",
            help="Take the tensors whose names begin with TEXT, and remove it.",
            rich_help_panel=INPUT,
        ),
    ] = None
    allow_factory: Annotated[
        bool,
        typer.Option(
            "--allow-factory",
            help="Run the function that the checkpoint names as its --factory. Use it for trusted "
            "files only.",
            rich_help_panel=INPUT,
        ),
    ] = False
    input_size: Annotated[
        list[str] | None,
        typer.Option(
            "--input-size",
            metavar="[NAME=]C,H,W[:TYPE]",
            help="Input size of the network, stored in the output. May be repeated for several "
            "inputs, such as image=3,224,224 and age=1:float32.",
            rich_help_panel=INPUT,
        ),
    ] = None

    output_name: Annotated[
        str | None,
        typer.Option(
            "--output-name",
            metavar="NAME",
            help="Output at which measurements look, of a network that returns several, such as "
            "logits or heads.0. Stored in the output.",
            rich_help_panel=INPUT,
        ),
    ] = None

    @property
    def architecture(self) -> str | None:
        """The architecture by one name, if one was given; raises OptionError for two."""
        return architecture(self.arch, self.factory)

    def opened(self, source: str, quiet: bool) -> AbstractContextManager[Checkpoint]:
        """Open an input; see :func:`filtersurgeon.cli.streams.opened`."""
        return streams.opened(
            source, arch=self.architecture, allow_factory=self.allow_factory,
            allow_pickle=self.allow_pickle, key=self.key, prefix=self.prefix,
            input_size=self.input_size or None, output_name=self.output_name, quiet=quiet,
        )  # fmt: skip

    @contextmanager
    def all_opened(self, sources: Iterable[str], quiet: bool) -> Iterator[list[Checkpoint]]:
        """Open several inputs, all of this architecture."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.opened(source, quiet)) for source in sources]

    def begun(
        self, source: str, untrained: bool, seed: int, quiet: bool
    ) -> AbstractContextManager[Checkpoint]:
        """Open an input, or initialise it; see :func:`filtersurgeon.cli.streams.begun`."""
        if not untrained:
            return self.opened(source, quiet)
        if self.key or self.prefix:
            raise OptionError("--untrained reads no file; leave out --key and --prefix")
        if self.input_size or self.output_name:
            raise OptionError("--untrained takes no --input-size and no --output-name")
        return streams.begun(source, untrained, self.architecture, seed, self.allow_pickle, quiet)


@dataclass(frozen=True)
class OtherNetwork(Bundle):
    """The architecture of a second input."""

    arch_against: Annotated[
        str | None,
        typer.Option(
            "--arch-against",
            metavar="NAME",
            help="Architecture of the network of --against, if it differs.",
            rich_help_panel=INPUT,
        ),
    ] = None
    factory_against: Annotated[
        str | None,
        typer.Option(
            "--factory-against",
            metavar="MODULE:FUNCTION",
            help="Python function that builds the network of --against, if it differs.",
            rich_help_panel=INPUT,
        ),
    ] = None

    def beside(self, first: Network) -> Network:
        """Give how to open the second input: as the first, where nothing else was said."""
        own = architecture(self.arch_against, self.factory_against, "-against")
        return replace(first, arch=own or first.architecture, factory=None)


AsJson = Annotated[
    bool | None,
    typer.Option(
        "--json/--table",
        show_default=False,
        help="Print JSON or a table.  [default: a table on a terminal, else JSON]",
        rich_help_panel=OUTPUT,
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Overwrite an existing output.", rich_help_panel=OUTPUT),
]


KeepNames = Annotated[
    bool,
    typer.Option(
        "--keep-names",
        help="Write the tensors under the names of the input, with the prefix that was removed.",
        rich_help_panel=OUTPUT,
    ),
]


@dataclass(frozen=True)
class CheckpointOutput(Bundle):
    """Where a changed checkpoint goes."""

    output: Annotated[
        str | None,
        output_option(
            "PATH",
            "Write to a .safetensors file, or to a directory (ends in /).  [default: standard "
            "output, if it is a pipe]",
        ),
    ] = None
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show what would change; write nothing.", rich_help_panel=OUTPUT
        ),
    ] = False
    as_json: AsJson = None
    force: Force = False
    keep_names: KeepNames = False

    def check(self, source: str) -> None:
        """Refuse, before any work, an output that cannot or must not be written."""
        if not self.dry_run:
            streams.check_destination(self.output, source, self.force)

    def deliver(self, checkpoint: Checkpoint, quiet: bool) -> None:
        """Write a checkpoint to its file or directory, or into the pipe."""
        streams.deliver(
            checkpoint, self.output, force=self.force, quiet=quiet, keep_names=self.keep_names
        )

    def show(self, content: dict[str, Any], render: Callable[[], Iterable[Any]]) -> None:
        """Show what ``--dry-run`` found."""
        show.result(content, render, as_json=self.as_json)


@dataclass(frozen=True)
class ResultOutput(Bundle):
    """Where the result of an analysis goes."""

    as_json: AsJson = None
    output: Annotated[
        str | None,
        output_option("FILE.json", "Write the result to this file, as JSON."),
    ] = None
    force: Force = False

    def check(self) -> None:
        """Refuse, before any work, a file that cannot be written."""
        show.check_json_path(self.output, self.force)

    def show(self, content: dict[str, Any], render: Callable[[], Iterable[Any]]) -> None:
        """Print the result, or write it to its file."""
        show.result(content, render, as_json=self.as_json, output=self.output)


@dataclass(frozen=True)
class DrawnOutput(ResultOutput):
    """Where the result of an analysis goes that can also be drawn."""

    output: Annotated[
        str | None,
        output_option(
            "FILE", "Write the result to this .json file, or draw it (.png, .svg, .pdf)."
        ),
    ] = None
    picture: Annotated[
        str | None, picture("Draw the result (PNG, SVG, PDF), besides other outputs.")
    ] = None

    _pictures: ClassVar[tuple[str, ...]] = (".png", ".svg", ".pdf")
    _pages: ClassVar[tuple[str, ...]] = ()

    @property
    def drawn(self) -> str | None:
        """The picture to draw, if one was asked for, by ``--picture`` or the ending of ``-o``."""
        return self.picture or self._of(*self._pictures)

    @property
    def written(self) -> str | None:
        """The page to write, if the ending of ``-o`` asks for one."""
        return self._of(*self._pages)

    def _of(self, *endings: str) -> str | None:
        ends = self.output is not None and os.path.splitext(self.output)[1] in endings
        return self.output if ends else None

    def check(self) -> None:
        """Refuse, before any work, files that cannot be written, and two pictures."""
        if self.output is not None and self.written is None:
            if self._of(*self._pictures) is None:
                show.check_json_path(self.output, self.force, (*self._pictures, *self._pages))
            elif self.picture is not None:
                raise OptionError("-o names a picture; leave out `picture`, or end -o in .json")
        self.check_drawing()

    def check_drawing(self) -> None:
        """Refuse a picture or page that cannot be written."""
        if self.drawn is None and self.written is None:
            return
        from filtersurgeon.plots.page import check_page_path
        from filtersurgeon.plots.pictures import check_picture_path

        check_picture_path(self.drawn, self.force)
        check_page_path(self.written, self.force)

    def show(self, content: dict[str, Any], render: Callable[[], Iterable[Any]]) -> None:
        """Print the result, or write it to its file; beside a drawing, only on a terminal."""
        if self._of(*self._pictures, *self._pages) is None:
            super().show(content, render)
        elif self.as_json is not None or show.stdout().isatty():
            show.result(content, render, as_json=self.as_json)


@dataclass(frozen=True)
class SheetOutput(DrawnOutput):
    """Where the result of an analysis goes that can also be drawn as a contact sheet."""

    output: Annotated[
        str | None,
        output_option("FILE", "Write the result to this .json file, or draw it (.png)."),
    ] = None
    picture: Annotated[
        str | None, picture("Draw a contact sheet, besides other outputs.", "FILE.png")
    ] = None

    _pictures: ClassVar[tuple[str, ...]] = (".png",)

    def check_drawing(self) -> None:
        """Refuse a contact sheet that cannot be written."""
        if self.drawn is None:
            return
        from filtersurgeon.plots.sheet import check_sheet_path

        check_sheet_path(self.drawn, self.force)


@dataclass(frozen=True)
class PageOutput(Bundle):
    """Where an HTML page goes."""

    output: Annotated[str | None, output_option("FILE.html", "Write the page to this file.")] = None
    force: Force = False


def all_sources(source: str, against: list[str] | None) -> list[str]:
    """List the first checkpoint and those beside it.

    Raises:
        OptionError: more than one is to come through the pipe.
    """
    names = [source, *(against or [])]
    if names.count("-") > 1:
        raise OptionError(
            "only one checkpoint can be read from the pipe; pass files for the others"
        )
    return names


def architecture(arch: str | None, factory: str | None, suffix: str = "") -> str | None:
    """Join ``--arch`` and ``--factory``, whose names end in ``suffix``.

    Raises:
        OptionError: both were given.
    """
    if arch and factory:
        raise OptionError(f"pass --arch{suffix} or --factory{suffix}, not both")
    return f"factory:{factory}" if factory else arch


def archetype_counts(words: list[str] | None) -> Any:
    """Read ``--archetypes``, the default if there is none."""
    from filtersurgeon.ranking.archetype_counts import SHARE, read_counts

    return read_counts(words) if words else SHARE


def keywords(bundle: Bundle) -> dict[str, Any]:
    """Give what was said, by field, as the library takes it: ``-p`` words are its ``options``."""
    given = values(bundle)
    if "parameters" in given:
        given["options"] = key_values(given.pop("parameters"))
    if "ratios" in given:
        given["ratios"] = key_values(given["ratios"], "--ratio")
    return given


def key_values(words: Iterable[str] | None, option: str = "-p") -> dict[str, Any]:
    """Split ``name=value`` words, which were given with this option.

    Raises:
        OptionError: a word without ``=``.
    """
    pairs = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals and option == "--ratio":
            raise OptionError(
                f"--ratio {word} should read --ratio GLOB=SHARE; for one share of all layers pass "
                f"--per-layer --sparsity {word}"
            )
        if not equals:
            raise OptionError(f"{option} {word} should read {option} name=value")
        pairs[name] = value
    return pairs
