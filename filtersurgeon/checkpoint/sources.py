"""Reading checkpoints from files, streams and folders.

A folder has the layout that timm and the Hugging Face hub share: ``config.json`` and the weights.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from filtersurgeon.checkpoint.bytesource import ByteSource, open_path, open_stream
from filtersurgeon.checkpoint.checkpoint import Checkpoint, check_count
from filtersurgeon.checkpoint.documents import parse_json
from filtersurgeon.checkpoint.naming import add_prefix, is_factory, with_arguments
from filtersurgeon.checkpoint.pickled import PREFIX_BYTES, looks_pickled, read_pickled
from filtersurgeon.checkpoint.safetensors import MAX_HEADER, read_safetensors
from filtersurgeon.checkpoint.transformers_config import (
    PREPROCESSING,
    is_transformers_config,
    transformers_architecture,
    transformers_preprocessing,
)
from filtersurgeon.checkpoint.wrapped_names import unwrapped_names
from filtersurgeon.errors import CheckpointError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ENTRY = "filtersurgeon"
"""The architecture in ``config.json`` of a network that only this package's entry in timm makes."""

OLDER_WEIGHTS = ("pytorch_model.bin", "model.pth", "model.pt")
OLDER_INDEX = "pytorch_model.bin.index.json"
_INDEX_OF = {WEIGHTS: INDEX, OLDER_WEIGHTS[0]: OLDER_INDEX}
_SHARDS = (".safetensors", ".bin")
_INDEX = ".index.json"


def read_any(path: Path, allow_pickle: bool = False, key: str | None = None) -> Checkpoint:
    """Read one file, whatever its ending says, by its first bytes.

    The index of several files, ``*.index.json``, is read with them.

    Raises:
        CheckpointError: it is neither safetensors nor a PyTorch archive, or has no entry ``key``.
    """
    if path.name.endswith(_INDEX) and path.is_file():
        return _read_shards(path, allow_pickle, key)
    return read_stream(open_path(path), allow_pickle, key)


def read_folder(folder: Path, allow_pickle: bool = False, key: str | None = None) -> Checkpoint:
    """Read a folder with weights and, if present, the ``config.json`` of timm or transformers.

    Raises:
        CheckpointError: there are no weights, several candidates, or a corrupt ``config.json``.
    """
    try:
        return _read_folder(folder, allow_pickle, key)
    except OSError as error:  # such as a link whose target has a name too long
        raise CheckpointError(f"cannot read {folder}: {error.strerror}") from None


def _read_folder(folder: Path, allow_pickle: bool, key: str | None) -> Checkpoint:
    weights = weights_of(folder)
    if weights.name in (INDEX, OLDER_INDEX):
        checkpoint = _read_shards(weights, allow_pickle, key)
    else:
        _check_regular(weights)
        checkpoint = read_any(weights, allow_pickle, key)
    config = _read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if is_transformers_config(config) and not checkpoint.history:
        return _of_transformers(checkpoint, config, folder)
    architecture, structure = _describe_network(config, folder / CONFIG)
    if not isinstance(config.get("pretrained_cfg"), dict | None):
        raise CheckpointError(f"{folder / CONFIG}: pretrained_cfg must be an object")
    if checkpoint.history:
        # This package's weights describe themselves, and the config.json beside them may be an
        # older one for a moment, while a folder is written anew.
        return replace(checkpoint, name=str(folder))
    return replace(
        checkpoint,
        name=str(folder),
        architecture=checkpoint.architecture or architecture,
        structure=checkpoint.structure or structure,
        pretrained_cfg=checkpoint.pretrained_cfg or pretrained_cfg(config),
    )


def _of_transformers(checkpoint: Checkpoint, config: dict[str, Any], folder: Path) -> Checkpoint:
    """Record what the JSON files of a folder of transformers tell."""
    beside = folder / PREPROCESSING
    images = _read_json(beside) if beside.is_file() else {}
    return replace(
        checkpoint,
        name=str(folder),
        architecture=checkpoint.architecture or transformers_architecture(config),
        pretrained_cfg=checkpoint.pretrained_cfg
        or transformers_preprocessing(config, images)
        or None,
    )


