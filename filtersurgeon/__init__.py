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
    "Basis": "filtersurgeon.explain.basis",
    "Channels": "filtersurgeon.graph.channels",
    "Checkpoint": "filtersurgeon.checkpoint",
    "Explanation": "filtersurgeon.explain.explanation",
    "FilterBank": "filtersurgeon.banks",
    "FilterLayer": "filtersurgeon.filters",
    "FilterSurgeonError": "filtersurgeon.errors",
    "FilterSurgeonWarning": "filtersurgeon.errors",
    "ImageRun": "filtersurgeon.data.image_run",
    "Inspection": "filtersurgeon.inspection",
    "KernelScores": "filtersurgeon.ranking.kernel_scores",
    "Ranking": "filtersurgeon.ranking",
    "StoredTensor": "filtersurgeon.checkpoint",
    "activations": "filtersurgeon.see.activations",
    "apply": "filtersurgeon.recipe",
    "channels": "filtersurgeon.graph.channels",
    "compare": "filtersurgeon.learn.evaluating",
    "compare_banks": "filtersurgeon.banks",
    "embed": "filtersurgeon.see.embedding",
    "evaluate": "filtersurgeon.learn.evaluating",
    "build": "filtersurgeon.networks.build",
    "convert": "filtersurgeon.transforms.convert",
    "decode": "filtersurgeon.see.decoding",
    "diagnose": "filtersurgeon.doctor",
    "draw_channels": "filtersurgeon.plots.channel_map",
    "draw_bank": "filtersurgeon.plots.pictures",
    "draw_basis": "filtersurgeon.plots.basis_sheet",
    "draw_before_after": "filtersurgeon.plots.pictures",
    "draw_explanation": "filtersurgeon.plots.heat_map",
    "draw_search": "filtersurgeon.plots.searches",
    "explain": "filtersurgeon.explain.explanation",
    "export": "filtersurgeon.exports.exporting",
    "fabricate": "filtersurgeon.transforms.fabricate",
    "find_layers": "filtersurgeon.filters",
    "gradcam": "filtersurgeon.see.gradcam",
    "initialize": "filtersurgeon.transforms.initialize",
    "inspect": "filtersurgeon.inspection",
    "find_basis": "filtersurgeon.explain.explanation",
    "kernel_scores": "filtersurgeon.ranking.scoring",
    "learn_bank": "filtersurgeon.banks.learning",
    "load": "filtersurgeon.networks.files",
    "load_bank": "filtersurgeon.banks",
    "maximize": "filtersurgeon.see.maximizing",
    "pack": "filtersurgeon.transforms.pack",
    "prune": "filtersurgeon.transforms.prune",
    "rank": "filtersurgeon.ranking",
    "read_autoencoder": "filtersurgeon.banks.autoencoder",
    "read_kernel_scores": "filtersurgeon.ranking.kernel_scores",
    "replace": "filtersurgeon.transforms.replace",
    "sample_bank": "filtersurgeon.banks.learning",
    "save": "filtersurgeon.networks.files",
    "save_autoencoder": "filtersurgeon.banks.autoencoder",
    "save_bank": "filtersurgeon.banks",
    "schema": "filtersurgeon.schemas",
    "schema_names": "filtersurgeon.schemas",
    "search_bank": "filtersurgeon.banks.search",
    "study": "filtersurgeon.studies._lab",
    "tune": "filtersurgeon.learn.tuning",
    "write_report": "filtersurgeon.report.reporting",
    "unpack": "filtersurgeon.transforms.unpack",
    "untrained": "filtersurgeon.networks.untrained",
    "WalkSettings": "filtersurgeon.walk.settings",
    "read_walk": "filtersurgeon.walk.page",
    "serve_walk": "filtersurgeon.walk.serving",
    "walk": "filtersurgeon.walk.walking",
    "write_kernel_scores": "filtersurgeon.ranking.kernel_scores",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from filtersurgeon.banks import FilterBank as FilterBank
    from filtersurgeon.banks import compare_banks as compare_banks
    from filtersurgeon.banks import load_bank as load_bank
    from filtersurgeon.banks import save_bank as save_bank
    from filtersurgeon.banks.autoencoder import read_autoencoder as read_autoencoder
    from filtersurgeon.banks.autoencoder import save_autoencoder as save_autoencoder
    from filtersurgeon.banks.learning import learn_bank as learn_bank
    from filtersurgeon.banks.learning import sample_bank as sample_bank
    from filtersurgeon.banks.search import search_bank as search_bank
    from filtersurgeon.checkpoint import Checkpoint as Checkpoint
    from filtersurgeon.checkpoint import StoredTensor as StoredTensor
    from filtersurgeon.data.image_run import ImageRun as ImageRun
    from filtersurgeon.doctor import diagnose as diagnose
    from filtersurgeon.errors import FilterSurgeonError as FilterSurgeonError
    from filtersurgeon.errors import FilterSurgeonWarning as FilterSurgeonWarning
    from filtersurgeon.explain.basis import Basis as Basis
    from filtersurgeon.explain.explanation import Explanation as Explanation
    from filtersurgeon.explain.explanation import explain as explain
    from filtersurgeon.explain.explanation import find_basis as find_basis
    from filtersurgeon.exports.exporting import export as export
    from filtersurgeon.filters import FilterLayer as FilterLayer
    from filtersurgeon.filters import find_layers as find_layers
    from filtersurgeon.graph.channels import Channels as Channels
    from filtersurgeon.graph.channels import channels as channels
    from filtersurgeon.inspection import Inspection as Inspection
    from filtersurgeon.inspection import inspect as inspect
    from filtersurgeon.learn.evaluating import compare as compare
    from filtersurgeon.learn.evaluating import evaluate as evaluate
    from filtersurgeon.learn.tuning import tune as tune
    from filtersurgeon.networks.build import build as build
    from filtersurgeon.networks.files import load as load
    from filtersurgeon.networks.files import save as save
    from filtersurgeon.networks.untrained import untrained as untrained
    from filtersurgeon.plots.basis_sheet import draw_basis as draw_basis
    from filtersurgeon.plots.channel_map import draw_channels as draw_channels
    from filtersurgeon.plots.heat_map import draw_explanation as draw_explanation
    from filtersurgeon.plots.pictures import draw_bank as draw_bank
    from filtersurgeon.plots.pictures import draw_before_after as draw_before_after
    from filtersurgeon.plots.searches import draw_search as draw_search
    from filtersurgeon.ranking import Ranking as Ranking
    from filtersurgeon.ranking import rank as rank
    from filtersurgeon.ranking.kernel_scores import KernelScores as KernelScores
    from filtersurgeon.ranking.kernel_scores import read_kernel_scores as read_kernel_scores
    from filtersurgeon.ranking.kernel_scores import write_kernel_scores as write_kernel_scores
    from filtersurgeon.ranking.scoring import kernel_scores as kernel_scores
    from filtersurgeon.recipe import apply as apply
    from filtersurgeon.report.reporting import write_report as write_report
    from filtersurgeon.schemas import schema as schema
    from filtersurgeon.schemas import schema_names as schema_names
    from filtersurgeon.see.activations import activations as activations
    from filtersurgeon.see.decoding import decode as decode
    from filtersurgeon.see.embedding import embed as embed
    from filtersurgeon.see.gradcam import gradcam as gradcam
    from filtersurgeon.see.maximizing import maximize as maximize
    from filtersurgeon.studies._lab import study as study
    from filtersurgeon.transforms.convert import convert as convert
    from filtersurgeon.transforms.fabricate import fabricate as fabricate
    from filtersurgeon.transforms.initialize import initialize as initialize
    from filtersurgeon.transforms.pack import pack as pack
    from filtersurgeon.transforms.prune import prune as prune
    from filtersurgeon.transforms.replace import replace as replace
    from filtersurgeon.transforms.unpack import unpack as unpack
    from filtersurgeon.walk.page import read_walk as read_walk
    from filtersurgeon.walk.serving import serve_walk as serve_walk
    from filtersurgeon.walk.settings import WalkSettings as WalkSettings
    from filtersurgeon.walk.walking import walk as walk


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'filtersurgeon' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


_announce()
