"""How much storage do archetypes save? Compared with the paper for ResNet-50 and VGG-16."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from filtersurgeon.errors import OptionError
from filtersurgeon.networks.skeleton import make
from filtersurgeon.ranking.archetype_counts import share_count
from filtersurgeon.studies._lab import Lab, StudyResult, Table

MIB = 2**20
FLOAT_BYTES = 4


class Published(NamedTuple):
    """What the paper states: MB before and after, and the share saved in percent."""

    before: float
    after: float
    saved: float


PUBLISHED = {
    "torchvision:resnet50": Published(99, 34.4, 65.25),
    "torchvision:vgg16": Published(528, 489, 7.38),
}
COUNTED = {"all convolutions": 1, "without 1x1": 2}
"""What is packed -> the smallest kernel, in weights, that is."""


def storage(
    lab: Lab,  # noqa: ARG001 - shapes are enough
    *,
    archetypes: float = 0.25,
) -> StudyResult:
    """Count what is left of a network when archetypes are stored in place of filters.

    Arithmetic on shapes: of every convolution with N filters, ``round(archetypes * N)`` remain
    (what ``pack --coefficients random`` stores), and everything else stays, in float32.
    Source: Thakur, Abrol and Sharma, *Does Geometric Structure in Convolutional Filter Space
    Provide Filter Redundancy Information?*, 2022, section 7.2.

    Args:
        lab: not needed.
        archetypes: their number as a share of a layer's filters.

    Returns:
        For each network and each choice of layers, MiB before and after, and the paper's MB.
    """
    if not 0 < archetypes <= 1:
        raise OptionError(f"archetypes={archetypes} should be a share, above 0 and at most 1")
    rows = []
    for architecture, published in PUBLISHED.items():
        state = make(architecture).state_dict()
        shapes = [tuple(t.shape) for t in state.values() if t.is_floating_point()]
        for counted, smallest in COUNTED.items():
            before, after = stored_bytes(shapes, archetypes, smallest)
            rows.append(
                {
                    "network": architecture.partition(":")[2],
                    "packed": counted,
                    "mib": before / MIB,
                    "packed_mib": after / MIB,
                    "saved": 100 * (1 - after / before),
                    "paper_saved": published.saved,
                    "paper_after": published.after,
                }
            )
    columns = [("network", "left"), ("packed", "left"), ("MiB", "right"), ("after", "right"),
               ("saved %", "right"), ("paper %", "right"), ("after", "right")]  # fmt: skip
    table = Table("storage of archetypes", columns, [tuple(row.values()) for row in rows])
    options = {} if archetypes == 0.25 else {"archetypes": archetypes}
    return StudyResult("storage", options, {"rows": rows}, [table], _remarks(archetypes))


def stored_bytes(shapes: list[tuple[int, ...]], share: float, smallest: int = 1) -> tuple[int, int]:
    """Give the bytes of tensors before and after packing.

    Args:
        shapes: of all float tensors; those of four axes are convolutions' weights.
        share: archetypes per filter.
        smallest: leave kernels of fewer weights than this as they are.
    """
    before = after = 0
    for shape in shapes:
        size = prod(shape)
        before += size
        packed = len(shape) == 4 and prod(shape[2:]) >= smallest
        after += share_count(shape[0], share) * prod(shape[1:]) if packed else size
    return FLOAT_BYTES * before, FLOAT_BYTES * after


def _remarks(archetypes: float) -> list[str]:
    if archetypes != 0.25:
        return []
    return [
        "The paper must have packed 1x1 convolutions too: without them ResNet-50 saves half of "
        "what it states.",
        "Its files after packing are 3 to 4 MB larger than archetypes and all other parameters "
        "are, for both networks; parameter counts do not tell what that is.",
    ]
