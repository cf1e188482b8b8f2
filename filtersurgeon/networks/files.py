"""``load`` and ``save``: checkpoints from any source, and to files, folders and pipes.

What goes beyond bytes is here: networks of the hubs by name, the architecture that is recorded, and
``config.json``, which describes a folder's network to timm.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.naming import (
    FACTORY,
    add_prefix,
    is_factory,
    split_arguments,
    with_arguments,
)
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.checkpoint.sinks import (
    check_output,
    is_folder,
    write_file,
    write_folder,
    write_stream,
)
from filtersurgeon.checkpoint.sources import ENTRY, read_source
from filtersurgeon.errors import ArchitectureError, OptionError
from filtersurgeon.networks.architecture import identify, settle_architecture
from filtersurgeon.networks.fitting import fits, name_mismatch, shapes_of
from filtersurgeon.networks.inputs import InputSize, stored_inputs, with_input_size
from filtersurgeon.networks.known_modules import name_known_module
from filtersurgeon.networks.outputs import OUTPUT
from filtersurgeon.networks.prefixes import fit_names
from filtersurgeon.networks.signature import Fingerprint, read_index, stem_channels
from filtersurgeon.networks.skeleton import make
from filtersurgeon.networks.structure import replay
from filtersurgeon.networks.transformers_names import rename_as_transformers

if TYPE_CHECKING:
    from torch import Tensor, nn

_SHOWN_BY_SHAPES = {"global_pool", "in_chans", "num_classes"}
"""Arguments with which a network fits its fingerprint, or whose shapes do not."""


def folder_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Describe the network as timm's ``config.json`` does.

    Args:
        checkpoint: its architecture is stated.
    """
    plain, own = split_arguments(checkpoint.architecture or "")
    known = (e for e in read_index().entries if e.architecture == plain)
    entry = next(known, None)
    cfg = dict(checkpoint.pretrained_cfg or {})
    config: dict[str, Any] = {"architecture": plain.removeprefix("timm:")}
    classes, channels = _classes_and_channels(checkpoint, entry)
    if classes is not None or "num_classes" in cfg:
        # timm drops the classifier's tensors where the two numbers differ.
        config["num_classes"] = cfg["num_classes"] if classes is None else classes
        if classes == 0:
            cfg["num_classes"] = 0
    arguments = _entry_arguments(checkpoint, entry)
    if arguments is not None:
        config |= {"architecture": ENTRY, "model_args": arguments}
    else:
        if channels not in (None, 3):
            own = {**own, "in_chans": channels}
            cfg["first_conv"] = None  # else timm would adapt weights that fit already
        if own:
            config["model_args"] = own
    return {**config, "pretrained_cfg": cfg}


def _entry_arguments(checkpoint: Checkpoint, entry: Fingerprint | None) -> dict[str, Any] | None:
    """Describe a network that timm cannot make by itself, for this package's entry in timm.

    Returns:
        The arguments, or None for a network that timm makes, or that this package's entry does
        not make either.
    """
    architecture, shapes = checkpoint.architecture or "", shapes_of(checkpoint)
    of_timm = architecture.startswith("timm:")
    known = split_arguments(architecture)[1].keys() <= _SHOWN_BY_SHAPES
    fitting = known and entry is not None and entry.fits(shapes)
    if not checkpoint.structure and of_timm and fitting:
        return None
    if of_timm and _classes_and_channels(checkpoint, entry)[0] == 0:
        name, own_arguments = split_arguments(architecture)
        architecture = with_arguments(name, {**own_arguments, "num_classes": 0})
    try:
        if not checkpoint.structure and of_timm and fits(architecture, shapes):
            return None
        base = make(architecture)
        replay(base, checkpoint.structure)
    except ArchitectureError:
        return None
    if is_factory(architecture) or name_mismatch(base, shapes):
        return None
    own = shapes_of(base)
    changed = {name: list(shape) for name, shape in shapes.items() if own[name] != shape}
    # Without the number of filters, theirs does not tell the number of input channels.
    filters = [name.replace(".which", ".filters") for name in changed if name.endswith(".which")]
    changed |= {name: list(shapes[name]) for name in filters if name in shapes}
    structure = [dict(edit) for edit in checkpoint.structure]
    arguments = {"base": architecture, "shapes": changed, "structure": structure}
    return {name: value for name, value in arguments.items() if value}


