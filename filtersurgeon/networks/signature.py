"""Fingerprints of the networks in timm and torchvision, by the names and shapes of their tensors.

Building all of them takes minutes, so the package ships the fingerprints of one version of each
library (``make index`` writes them). A fingerprint only nominates: the network itself decides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filtersurgeon.checkpoint.documents import parse_json
from filtersurgeon.checkpoint.sources import ENTRY
from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.skeleton import make

if TYPE_CHECKING:
    from torch import nn

Shapes = Mapping[str, tuple[int, ...]]
INDEX_FILE = Path(__file__).with_name("architectures.json")
_COUNTER = "num_batches_tracked"  # absent from old checkpoints


@dataclass(frozen=True)
class Fingerprint:
    """What tells a network's tensors from others'.

    Attributes:
        architecture: ``timm:NAME`` or ``torchvision:NAME``.
        names: hash of the tensors' names.
        shapes: hash of names and shapes, without the number of classes and of input channels.
        classifier: modules whose first axis is the classes.
        stem: convolutions whose second axis is the input channels.
    """

    architecture: str
    names: str
    shapes: str
    classifier: tuple[str, ...]
    stem: tuple[str, ...]

    def fits(self, shapes: Shapes) -> bool:
        """Tell whether tensors have these shapes, up to classes and input channels."""
        return self.shapes == shapes_hash(shapes, self.classifier, self.stem)


class Index(NamedTuple):
    """Fingerprints, and the versions of the libraries that they were taken from."""

    versions: dict[str, str]
    entries: list[Fingerprint]


def names_hash(shapes: Shapes) -> str:
    """Hash the names of tensors."""
    return _hash(sorted(name for name in shapes if not name.endswith(_COUNTER)))


def shapes_hash(shapes: Shapes, classifier: Iterable[str], stem: Iterable[str]) -> str:
    """Hash names and shapes, leaving out what depends on classes and input channels."""
    heads = tuple(f"{name}." for name in classifier)
    stems = {f"{name}.weight" for name in stem}
    lines = []
    for name in sorted(shapes):
        sizes: list[int | str] = list(shapes[name])
        if sizes and heads and name.startswith(heads):
            sizes[0] = "*"
        if len(sizes) > 1 and name in stems:
            sizes[1] = "*"
        if not name.endswith(_COUNTER):
            lines.append([name, sizes])
    return _hash(lines)


def nominate(entries: Sequence[Fingerprint], shapes: Shapes) -> list[Fingerprint]:
    """Find the fingerprints of tensors with these names and shapes, with or without a classifier.

    Args:
        entries: fingerprints of networks with their classifiers.
        shapes: of all tensors, by name.
    """
    wanted = names_hash(shapes)
    named = [entry for entry in entries if entry.names == wanted]
    found = [entry for entry in named if entry.fits(shapes)]
    return found or (_nominate_headless(entries, shapes) if not named else [])


def are_known(entries: Sequence[Fingerprint], shapes: Shapes) -> bool:
    """Tell whether a network has tensors of these names, with or without a classifier."""
    wanted = names_hash(shapes)
    return any(entry.names == wanted for entry in entries) or any(_add_heads(entries, shapes))


def _nominate_headless(entries: Sequence[Fingerprint], shapes: Shapes) -> list[Fingerprint]:
    """Find networks of which only the classifier is missing.

    A fingerprint holds the number of features that the classifier reads, so all are tried.
    """
    counts = {shape[0] for shape in shapes.values() if shape}
    found: dict[str, Fingerprint] = {}
    for named, heads in _add_heads(entries, shapes):
        for count in counts:
            for sizes in ((0, count), (0, count, 1, 1)):
                whole = {**shapes, **{k: sizes if k.endswith("weight") else (0,) for k in heads}}
                found |= {entry.architecture: entry for entry in named if entry.fits(whole)}
    return list(found.values())


def _add_heads(
    entries: Sequence[Fingerprint], shapes: Shapes
) -> Iterator[tuple[list[Fingerprint], list[str]]]:
    """Yield networks that have these names and a classifier's, with the names of the latter."""
    for classifier in sorted({entry.classifier for entry in entries if entry.classifier}):
        if any(name.startswith(tuple(f"{head}." for head in classifier)) for name in shapes):
            continue
        for parts in (("weight", "bias"), ("weight",)):
            heads = [f"{head}.{part}" for head in classifier for part in parts]
            wanted = names_hash({**shapes, **dict.fromkeys(heads, (0,))})
            named = [e for e in entries if e.names == wanted and e.classifier == classifier]
            if named:
                yield named, heads


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def fingerprint(architecture: str) -> Fingerprint | None:
    """Take the fingerprint of a network, or give None if it cannot be made here."""
    try:
        model = make(architecture)
    except ArchitectureError:
        return None
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    classifier, stem = adaptable_modules(model)
    return Fingerprint(
        architecture, names_hash(shapes), shapes_hash(shapes, classifier, stem), classifier, stem
    )


