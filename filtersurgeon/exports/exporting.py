"""``export``: a network in another program's format, compared with the original."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.atomic import check_target, write_bytes
from filtersurgeon.errors import ArchitectureError, OptionError, near_misses
from filtersurgeon.learn.measure import Difference, output_difference
from filtersurgeon.networks.opened_module import analyses_modules

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SCHEMA = "filtersurgeon.export/1"
SUFFIXES = {".onnx": "onnx", ".pt2": "torch-export"}


@dataclass(frozen=True)
class Export:
    """The exported file, and the difference of its outputs.

    Attributes:
        format: ``onnx`` or ``torch-export``.
        file_bytes: size of the file.
        input_shape: (batch, channels, height, width), or with as many sides as the network reads;
            the batch is None where it may be any.
        difference: of the outputs of the exported network, as its runtime gives them, from the
            original's.
        inputs: names of several inputs, in the order in which a ``.pt2`` file takes them; an ONNX
            file takes them by these names. Empty for one image.
    """

    format: str
    file_bytes: int
    input_shape: tuple[int | None, ...]
    difference: Difference
    inputs: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give the export in its JSON schema, ``filtersurgeon.export/1``."""
        return {
            "schema": SCHEMA,
            "format": self.format,
            "bytes": self.file_bytes,
            "input_shape": list(self.input_shape),
            "inputs": list(self.inputs),
            "difference": self.difference.to_dict(),
        }


@analyses_modules
def export(
    checkpoint: Checkpoint,
    target: str | os.PathLike[str],
    *,
    format: str | None = None,
    opset: int = 0,
    dynamic_batch: bool = False,
    input_size: tuple[int, ...] | None = None,
    random: int = 4,
    seed: int = 0,
    max_diff: float | None = None,
    force: bool = False,
) -> Export:
    """Write a checkpoint's network, in float32, as ONNX or by ``torch.export``.

    What was written is loaded again, by onnxruntime or torch, and run on random images. A network
    that returns other containers than lists, tuples and dicts returns a tuple of its tensors there.
    A network with several inputs takes all their tensors there, one after the other; numbers and
    other values among its inputs are fixed.

    Args:
        checkpoint: the network; or a module in memory, with its ``example_inputs`` by name.
        target: a file that ends in ``.onnx`` or ``.pt2``.
        format: ``onnx`` or ``torch-export``; None goes by the ending.
        opset: version of ONNX's operators; 0 for the exporter's own choice.
        dynamic_batch: take batches of any size; else of one image.
        input_size: (channels, height, width), or with as many sides as the network reads; None
            for its own.
        random: how many images of standard normal numbers to compare on.
        seed: of these.
        max_diff: write nothing if the relative difference of any image's outputs is larger.
        force: replace an existing file.

    Raises:
        ArchitectureError: the network cannot be built, or does not take such images.
        CheckpointError: the file exists, or cannot be written.
        OptionError: an unknown format, an extra that is not installed, or a network that the
            exporter cannot write.
        OutputError: the network returns no tensors, or hides them in an unknown object.

    Examples:
        >>> import filtersurgeon as fs
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> with TemporaryDirectory() as folder:
        ...     done = fs.export(checkpoint, Path(folder, "m.pt2"), random=1)
        >>> done.format, done.input_shape
        ('torch-export', (1, 3, 160, 160))
    """
    import torch

    from filtersurgeon.networks.exporters import SeveralInputs, plain_outputs

    path = Path(target)
    chosen = check_export(path, format, opset, force=force)
    model, size = _network(checkpoint, input_size)
    images = _images(size, random, seed)
    names: Sequence[str] = ()

    def spread(images: Tensor) -> tuple[Tensor, ...]:
        return (images,)

    if _takes_several(model):
        model = SeveralInputs(model).eval()
        names, spread = model.names, model.spread
        if dynamic_batch and not model.batched:
            raise OptionError(
                f"{checkpoint.name} takes several inputs, and `example_inputs` do not say which of "
                "them grow with the batch; leave `dynamic_batch` out"
            )
    batches = [spread(batch) for batch in _batches(images, dynamic_batch)]
    # A batch of one would be taken for a constant.
    example = spread(torch.cat([images[:1]] * (2 if dynamic_batch else 1)))
    writer, batch = _writer(chosen), _batch_symbol(dynamic_batch)
    plain = plain_outputs(model, *example)
    content = writer.write(plain, example, batch, opset, names or ["images"])
    counts = [len(batch) for batch in _batches(images, dynamic_batch)]
    found = _compare(model, batches, counts, lambda: writer.run(content, batches))
    shape = (None if dynamic_batch else 1, *size)
    made = Export(chosen, len(content), shape, found, tuple(names))
    if max_diff is None or found.relative_max <= max_diff:
        write_bytes(path, content)
    return made