def _classes_and_channels(
    checkpoint: Checkpoint, entry: Fingerprint | None
) -> tuple[int | None, int | None]:
    """Read the number of classes and of input channels off the tensors, where they are known."""
    if entry is None:
        return None, None
    shapes = shapes_of(checkpoint)
    heads = [shapes[f"{x}.weight"][0] for x in entry.classifier if f"{x}.weight" in shapes]
    stems = [count for x in entry.stem if (count := stem_channels(shapes, x)) is not None]
    if entry.classifier and not any(_belongs(name, entry.classifier) for name in shapes):
        heads = [0]
    return next(iter(heads), None), next(iter(stems), None)


def _belongs(name: str, modules: Iterable[str]) -> bool:
    """Tell whether a tensor is one of these modules'."""
    return name.startswith(tuple(f"{module}." for module in modules))


def load(
    source: str | os.PathLike[str] | nn.Module | Mapping[str, Tensor],
    *,
    arch: str | None = None,
    allow_factory: bool = False,
    allow_pickle: bool = False,
    key: str | None = None,
    prefix: str | None = None,
    input_size: InputSize | None = None,
    output_name: str | None = None,
    module: nn.Module | None = None,
    example_inputs: object = None,
) -> Checkpoint:
    """Open a checkpoint; tensors are read when they are needed.

    Args:
        source: a ``.safetensors``, ``.pt``, ``.pth`` or ``.bin`` file; a folder with
            ``config.json`` and weights, of timm or transformers; ``timm:NAME``,
            ``torchvision:NAME`` or ``hf-hub:NAME``;
            ``-`` for standard input; a module in memory, or the state dict of one.
        arch: the architecture, if the file does not say or says it wrong.
        allow_factory: run the function of yours that the file names as its architecture. Only its
            name is stored; it is imported from the working directory.
        allow_pickle: open archives that hold code, and run it.
        key: the entry of a PyTorch archive that holds the weights, such as ``teacher``.
        prefix: of the names of the tensors to take, such as ``model.``; it is removed. By default
            it is found by comparing names with the architecture.
        input_size: what the network is called with, without the axis of the batch: a size such as
            ``(3, 224, 224)``, or sizes by the names of the arguments, ``{"image": (3, 224, 224),
            "age": "1:float32"}``. A point in a name leads into a dict. It is stored in outputs.
        output_name: the tensor at which measurements look (accuracy, comparison, saliency,
            Grad-CAM), of a network that returns several: a key, a field, or a place such as
            ``heads.0.logits``. It is stored in outputs. Pruning goes by all tensors.
        module: the module that a state dict belongs to.
        example_inputs: what a module in memory is called with: a tensor, a tuple of arguments, a
            dict of arguments by name, or the size of an image, such as ``(3, 32, 32)``.

    Raises:
        OptionError: a state dict without its module, example inputs that the module does not
            take, or an ``input_size`` that cannot be read.
        CheckpointError: the source is missing, corrupt, or not a checkpoint; it holds several
            networks, or no tensors under ``key`` or ``prefix``.
        ArchitectureError: a name that the libraries do not know.

    Examples:
        >>> import numpy as np
        >>> from safetensors.numpy import save_file
        >>> import filtersurgeon as fs
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "m.safetensors")
        ...     save_file({"conv.weight": np.ones((4, 2, 3, 3), np.float32)}, path)
        ...     with fs.load(path) as checkpoint:
        ...         checkpoint["conv.weight"].array().shape
        (4, 2, 3, 3)
    """
    if not isinstance(source, str | os.PathLike):
        if (key, prefix, input_size) != (None, None, None):
            raise OptionError(
                "`key`, `prefix` and `input_size` are for files; leave them out for a module"
            )
        opened = _from_memory(source, module, example_inputs)
        return opened if output_name is None else opened.annotated(OUTPUT, output_name)
    checkpoint = _load(os.fspath(source), allow_pickle, key)
    named = checkpoint.annotations.get(FACTORY)
    if allow_factory and named and not arch:
        arch = f"factory:{named}"
    architecture = add_prefix(arch or checkpoint.architecture)
    stated = checkpoint.architecture
    if stated and architecture == split_arguments(stated)[0]:
        architecture = stated  # the arguments that the file states belong to it
    checkpoint = rename_as_transformers(replace(checkpoint, architecture=architecture))
    if arch:
        checkpoint = _with_factory(checkpoint, arch)
    stored_inputs(checkpoint)  # refuses what is corrupt
    if input_size is not None:
        checkpoint = with_input_size(checkpoint, input_size)
    if output_name is not None:
        checkpoint = checkpoint.annotated(OUTPUT, output_name)
    return fit_names(checkpoint, prefix)


