from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import replaced, verb
from filtersurgeon.cli.running import Computation, Data
from filtersurgeon.cli.verbs import IMAGES, OUTPUT

if TYPE_CHECKING:
    from filtersurgeon.see.embedding import Embedding

_SPLIT = options.choice(
    "--split", among=("test", "train", "both"), panel=IMAGES,
    help="Split to show, if the data set has both.  [default: test]",
)  # fmt: skip


@dataclass(frozen=True)
class EmbeddingOutput(options.DrawnOutput):
    """Where an embedding goes."""

    output: Annotated[
        str | None,
        options.output_option(
            "FILE",
            "Write the result to this .json file, draw it (.png, .svg, .pdf), or write an "
            "interactive page (.html).",
        ),
    ] = None
    page: Annotated[
        str | None,
        typer.Option(
            "--page",
            metavar="FILE.html",
            help="Write an interactive page, besides other outputs.",
            rich_help_panel=OUTPUT,
        ),
    ] = None

    _pages: ClassVar[tuple[str, ...]] = (".html", ".htm")

    def check_drawing(self) -> None:
        """Refuse a picture or pages that cannot be written."""
        from filtersurgeon.plots.page import check_page_path

        super().check_drawing()
        check_page_path(self.page, self.force)


@verb("fsurgeon embed m.safetensors --data photographs --method pca -o embedding.html")
def embed(
    source: options.Input = "-",
    *,
    against: options.Others = None,
    method: Annotated[
        str,
        options.choice(
            "--method", "-m", among=("tsne", "pca", "umap"), help="Projection to two dimensions."
        ),
    ] = "tsne",
    perplexity: Annotated[
        float,
        typer.Option(
            "--perplexity", metavar="K", help="Number of neighbours for tsne and umap.", min=2
        ),
    ] = 30.0,
    seed: options.Seed = 0,
    data: Annotated[Data, replaced(split=_SPLIT)],
    computation: Computation,
    network: options.Network,
    output: EmbeddingOutput,
    general: options.General,
) -> None:  # fmt: skip
    """Plot the embeddings of a data set (t-SNE, UMAP, PCA).

    Embeddings are the features before the classifier. Points are coloured by class; training images
    are rings. Checkpoints of --against share the picture.
    """
    from filtersurgeon.see.embedding import both_splits, draw_embedding, write_embedding
    from filtersurgeon.see.embedding import embed as embed_checkpoints

    spec = replace(data, split=None).needed(seed)
    output.check()
    parts = both_splits(spec, data.split)
    quiet = general.quiet
    with (
        network.all_opened(options.all_sources(source, against), quiet) as checkpoints,
        show.progress("embedding", quiet) as progress,
    ):
        found = embed_checkpoints(
            checkpoints, parts, method, computation.settings(), seed=seed, perplexity=perplexity,
            preprocess=data.preprocessing, progress=progress, tell=show.teller(quiet),
        )  # fmt: skip
    if output.drawn:
        draw_embedding(found, output.drawn)
    for page in filter(None, (output.written, output.page)):
        write_embedding(found, page)
    output.show(found.to_json(), lambda: _render(found))


def _render(found: Embedding) -> Iterator[Any]:
    columns = [("checkpoint", "left"), ("images", "right"), ("features", "right")]
    columns += [("neighbour of the same class", "right")]
    rows = [
        (c.name.rpartition("/")[2], len(c.points), c.dimensions, f"{100 * c.neighbours:.1f} %")
        for c in found.clouds
    ]
    yield show.table(f"{found.method} of the features before the classifier", columns, rows)
