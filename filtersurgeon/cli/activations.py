from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from filtersurgeon.cli import options, show
from filtersurgeon.cli.gradcam import all_sources, data_spec
from filtersurgeon.cli.streams import opened

if TYPE_CHECKING:
    from filtersurgeon.see.activations import Activations


def activations(
    source: options.Input = "-",
    against: options.Others = None,
    images: options.Images = None,
    layers: options.SeenLayers = None,
    units: options.Units = None,
    picture: options.Sheet = None,
    data: options.Data = None,
    labels: options.Labels = None,
    root: options.Root = None,
    split: options.Split = None,
    subset: options.Subset = None,
    seed: options.Seed = 0,
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
    """Show the feature maps of layers for an image.

    White is high, black zero, blue negative; with --against, a channel has one scale in all
    checkpoints. Without --units, the first 24 channels; of --data, 16 images unless --subset says
    otherwise.
    """
    from filtersurgeon.plots.sheet import check_sheet_path, write_sheet
    from filtersurgeon.see.activations import activations as activations_of

    show.check_json_path(output, force)
    check_sheet_path(picture, force)
    architecture = options.architecture(arch, factory)
    values = options.preprocess_values(preprocess)
    spec = data_spec(data, labels, root, split, subset, seed)
    with ExitStack() as stack:
        checkpoints = [
            stack.enter_context(
                opened(name, arch=architecture, allow_pickle=allow_pickle, quiet=quiet)
            )
            for name in all_sources(source, against)
        ]
        found = activations_of(
            checkpoints, images or [], data=spec, layers=layers, units=units, device=device,
            preprocess=values, tell=show.teller(quiet),
        )  # fmt: skip
    if picture:
        write_sheet(found.rows(), picture)
    show.result(found.to_json(), lambda: _render(found), as_json=as_json, output=output)


def _render(found: Activations) -> Iterator[Any]:
    from filtersurgeon.see.gradcam import short_name

    columns = [("layer", "left"), ("checkpoint", "left"), ("channels", "right"), ("map", "right")]
    columns += [("mean", "right"), ("active", "right"), ("difference", "right")]
    rows = []
    for layer in found.to_json()["layers"]:
        for one in layer["checkpoints"]:
            means, active = (
                sum(map(sum, one[key])) / sum(map(len, one[key])) for key in ("mean", "active")
            )
            apart = one["relative_difference"]
            rows.append(
                (layer["layer"], short_name(one["name"]), len(one["units"]),
                 "x".join(map(str, one["size"])), means, f"{100 * active:.0f} %",
                 "" if apart is None else f"{apart:.3f}")
            )  # fmt: skip
    yield show.table("activations", columns, rows)