def _with_factory(checkpoint: Checkpoint, arch: str) -> Checkpoint:
    """Name the function that makes the network in the metadata, or no function any more."""
    library, _, name = arch.partition(":")
    kept = {key: text for key, text in checkpoint.annotations.items() if key != FACTORY}
    if library == FACTORY:
        kept[FACTORY] = name
    return replace(checkpoint, annotations=kept)


def _from_memory(source: object, module: nn.Module | None, example_inputs: object) -> Checkpoint:
    from torch import nn

    from filtersurgeon.networks.opened_module import open_module

    if isinstance(source, nn.Module):
        return open_module(source, example_inputs)
    if not isinstance(source, Mapping):
        raise OptionError(
            f"a checkpoint, a module or a file is needed, not an object of type "
            f"{type(source).__name__}"
        )
    if module is None:
        raise OptionError("a state dict is loaded with the `module` that it belongs to")
    return open_module(module, example_inputs, source)


def _load(source: str, allow_pickle: bool, key: str | None) -> Checkpoint:
    scheme, _, name = source.partition(":")
    if scheme in ("timm", "torchvision", "hf-hub"):
        if not name:
            raise OptionError(f"{source} names no network; write {scheme}:NAME")
        if key is not None:
            raise OptionError(f"`key` names an entry of a file, and {source} is none; leave it out")
        from filtersurgeon.networks import hub

        loaders = {
            "timm": hub.load_timm,
            "torchvision": hub.load_torchvision,
            "hf-hub": hub.load_hf_hub,
        }
        return loaders[scheme](name)
    return read_source(source, allow_pickle, key)


def save(
    checkpoint: Checkpoint | nn.Module,
    target: str | os.PathLike[str],
    *,
    force: bool = False,
    keep_names: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a checkpoint atomically.

    Args:
        checkpoint: what to write, or a module; pending changes are computed on the way.
        target: a ``.safetensors`` file, or a folder (one that exists, or a path that ends in
            ``/``), which gets ``config.json``, ``model.safetensors`` and ``recipe.yaml``.
        force: replace files that exist. A folder's other weights, such as shards and their
            index, are removed.
        keep_names: write the names that tensors had in the input, with the prefix that was removed
            from them. Only in a file, as timm reads a folder by the network's own names.
        progress: told how far it is.

    Raises:
        CheckpointError: the target exists, is the input, cannot be written, or does not read
            back as what was written.
        OptionError: ``keep_names`` for a folder; neither a checkpoint nor a module.
        ArchitectureError: a folder states its architecture, which is not known.
        LayerError: a pending change turns out to be impossible.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> with TemporaryDirectory() as folder:
        ...     fs.save(checkpoint, Path(folder, "m.safetensors"))
        ...     with fs.load(Path(folder, "m.safetensors")) as again:
        ...         again.digest == checkpoint.digest
        True
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load(checkpoint)
    path = check_output(target, checkpoint.name, force=force)
    if is_folder(target):
        if keep_names and checkpoint.stored_names:
            raise OptionError(
                "a directory holds the network's own names, by which timm reads it; "
                "write a .safetensors file, or leave out `keep_names`"
            )
        checkpoint.check_unpacked()
        named = identify(name_known_module(checkpoint))
        write_folder(named, Path(target), folder_config(named), progress)
    else:
        write_file(_settle(checkpoint), path, progress, keep_names=keep_names)


def send(
    checkpoint: Checkpoint,
    file: IO[bytes],
    progress: Progress | None = None,
    *,
    keep_names: bool = False,
) -> None:
    """Write a checkpoint in the safetensors format to an open file or pipe."""
    write_stream(_settle(checkpoint), file, progress, keep_names=keep_names)


def _settle(checkpoint: Checkpoint) -> Checkpoint:
    """Record the architecture where the reader of the tensors could not find it."""
    return settle_architecture(name_known_module(checkpoint))