def _describe_network(
    config: dict[str, Any], path: Path
) -> tuple[str | None, tuple[dict[str, Any], ...]]:
    """Give the architecture that a ``config.json`` names, and the edits of its module tree."""
    architecture, structure = config.get("architecture"), []
    arguments = config.get("model_args")
    arguments = arguments if isinstance(arguments, dict) else {}
    changed = architecture == ENTRY
    if changed:
        architecture, structure = arguments.get("base"), arguments.get("structure", [])
    if not isinstance(architecture, str | None):
        raise CheckpointError(f"{path}: architecture must be a name")
    if not isinstance(structure, list) or not all(isinstance(edit, dict) for edit in structure):
        raise CheckpointError(f"{path}: structure must be a list of objects")
    named = None if is_factory(architecture) else add_prefix(architecture)
    if named and not changed:
        named = with_arguments(named, timm_arguments(arguments, config.get("pretrained_cfg")))
    return named, tuple(structure)


def timm_arguments(model_args: Mapping[str, Any], pretrained_cfg: Any) -> dict[str, Any]:
    """Give the arguments with which timm makes the network of a folder.

    Those that the tensors show are left out: the number of classes, and of input channels if there
    are three.

    Args:
        model_args: of the ``config.json``.
        pretrained_cfg: of the ``config.json``; timm takes the pooling from it, too.
    """
    arguments = dict(model_args)
    pooling = pretrained_cfg.get("global_pool") if isinstance(pretrained_cfg, dict) else None
    if isinstance(pooling, str):
        arguments.setdefault("global_pool", pooling)
    if arguments.get("num_classes"):
        del arguments["num_classes"]
    if arguments.get("in_chans") in (None, 3):
        arguments.pop("in_chans", None)
    return arguments


def pretrained_cfg(config: dict[str, Any]) -> dict[str, Any] | None:
    """Take timm's description of preprocessing out of a ``config.json``."""
    cfg = dict(config.get("pretrained_cfg") or {})
    if "num_classes" in config:
        cfg.setdefault("num_classes", config["num_classes"])
    return cfg or None


def weights_of(folder: Path) -> Path:
    """Give the file from which a folder is read: its weights, or the index of their shards.

    ``model.safetensors`` comes first, as in timm and transformers, so that an index that was left
    behind is never read. Only an index that names the file itself as one of several is.

    Raises:
        CheckpointError: there are no weights, or several candidates.
    """
    for name in (WEIGHTS, *OLDER_WEIGHTS):
        index = folder / _INDEX_OF.get(name, name)
        whole = (folder / name).is_file()
        if index.is_file() and (not whole or name in _list_shards(index)):
            return index
        if whole:
            return folder / name
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    listed = f"several: {', '.join(f.name for f in found)}" if found else "none"
    raise CheckpointError(
        f"{folder} should hold {WEIGHTS} or one .safetensors file, found {listed}"
    )


def list_weight_files(folder: Path) -> list[Path]:
    """List the files of a folder that hold weights, which a new ``model.safetensors`` replaces.

    Shards come before the index that names them: an interrupted removal can then be taken up.
    A single ``.safetensors`` file of another name is one of them if a ``config.json`` is beside it.

    Raises:
        CheckpointError: an index names ``model.safetensors`` itself as one of several shards, or
            the folder cannot be read.
    """
    try:
        return _list_weight_files(folder)
    except OSError as error:
        raise CheckpointError(f"cannot read {folder}: {error.strerror}") from None


