"""Prune, rank, replace and visualise the filters of pretrained image networks.

The Python twin of the ``fsurgeon`` command::

    import filtersurgeon as fs

    checkpoint = fs.load("m.safetensors")
    ranking = fs.rank(checkpoint, "archetype")
    fs.save(fs.replace(checkpoint, bank="dog8"), "out.safetensors")

Importing it imports nothing heavy; names are loaded when they are first used. From then on
``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads networks that were pruned, too.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from filtersurgeon.timm_hook import announce as _announce

__version__ = "0.1.0"

_HOMES = {
    "Activations": "filtersurgeon.see.activations",
    "ArchetypeModels": "filtersurgeon.ranking.archetype_models",
    "AscentSettings": "filtersurgeon.see.ascent",
    "Augmentation": "filtersurgeon.data.preprocess",
    "BankComparison": "filtersurgeon.banks.matching",
    "BankLayerPacking": "filtersurgeon.transforms.packing.by_bank",
    "BankSearch": "filtersurgeon.banks.search.result",
    "BankSource": "filtersurgeon.banks.bank",
    "Basis": "filtersurgeon.explain.basis",
    "ChannelGroup": "filtersurgeon.graph.channel_groups",
    "Channels": "filtersurgeon.graph.channels",
    "Checkpoint": "filtersurgeon.checkpoint",
    "Comparison": "filtersurgeon.learn.compare",
    "ComparisonSettings": "filtersurgeon.learn.compare",
    "ConversionReport": "filtersurgeon.transforms.predefined.report",
    "CutPlan": "filtersurgeon.pruning.reconstruction.plan_file",
    "DataSpec": "filtersurgeon.data.data",
    "DecodeSettings": "filtersurgeon.see.decoding",
    "Decoded": "filtersurgeon.see.decoding",
    "Embedding": "filtersurgeon.see.embedding",
    "Environment": "filtersurgeon.doctor",
    "EpochRow": "filtersurgeon.learn.state",
    "Evaluation": "filtersurgeon.learn.evaluation",
    "EvaluationSettings": "filtersurgeon.learn.evaluate",
    "Explanation": "filtersurgeon.explain.explanation",
    "Export": "filtersurgeon.exports.exporting",
    "FilterAutoencoder": "filtersurgeon.banks.autoencoder",
    "FilterBank": "filtersurgeon.banks",
    "FilterLayer": "filtersurgeon.filters",
    "FilterSurgeonError": "filtersurgeon.errors",
    "FilterSurgeonWarning": "filtersurgeon.errors",
    "GradCam": "filtersurgeon.see.gradcam",
    "ImageRun": "filtersurgeon.data.data",
    "Inspection": "filtersurgeon.inspection",
    "JobSettings": "filtersurgeon.learn.jobs",
    "KernelAtlas": "filtersurgeon.see.kernel_atlas",
    "KernelScores": "filtersurgeon.ranking.kernel_scores",
    "Lab": "filtersurgeon.studies._lab",
    "LabelNoise": "filtersurgeon.data.generated",
    "LayerArchetypes": "filtersurgeon.ranking.archetype_models",
    "LayerFabrication": "filtersurgeon.transforms.fabricate",
    "LayerInitialization": "filtersurgeon.transforms.initialize",
    "LayerPacking": "filtersurgeon.transforms.packing.layer",
    "LayerReplacement": "filtersurgeon.transforms.replace",
    "LayerSilence": "filtersurgeon.transforms.silence",
    "LearningSettings": "filtersurgeon.banks.autoencoder",
    "MappedLayer": "filtersurgeon.see.kernel_atlas",
    "MaskEvaluation": "filtersurgeon.learn.segmentation",
    "Maximised": "filtersurgeon.see.maximizing",
    "MultiLabelEvaluation": "filtersurgeon.learn.several_labels",
    "Objective": "filtersurgeon.see.objectives",
    "PinnedError": "filtersurgeon.errors",
    "PruneReport": "filtersurgeon.pruning.report",
    "Ranking": "filtersurgeon.ranking",
    "RecipeStep": "filtersurgeon.recipe",
    "ReportSettings": "filtersurgeon.report.reporting",
    "RunSettings": "filtersurgeon.learn.settings",
    "Scene": "filtersurgeon.walk.scene",
    "SearchData": "filtersurgeon.banks.search.by_accuracy",
    "StoredTensor": "filtersurgeon.checkpoint",
    "StudyResult": "filtersurgeon.studies._lab",
    "Tour": "filtersurgeon.walk.tour",
    "TourStep": "filtersurgeon.walk.tour",
    "TrainingImages": "filtersurgeon.learn.tuning",
    "TrainingRecipe": "filtersurgeon.learn.settings",
    "TrainingResult": "filtersurgeon.learn.train",
    "TrainingStart": "filtersurgeon.learn.tuning",
    "TrainingStep": "filtersurgeon.learn.session",
    "WalkSettings": "filtersurgeon.walk.scene",
    "Worth": "filtersurgeon.pruning.worth",
    "activations": "filtersurgeon.see.activations",
    "apply": "filtersurgeon.recipe",
    "build": "filtersurgeon.networks.build",
    "channels": "filtersurgeon.graph.channels",
    "compare": "filtersurgeon.learn.evaluating",
    "compare_banks": "filtersurgeon.banks",
    "convert": "filtersurgeon.transforms.convert",
    "decode": "filtersurgeon.see.decoding",
    "diagnose": "filtersurgeon.doctor",
    "draw_archetypes": "filtersurgeon.plots.archetypes",
    "draw_bank": "filtersurgeon.plots.pictures",
    "draw_basis": "filtersurgeon.plots.heat_map",
    "draw_before_after": "filtersurgeon.plots.pictures",
    "draw_channels": "filtersurgeon.plots.channel_map",
    "draw_elbow": "filtersurgeon.plots.archetypes",
    "draw_explanation": "filtersurgeon.plots.heat_map",
    "draw_plan": "filtersurgeon.plots.cut_plan",
    "draw_search": "filtersurgeon.plots.curves",
    "draw_simplex": "filtersurgeon.plots.archetypes",
    "draw_sorted_filters": "filtersurgeon.plots.archetypes",
    "embed": "filtersurgeon.see.embedding",
    "evaluate": "filtersurgeon.learn.evaluating",
    "explain": "filtersurgeon.explain.explanation",
    "export": "filtersurgeon.exports.exporting",
    "fabricate": "filtersurgeon.transforms.fabricate",
    "find_archetypes": "filtersurgeon.ranking.archetype_models",
    "find_basis": "filtersurgeon.explain.explanation",
    "find_layers": "filtersurgeon.filters",
    "gradcam": "filtersurgeon.see.gradcam",
    "initialize": "filtersurgeon.transforms.initialize",
    "inspect": "filtersurgeon.inspection",
    "kernel_scores": "filtersurgeon.ranking.kernel_scores",
    "learn_bank": "filtersurgeon.banks.learning",
    "load": "filtersurgeon.networks.files",
    "load_bank": "filtersurgeon.banks",
    "map_kernels": "filtersurgeon.see.atlas",
    "maximize": "filtersurgeon.see.maximizing",
    "pack": "filtersurgeon.transforms.pack",
    "prune": "filtersurgeon.transforms.prune",
    "prune_sweep": "filtersurgeon.transforms._cut_to_target",
    "rank": "filtersurgeon.ranking",
    "read_autoencoder": "filtersurgeon.banks.autoencoder",
    "read_kernel_scores": "filtersurgeon.ranking.kernel_scores",
    "read_tour": "filtersurgeon.walk.tour",
    "read_walk": "filtersurgeon.walk.record",
    "replace": "filtersurgeon.transforms.replace",
    "sample_bank": "filtersurgeon.banks.learning",
    "save": "filtersurgeon.networks.files",
    "save_autoencoder": "filtersurgeon.banks.autoencoder",
    "save_bank": "filtersurgeon.banks",
    "schema": "filtersurgeon.schemas",
    "schema_names": "filtersurgeon.schemas",
    "search_bank": "filtersurgeon.banks.search",
    "serve_walk": "filtersurgeon.walk.serving",
    "silence": "filtersurgeon.transforms.silence",
    "study": "filtersurgeon.studies._lab",
    "tune": "filtersurgeon.learn.tuning",
    "unpack": "filtersurgeon.transforms.unpack",
    "untrained": "filtersurgeon.networks.hub",
    "walk": "filtersurgeon.walk.walking",
    "write_atlas": "filtersurgeon.see.atlas_page",
    "write_kernel_scores": "filtersurgeon.ranking.kernel_scores",
    "write_report": "filtersurgeon.report.reporting",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from filtersurgeon.banks import FilterBank as FilterBank
    from filtersurgeon.banks import compare_banks as compare_banks
    from filtersurgeon.banks import load_bank as load_bank
    from filtersurgeon.banks import save_bank as save_bank
    from filtersurgeon.banks.autoencoder import FilterAutoencoder as FilterAutoencoder
    from filtersurgeon.banks.autoencoder import LearningSettings as LearningSettings
    from filtersurgeon.banks.autoencoder import read_autoencoder as read_autoencoder
    from filtersurgeon.banks.autoencoder import save_autoencoder as save_autoencoder
    from filtersurgeon.banks.bank import BankSource as BankSource
    from filtersurgeon.banks.learning import learn_bank as learn_bank
    from filtersurgeon.banks.learning import sample_bank as sample_bank
    from filtersurgeon.banks.matching import BankComparison as BankComparison
    from filtersurgeon.banks.search import search_bank as search_bank
    from filtersurgeon.banks.search.by_accuracy import SearchData as SearchData
    from filtersurgeon.banks.search.result import BankSearch as BankSearch
    from filtersurgeon.checkpoint import Checkpoint as Checkpoint
    from filtersurgeon.checkpoint import StoredTensor as StoredTensor
    from filtersurgeon.data.data import DataSpec as DataSpec
    from filtersurgeon.data.data import ImageRun as ImageRun
    from filtersurgeon.data.generated import LabelNoise as LabelNoise
    from filtersurgeon.data.preprocess import Augmentation as Augmentation
    from filtersurgeon.doctor import Environment as Environment
    from filtersurgeon.doctor import diagnose as diagnose
    from filtersurgeon.errors import FilterSurgeonError as FilterSurgeonError
    from filtersurgeon.errors import FilterSurgeonWarning as FilterSurgeonWarning
    from filtersurgeon.errors import PinnedError as PinnedError
    from filtersurgeon.explain.basis import Basis as Basis
    from filtersurgeon.explain.explanation import Explanation as Explanation
    from filtersurgeon.explain.explanation import explain as explain
    from filtersurgeon.explain.explanation import find_basis as find_basis
    from filtersurgeon.exports.exporting import Export as Export
    from filtersurgeon.exports.exporting import export as export
    from filtersurgeon.filters import FilterLayer as FilterLayer
    from filtersurgeon.filters import find_layers as find_layers
    from filtersurgeon.graph.channel_groups import ChannelGroup as ChannelGroup
    from filtersurgeon.graph.channels import Channels as Channels
    from filtersurgeon.graph.channels import channels as channels
    from filtersurgeon.inspection import Inspection as Inspection
    from filtersurgeon.inspection import inspect as inspect
    from filtersurgeon.learn.compare import Comparison as Comparison
    from filtersurgeon.learn.compare import ComparisonSettings as ComparisonSettings
    from filtersurgeon.learn.evaluate import EvaluationSettings as EvaluationSettings
    from filtersurgeon.learn.evaluating import compare as compare
    from filtersurgeon.learn.evaluating import evaluate as evaluate
    from filtersurgeon.learn.evaluation import Evaluation as Evaluation
    from filtersurgeon.learn.jobs import JobSettings as JobSettings
    from filtersurgeon.learn.segmentation import MaskEvaluation as MaskEvaluation
    from filtersurgeon.learn.session import TrainingStep as TrainingStep
    from filtersurgeon.learn.settings import RunSettings as RunSettings
    from filtersurgeon.learn.settings import TrainingRecipe as TrainingRecipe
    from filtersurgeon.learn.several_labels import MultiLabelEvaluation as MultiLabelEvaluation
    from filtersurgeon.learn.state import EpochRow as EpochRow
    from filtersurgeon.learn.train import TrainingResult as TrainingResult
    from filtersurgeon.learn.tuning import TrainingImages as TrainingImages
    from filtersurgeon.learn.tuning import TrainingStart as TrainingStart
    from filtersurgeon.learn.tuning import tune as tune
    from filtersurgeon.networks.build import build as build
    from filtersurgeon.networks.files import load as load
    from filtersurgeon.networks.files import save as save
    from filtersurgeon.networks.hub import untrained as untrained
    from filtersurgeon.plots.archetypes import draw_archetypes as draw_archetypes
    from filtersurgeon.plots.archetypes import draw_elbow as draw_elbow
    from filtersurgeon.plots.archetypes import draw_simplex as draw_simplex
    from filtersurgeon.plots.archetypes import draw_sorted_filters as draw_sorted_filters
    from filtersurgeon.plots.channel_map import draw_channels as draw_channels
    from filtersurgeon.plots.curves import draw_search as draw_search
    from filtersurgeon.plots.cut_plan import draw_plan as draw_plan
    from filtersurgeon.plots.heat_map import draw_basis as draw_basis
    from filtersurgeon.plots.heat_map import draw_explanation as draw_explanation
    from filtersurgeon.plots.pictures import draw_bank as draw_bank
    from filtersurgeon.plots.pictures import draw_before_after as draw_before_after
    from filtersurgeon.pruning.reconstruction.plan_file import CutPlan as CutPlan
    from filtersurgeon.pruning.report import PruneReport as PruneReport
    from filtersurgeon.pruning.worth import Worth as Worth
    from filtersurgeon.ranking import Ranking as Ranking
    from filtersurgeon.ranking import rank as rank
    from filtersurgeon.ranking.archetype_models import ArchetypeModels as ArchetypeModels
    from filtersurgeon.ranking.archetype_models import LayerArchetypes as LayerArchetypes
    from filtersurgeon.ranking.archetype_models import find_archetypes as find_archetypes
    from filtersurgeon.ranking.kernel_scores import KernelScores as KernelScores
    from filtersurgeon.ranking.kernel_scores import kernel_scores as kernel_scores
    from filtersurgeon.ranking.kernel_scores import read_kernel_scores as read_kernel_scores
    from filtersurgeon.ranking.kernel_scores import write_kernel_scores as write_kernel_scores
    from filtersurgeon.recipe import RecipeStep as RecipeStep
    from filtersurgeon.recipe import apply as apply
    from filtersurgeon.report.reporting import ReportSettings as ReportSettings
    from filtersurgeon.report.reporting import write_report as write_report
    from filtersurgeon.schemas import schema as schema
    from filtersurgeon.schemas import schema_names as schema_names
    from filtersurgeon.see.activations import Activations as Activations
    from filtersurgeon.see.activations import activations as activations
    from filtersurgeon.see.ascent import AscentSettings as AscentSettings
    from filtersurgeon.see.atlas import map_kernels as map_kernels
    from filtersurgeon.see.atlas_page import write_atlas as write_atlas
    from filtersurgeon.see.decoding import Decoded as Decoded
    from filtersurgeon.see.decoding import DecodeSettings as DecodeSettings
    from filtersurgeon.see.decoding import decode as decode
    from filtersurgeon.see.embedding import Embedding as Embedding
    from filtersurgeon.see.embedding import embed as embed
    from filtersurgeon.see.gradcam import GradCam as GradCam
    from filtersurgeon.see.gradcam import gradcam as gradcam
    from filtersurgeon.see.kernel_atlas import KernelAtlas as KernelAtlas
    from filtersurgeon.see.kernel_atlas import MappedLayer as MappedLayer
    from filtersurgeon.see.maximizing import Maximised as Maximised
    from filtersurgeon.see.maximizing import maximize as maximize
    from filtersurgeon.see.objectives import Objective as Objective
    from filtersurgeon.studies._lab import Lab as Lab
    from filtersurgeon.studies._lab import StudyResult as StudyResult
    from filtersurgeon.studies._lab import study as study
    from filtersurgeon.transforms._cut_to_target import prune_sweep as prune_sweep
    from filtersurgeon.transforms.convert import convert as convert
    from filtersurgeon.transforms.fabricate import LayerFabrication as LayerFabrication
    from filtersurgeon.transforms.fabricate import fabricate as fabricate
    from filtersurgeon.transforms.initialize import LayerInitialization as LayerInitialization
    from filtersurgeon.transforms.initialize import initialize as initialize
    from filtersurgeon.transforms.pack import pack as pack
    from filtersurgeon.transforms.packing.by_bank import BankLayerPacking as BankLayerPacking
    from filtersurgeon.transforms.packing.layer import LayerPacking as LayerPacking
    from filtersurgeon.transforms.predefined.report import ConversionReport as ConversionReport
    from filtersurgeon.transforms.prune import prune as prune
    from filtersurgeon.transforms.replace import LayerReplacement as LayerReplacement
    from filtersurgeon.transforms.replace import replace as replace
    from filtersurgeon.transforms.silence import LayerSilence as LayerSilence
    from filtersurgeon.transforms.silence import silence as silence
    from filtersurgeon.transforms.unpack import unpack as unpack
    from filtersurgeon.walk.record import read_walk as read_walk
    from filtersurgeon.walk.scene import Scene as Scene
    from filtersurgeon.walk.scene import WalkSettings as WalkSettings
    from filtersurgeon.walk.serving import serve_walk as serve_walk
    from filtersurgeon.walk.tour import Tour as Tour
    from filtersurgeon.walk.tour import TourStep as TourStep
    from filtersurgeon.walk.tour import read_tour as read_tour
    from filtersurgeon.walk.walking import walk as walk


class _Package(ModuleType):
    """The package; ``fs.explain`` and ``fs.walk`` stay functions once their packages are loaded."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'filtersurgeon' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


_announce()
sys.modules[__name__].__class__ = _Package