def check_export(path: Path, format: str | None, opset: int = 0, *, force: bool = False) -> str:
    """Refuse, before any work, what cannot be written; gives the format.

    Raises:
        CheckpointError: the file exists, or its folder does not.
        OptionError: an unknown format or ending, or two that differ.
    """
    formats = list(SUFFIXES.values())
    if format is not None and format not in formats:
        raise OptionError(f"no export format called {format!r}{near_misses(format, formats)}")
    if path.suffix not in SUFFIXES:
        raise OptionError(f"{path}: exports end in .onnx or .pt2")
    chosen = SUFFIXES[path.suffix]
    if format not in (None, chosen):
        raise OptionError(f"{path} would be {chosen}, which is not `format` {format}")
    if opset and chosen != "onnx":
        raise OptionError("`opset` applies to ONNX only")
    check_target(path, force)
    return chosen


def _writer(format: str) -> ModuleType:
    if format == "onnx":
        from filtersurgeon.networks import onnx_format

        return onnx_format
    from filtersurgeon.exports import torch_format

    return torch_format


def _network(
    checkpoint: Checkpoint, size: tuple[int, ...] | None
) -> tuple[nn.Module, tuple[int, ...]]:
    from filtersurgeon.networks.build import build
    from filtersurgeon.networks.dry_run import check_runs, likely_sizes
    from filtersurgeon.networks.structure.plain_weights import make_all_plain

    model = build(checkpoint).float()
    make_all_plain(model)
    stated = size or (checkpoint.pretrained_cfg or {}).get("input_size")
    if stated is None:
        return model, check_runs(model, likely_sizes(model, checkpoint))
    size = tuple(stated)
    try:
        return model, check_runs(model, [size])
    except ArchitectureError as error:
        raise ArchitectureError(
            f"{checkpoint.name} does not take images of {size}: {error}; check `input_size`"
        ) from None


def _takes_several(model: nn.Module) -> bool:
    """Tell whether a network takes more than one tensor, or a container of tensors."""
    from torch import Tensor
    from torch.utils._pytree import tree_leaves

    from filtersurgeon.networks.in_memory import bound_inputs

    inputs = bound_inputs(model)
    if inputs is None:
        return False
    given = [*inputs.args, *inputs.kwargs.values()]
    tensors = [x for x in tree_leaves(inputs.with_image(inputs.image)) if isinstance(x, Tensor)]
    return len(tensors) > 1 or not any(x is inputs.image for x in given)


def _images(size: tuple[int, ...], count: int, seed: int) -> Tensor:
    import torch

    return torch.randn(count, *size, generator=torch.Generator().manual_seed(seed))


def _batches(images: Tensor, dynamic: bool) -> list[Tensor]:
    """Give the images one by one, or, where batches may have any size, the rest in one."""
    if dynamic and len(images) > 1:
        return [images[:1], images[1:]]
    return list(images.split(1))


def _batch_symbol(dynamic: bool) -> torch.export.Dim | None:
    import torch

    return torch.export.Dim("batch", min=1) if dynamic else None


def _compare(
    model: nn.Module,
    batches: Sequence[Sequence[Tensor]],
    counts: Sequence[int],
    run: Callable[[], list[Any]],
) -> Difference:
    import torch

    found = Difference()
    with torch.no_grad():
        for batch, count, exported in zip(batches, counts, run(), strict=True):
            found += output_difference(model(*batch), exported, count)
    return found
