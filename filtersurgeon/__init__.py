"""filtersurgeon: surgery on the convolution filters of pretrained image networks.

The Python twin of the ``fsurgeon`` command::

    import filtersurgeon as fs

    checkpoint = fs.load("m.safetensors")
    ranking = fs.rank(checkpoint, "archetype")
    fs.save(fs.replace(checkpoint, bank="dog8"), "out.safetensors")

Importing it imports nothing heavy; names are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "Checkpoint": "filtersurgeon.checkpoint",
    "FilterBank": "filtersurgeon.banks",
    "FilterLayer": "filtersurgeon.filters",
    "FilterSurgeonError": "filtersurgeon.errors",
    "Inspection": "filtersurgeon.inspection",
    "Ranking": "filtersurgeon.ranking",
    "StoredTensor": "filtersurgeon.checkpoint",
    "apply": "filtersurgeon.recipe",
    "compare": "filtersurgeon.evaluating",
    "compare_banks": "filtersurgeon.banks",
    "evaluate": "filtersurgeon.evaluating",
    "build": "filtersurgeon.checkpoint.build",
    "diagnose": "filtersurgeon.environment",
    "draw_bank": "filtersurgeon.report.pictures",
    "draw_before_after": "filtersurgeon.report.pictures",
    "draw_search": "filtersurgeon.report.searches",
    "fabricate": "filtersurgeon.transforms.fabricate",
    "find_layers": "filtersurgeon.filters",
    "inspect": "filtersurgeon.inspection",
    "learn_bank": "filtersurgeon.learning_banks",
    "load": "filtersurgeon.checkpoint",
    "load_bank": "filtersurgeon.banks",
    "pack": "filtersurgeon.transforms.pack",
    "rank": "filtersurgeon.ranking",
    "read_autoencoder": "filtersurgeon.banks.autoencoder",
    "replace": "filtersurgeon.transforms.replace",
    "sample_bank": "filtersurgeon.learning_banks",
    "save": "filtersurgeon.checkpoint",
    "save_autoencoder": "filtersurgeon.banks.autoencoder",
    "save_bank": "filtersurgeon.banks",
    "search_bank": "filtersurgeon.searching",
    "study": "filtersurgeon.studying",
    "tune": "filtersurgeon.tuning",
    "unpack": "filtersurgeon.transforms.unpack",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from filtersurgeon.banks import FilterBank as FilterBank
    from filtersurgeon.banks import compare_banks as compare_banks
    from filtersurgeon.banks import load_bank as load_bank
    from filtersurgeon.banks import save_bank as save_bank
    from filtersurgeon.banks.autoencoder import read_autoencoder as read_autoencoder
    from filtersurgeon.banks.autoencoder import save_autoencoder as save_autoencoder
    from filtersurgeon.checkpoint import Checkpoint as Checkpoint
    from filtersurgeon.checkpoint import StoredTensor as StoredTensor
    from filtersurgeon.checkpoint import load as load
    from filtersurgeon.checkpoint import save as save
    from filtersurgeon.checkpoint.build import build as build
    from filtersurgeon.environment import diagnose as diagnose
    from filtersurgeon.errors import FilterSurgeonError as FilterSurgeonError
    from filtersurgeon.evaluating import compare as compare
    from filtersurgeon.evaluating import evaluate as evaluate
    from filtersurgeon.filters import FilterLayer as FilterLayer
    from filtersurgeon.filters import find_layers as find_layers
    from filtersurgeon.inspection import Inspection as Inspection
    from filtersurgeon.inspection import inspect as inspect
    from filtersurgeon.learning_banks import learn_bank as learn_bank
    from filtersurgeon.learning_banks import sample_bank as sample_bank
    from filtersurgeon.ranking import Ranking as Ranking
    from filtersurgeon.ranking import rank as rank
    from filtersurgeon.recipe import apply as apply
    from filtersurgeon.report.pictures import draw_bank as draw_bank
    from filtersurgeon.report.pictures import draw_before_after as draw_before_after
    from filtersurgeon.report.searches import draw_search as draw_search
    from filtersurgeon.searching import search_bank as search_bank
    from filtersurgeon.studying import study as study
    from filtersurgeon.transforms.fabricate import fabricate as fabricate
    from filtersurgeon.transforms.pack import pack as pack
    from filtersurgeon.transforms.replace import replace as replace
    from filtersurgeon.transforms.unpack import unpack as unpack
    from filtersurgeon.tuning import tune as tune


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'filtersurgeon' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
