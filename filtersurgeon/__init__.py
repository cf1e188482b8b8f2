"""filtersurgeon: surgery on the convolution filters of pretrained image networks.

The Python twin of the ``fsurgeon`` command::

    import filtersurgeon as fs

    checkpoint = fs.load("m.safetensors")
    ranking = fs.rank(checkpoint, "archetype")
    fs.save(fs.replace(checkpoint, bank="dog8"), "out.safetensors")

Importing it imports nothing heavy; names are loaded when they are first used. From then on
``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads networks that were pruned, too.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from filtersurgeon.timm_hook import announce as _announce

__version__ = "0.1.0"

_HOMES = {
    "Basis": "filtersurgeon.explaining.basis",
    "Channels": "filtersurgeon.tracing",
    "Checkpoint": "filtersurgeon.checkpoint",
    "Explanation": "filtersurgeon.explaining.explanation",
    "FilterBank": "filtersurgeon.banks",
    "FilterLayer": "filtersurgeon.filters",
    "FilterSurgeonError": "filtersurgeon.errors",
    "FilterSurgeonWarning": "filtersurgeon.errors",
    "ImageRun": "filtersurgeon.learn.image_run",
    "Inspection": "filtersurgeon.inspection",
    "KernelScores": "filtersurgeon.explaining.kernel_scores",
    "Ranking": "filtersurgeon.ranking",
    "StoredTensor": "filtersurgeon.checkpoint",
    "activations": "filtersurgeon.see.activations",
    "apply": "filtersurgeon.recipe",
    "channels": "filtersurgeon.tracing",
    "compare": "filtersurgeon.evaluating",
    "compare_banks": "filtersurgeon.banks",
    "embed": "filtersurgeon.see.embedding",
    "evaluate": "filtersurgeon.evaluating",
    "build": "filtersurgeon.checkpoint.build",
    "convert": "filtersurgeon.transforms.convert",
    "decode": "filtersurgeon.see.decoding",
    "diagnose": "filtersurgeon.environment",
    "draw_channels": "filtersurgeon.report.channel_map",
    "draw_bank": "filtersurgeon.report.pictures",
    "draw_basis": "filtersurgeon.report.basis_sheet",
    "draw_before_after": "filtersurgeon.report.pictures",
    "draw_explanation": "filtersurgeon.report.heat_map",
    "draw_search": "filtersurgeon.report.searches",
    "explain": "filtersurgeon.explaining.explanation",
    "export": "filtersurgeon.exporting",
    "fabricate": "filtersurgeon.transforms.fabricate",
    "find_layers": "filtersurgeon.filters",
    "gradcam": "filtersurgeon.see.gradcam",
    "initialize": "filtersurgeon.transforms.initialize",
    "inspect": "filtersurgeon.inspection",
    "find_basis": "filtersurgeon.explaining.explanation",
    "kernel_scores": "filtersurgeon.explaining.scoring",
    "learn_bank": "filtersurgeon.learning_banks",
    "load": "filtersurgeon.checkpoint",
    "load_bank": "filtersurgeon.banks",
    "maximize": "filtersurgeon.see.maximizing",
    "pack": "filtersurgeon.transforms.pack",
    "prune": "filtersurgeon.transforms.prune",
    "rank": "filtersurgeon.ranking",
    "read_autoencoder": "filtersurgeon.banks.autoencoder",
    "read_kernel_scores": "filtersurgeon.explaining.kernel_scores",
    "replace": "filtersurgeon.transforms.replace",
    "sample_bank": "filtersurgeon.learning_banks",
    "save": "filtersurgeon.checkpoint",
    "save_autoencoder": "filtersurgeon.banks.autoencoder",
    "save_bank": "filtersurgeon.banks",
    "schema": "filtersurgeon.schemas",
    "schema_names": "filtersurgeon.schemas",
    "search_bank": "filtersurgeon.searching",
    "study": "filtersurgeon.studying",
    "tune": "filtersurgeon.tuning",
    "write_report": "filtersurgeon.reporting",
    "unpack": "filtersurgeon.transforms.unpack",
    "untrained": "filtersurgeon.checkpoint.untrained",
    "WalkSettings": "filtersurgeon.see.walk.settings",
    "read_walk": "filtersurgeon.see.walk.page",
    "serve_walk": "filtersurgeon.see.walk.serving",
    "walk": "filtersurgeon.see.walk.walking",
    "write_kernel_scores": "filtersurgeon.explaining.kernel_scores",
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
    from filtersurgeon.checkpoint.untrained import untrained as untrained
    from filtersurgeon.environment import diagnose as diagnose
    from filtersurgeon.errors import FilterSurgeonError as FilterSurgeonError
    from filtersurgeon.errors import FilterSurgeonWarning as FilterSurgeonWarning
    from filtersurgeon.evaluating import compare as compare
    from filtersurgeon.evaluating import evaluate as evaluate
    from filtersurgeon.explaining.basis import Basis as Basis
    from filtersurgeon.explaining.explanation import Explanation as Explanation
    from filtersurgeon.explaining.explanation import explain as explain
    from filtersurgeon.explaining.explanation import find_basis as find_basis
    from filtersurgeon.explaining.kernel_scores import KernelScores as KernelScores
    from filtersurgeon.explaining.kernel_scores import read_kernel_scores as read_kernel_scores
    from filtersurgeon.explaining.kernel_scores import write_kernel_scores as write_kernel_scores
    from filtersurgeon.explaining.scoring import kernel_scores as kernel_scores
    from filtersurgeon.exporting import export as export
    from filtersurgeon.filters import FilterLayer as FilterLayer
    from filtersurgeon.filters import find_layers as find_layers
    from filtersurgeon.inspection import Inspection as Inspection
    from filtersurgeon.inspection import inspect as inspect
    from filtersurgeon.learn.image_run import ImageRun as ImageRun
    from filtersurgeon.learning_banks import learn_bank as learn_bank
    from filtersurgeon.learning_banks import sample_bank as sample_bank
    from filtersurgeon.ranking import Ranking as Ranking
    from filtersurgeon.ranking import rank as rank
    from filtersurgeon.recipe import apply as apply
    from filtersurgeon.report.basis_sheet import draw_basis as draw_basis
    from filtersurgeon.report.channel_map import draw_channels as draw_channels
    from filtersurgeon.report.heat_map import draw_explanation as draw_explanation
    from filtersurgeon.report.pictures import draw_bank as draw_bank
    from filtersurgeon.report.pictures import draw_before_after as draw_before_after
    from filtersurgeon.report.searches import draw_search as draw_search
    from filtersurgeon.reporting import write_report as write_report
    from filtersurgeon.schemas import schema as schema
    from filtersurgeon.schemas import schema_names as schema_names
    from filtersurgeon.searching import search_bank as search_bank
    from filtersurgeon.see.activations import activations as activations
    from filtersurgeon.see.decoding import decode as decode
    from filtersurgeon.see.embedding import embed as embed
    from filtersurgeon.see.gradcam import gradcam as gradcam
    from filtersurgeon.see.maximizing import maximize as maximize
    from filtersurgeon.see.walk.page import read_walk as read_walk
    from filtersurgeon.see.walk.serving import serve_walk as serve_walk
    from filtersurgeon.see.walk.settings import WalkSettings as WalkSettings
    from filtersurgeon.see.walk.walking import walk as walk
    from filtersurgeon.studying import study as study
    from filtersurgeon.tracing import Channels as Channels
    from filtersurgeon.tracing import channels as channels
    from filtersurgeon.transforms.convert import convert as convert
    from filtersurgeon.transforms.fabricate import fabricate as fabricate
    from filtersurgeon.transforms.initialize import initialize as initialize
    from filtersurgeon.transforms.pack import pack as pack
    from filtersurgeon.transforms.prune import prune as prune
    from filtersurgeon.transforms.replace import replace as replace
    from filtersurgeon.transforms.unpack import unpack as unpack
    from filtersurgeon.tuning import tune as tune


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'filtersurgeon' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


_announce()
