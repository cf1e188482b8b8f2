from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.gradcam import all_sources
from filtersurgeon.cli.streams import opened
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.see.embedding import Embedding


def embed(
    source: options.Input = "-",
    against: options.Others = None,
    method: Annotated[str, typer.Option("--method", "-m", help="tsne, pca or umap.")] = "tsne",
    perplexity: Annotated[
        float,
        typer.Option("--perplexity", help="Neighbours that tsne and umap look at.", min=2),
    ] = 30.0,
    picture: Annotated[
        str | None, typer.Option("--picture", metavar="FILE", help="Draw it (PNG, SVG, PDF).")
    ] = None,
    page: Annotated[
        str | None,
        typer.Option("--page", metavar="FILE.html", help="Write an interactive page, one file."),
    ] = None,
    data: options.Data = None,
    labels: options.Labels = None,
    root: options.Root = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="SPLIT",
            help="Which images, if there are both: test, train, or both.  [default: test]",
        ),
    ] = None,
    subset: options.Subset = None,
    seed: options.Seed = 0,
    skip_bad: options.SkipBad = False,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = 0,
    device: options.Device = "cpu",
    arch: options.Arch = None,
    factory: options.Factory = None,
    preprocess: options.Preprocess = None,
    as_json: options.Json = None,
    output: options.Results = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Lay out a data set by a network's last features.

    Points are coloured by class; training images are rings. Checkpoints named by --against share
    the picture.
    """
    from filtersurgeon.data.data import DataSpec
    from filtersurgeon.learn.evaluate import EvaluationSettings
    from filtersurgeon.plots.page import check_page_path
    from filtersurgeon.plots.pictures import check_picture_path
    from filtersurgeon.see.clouds import draw_embedding, write_embedding
    from filtersurgeon.see.embedding import both_splits
    from filtersurgeon.see.embedding import embed as embed_checkpoints

    if not data:
        raise OptionError("no images: name them with --data")
    show.check_json_path(output, force)
    check_picture_path(picture, force)
    check_page_path(page, force)
    parts = both_splits(DataSpec(data, None, labels, root, subset, seed, skip_bad), split)
    architecture = options.architecture(arch, factory)
    with ExitStack() as stack:
        checkpoints = [
            stack.enter_context(
                opened(name, arch=architecture, allow_pickle=allow_pickle, quiet=quiet)
            )
            for name in all_sources(source, against)
        ]
        progress = stack.enter_context(show.progress("embedding", quiet))
        found = embed_checkpoints(
            checkpoints, parts, method, EvaluationSettings(batch_size, workers, device),
            seed=seed, perplexity=perplexity, preprocess=options.preprocess_values(preprocess),
            progress=progress, tell=show.teller(quiet),
        )  # fmt: skip
    if picture:
        draw_embedding(found, picture)
    if page:
        write_embedding(found, page)
    show.result(found.to_json(), lambda: _render(found), as_json=as_json, output=output)


def _render(found: Embedding) -> Iterator[Any]:
    columns = [("checkpoint", "left"), ("images", "right"), ("features", "right")]
    columns += [("neighbour of the same class", "right")]
    rows = [
        (c.name.rpartition("/")[2], len(c.points), c.dimensions, f"{100 * c.neighbours:.1f} %")
        for c in found.clouds
    ]
    yield show.table(f"{found.method} of the features before the classifier", columns, rows)