def adaptable_modules(model: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Name the modules that classes and input channels shape: classifiers and stems."""
    from torch import nn

    from filtersurgeon.networks.modules.predefined import PredefinedFilterModule

    cfg: Any = getattr(model, "pretrained_cfg", None)
    if cfg:
        return _names(cfg.get("classifier")), _names(cfg.get("first_conv"))
    modules = list(model.named_modules())
    stem = find_stem(model, (nn.Conv2d, PredefinedFilterModule))
    heads = [
        name
        for name, module in modules
        if getattr(module, "out_features", getattr(module, "out_channels", None)) == 1000
    ]
    return tuple(heads), (stem,) if stem is not None else ()


def find_stem(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> str | None:
    """Name the convolution that reads the image, or give None if there is no convolution.

    The first in the order of registration, unless it reads neither 1 nor 3 channels and another of
    as many axes reads 3: some networks register their head first.
    """
    found: list[tuple[str, Any]] = [
        (name, module) for name, module in model.named_modules() if isinstance(module, kinds)
    ]
    if not found:
        return None
    name, first = found[0]
    if first.in_channels in (1, 3):
        return name
    axes = len(first.kernel_size)
    readers = (n for n, m in found if m.in_channels == 3 and len(m.kernel_size) == axes)
    return next(readers, name)


def stem_channels(shapes: Shapes, stem: str) -> int | None:
    """Read the number of input channels off a stem's tensors, or give None.

    Args:
        shapes: of tensors, by name.
        stem: a convolution, or the pre-defined filter module in its place, which has every filter
            on every channel of the image.
    """
    which, filters = shapes.get(f"{stem}.bank.which"), shapes.get(f"{stem}.bank.filters")
    if which and filters:
        return which[0] // filters[0]
    weight = shapes.get(f"{stem}.weight", ())
    return weight[1] if len(weight) > 1 else None


def _names(value: str | Iterable[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def known_architectures() -> list[str]:
    """Name every network of timm, then every classifier of torchvision."""
    from filtersurgeon.checkpoint.vision import import_timm, import_torchvision

    timm, models = import_timm(), import_torchvision().models
    return [f"timm:{name}" for name in timm.list_models() if name != ENTRY] + [
        f"torchvision:{name}" for name in models.list_models(module=models)
    ]


def to_json(entries: Iterable[Fingerprint]) -> str:
    """Write fingerprints with the versions of the installed libraries."""
    from importlib.metadata import version

    versions = {library: version(library) for library in ("timm", "torchvision")}
    rows = ",\n".join(json.dumps(list(asdict(entry).values())) for entry in entries)
    return f'{{"versions": {json.dumps(versions)}, "entries": [\n{rows}\n]}}\n'


def read_index(path: Path = INDEX_FILE) -> Index:
    """Read fingerprints; raises ValueError, TypeError or KeyError if the file holds none."""
    content = parse_json(path.read_text("utf-8"))
    rows = [
        Fingerprint(name, names, shapes, tuple(heads), tuple(stems))
        for name, names, shapes, heads, stems in content["entries"]
    ]
    return Index(content["versions"], rows)


def write_index() -> None:
    """Write the index that the package ships: every network of the installed libraries."""
    entries = (fingerprint(architecture) for architecture in known_architectures())
    INDEX_FILE.write_text(to_json(entry for entry in entries if entry), "utf-8")


if __name__ == "__main__":
    write_index()