def _list_weight_files(folder: Path) -> list[Path]:
    found = []
    for index in (folder / INDEX, folder / OLDER_INDEX):
        if index.is_file():
            named = _list_shards(index)
            if WEIGHTS in named:
                raise CheckpointError(f"{index} names {WEIGHTS} as a shard; choose another output")
            shards = (folder / name for name in sorted(named) if Path(name).suffix in _SHARDS)
            found += [*(shard for shard in shards if shard.is_file()), index]
    found += [folder / name for name in OLDER_WEIGHTS if (folder / name).is_file()]
    if not found and not (folder / WEIGHTS).exists() and (folder / CONFIG).is_file():
        alone = list(folder.glob("*.safetensors"))
        found += alone if len(alone) == 1 else []
    return list(dict.fromkeys(found))


def _list_shards(index: Path) -> set[str]:
    """Give the files of its own folder that an index names; none if it is corrupt."""
    try:
        names = set(_weight_map(index).values())
    except CheckpointError:
        return set()
    return {name for name in names if Path(name).name == name}


def _weight_map(index: Path) -> dict[str, str]:
    table = _read_json(index).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise CheckpointError(f"{index} has no weight_map of names to files")
    check_count(len(table), str(index))
    return table


def _read_shards(index: Path, allow_pickle: bool, key: str | None = None) -> Checkpoint:
    table, shards = _weight_map(index), {}
    for name in sorted(set(table.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{index} names {name!r}, which is not in the directory")
        _check_regular(index.parent / name)
        shards[name] = read_stream(open_path(index.parent / name), allow_pickle, key)
    # An index lists the names that are stored, from which reading a shard may have removed some.
    stored = {
        name: {shard.stored_names.get(own, own): own for own in shard}
        for name, shard in shards.items()
    }
    missing = [tensor for tensor, shard in table.items() if tensor not in stored[shard]]
    if missing:
        raise CheckpointError(f"{index} names {missing[0]!r}, which no file holds")

    def close() -> None:
        for shard in shards.values():
            shard.__exit__(None, None, None)

    whole = Checkpoint(
        {tensor: shards[shard][stored[shard][tensor]] for tensor, shard in table.items()},
        str(index),
        notes=tuple(note for shard in shards.values() for note in shard.notes),
        _close=close,
    )
    if any(shard.stored_names for shard in shards.values()):
        return whole.renamed(unwrapped_names(whole, whole.name))
    return whole


def _check_regular(path: Path) -> None:
    """Refuse what is in a folder but no regular file: a named pipe could be waited for for ever.

    Raises:
        CheckpointError: it is something else.
    """
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is not a regular file")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            # A file of the system may have no size, and wait for what is written to it.
            size = os.fstat(file.fileno()).st_size
            if size > MAX_HEADER:
                raise ValueError(f"longer than {MAX_HEADER:,} bytes")
            content = parse_json(file.read(size).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content


STDIN = "-"


def read_source(source: str, allow_pickle: bool = False, key: str | None = None) -> Checkpoint:
    """Read a file, a folder, or with ``-`` standard input.

    Raises:
        CheckpointError: it is missing, corrupt, or not a checkpoint.
    """
    if source == STDIN:
        return read_stream(open_stream(sys.stdin.buffer), allow_pickle, key)
    if not source:
        raise CheckpointError(
            "the name of the input is empty; give a file, a directory, or timm:NAME"
        )
    path = Path(source)
    if path.is_dir():
        return read_folder(path, allow_pickle, key)
    return read_any(path, allow_pickle, key)


def read_stream(
    source: ByteSource, allow_pickle: bool = False, key: str | None = None
) -> Checkpoint:
    """Read a checkpoint from an open stream, safetensors or a PyTorch archive.

    Raises:
        CheckpointError: it is neither of them, or has no entry ``key``.
    """
    if looks_pickled(source.peek(PREFIX_BYTES)):
        return read_pickled(source, allow_pickle, key)
    if key is not None:
        source.close()
        raise CheckpointError(
            f"{source.name} is not a PyTorch archive, so `key` finds no entry in it; "
            "choose tensors by their names with `prefix`"
        )
    try:
        return read_safetensors(source)
    except CheckpointError:
        source.close()
        raise
