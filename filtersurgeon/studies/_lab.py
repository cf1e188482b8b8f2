"""Studies: the papers' experiments, one file each in ``studies/``, and what they tell workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tensor import from_torch
from filtersurgeon.data.data import DataSpec, ImageRun, kind_of_labels, new_head, part_of
from filtersurgeon.data.kinds import CLASSES, check_kind
from filtersurgeon.data.splits import FIT
from filtersurgeon.errors import OptionError
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.learn.jobs import JobSettings
from filtersurgeon.learn.networks import fresh_model, open_network
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.networks.devices import find_device
from filtersurgeon.networks.files import load
from filtersurgeon.networks.in_memory import InMemory
from filtersurgeon.networks.opened_module import as_checkpoint
from filtersurgeon.plots.canvas import new_figure, write_figure
from filtersurgeon.ranking.method import kernel_methods
from filtersurgeon.registry import STUDIES
from filtersurgeon.studies._presets import with_preset

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from filtersurgeon.data.images import LabelledImages

_EVALUATION, _ONE_JOB = EvaluationSettings(), JobSettings()


@dataclass(frozen=True)
class Lab:
    """The network, images and settings of a study.

    Attributes:
        checkpoint: the network, or None; a module in memory is opened as one.
        source: the file or name that it was loaded from, which workers open for themselves.
        data: the images, or None.
        preprocess: values that replace those of the checkpoint's ``pretrained_cfg``.
        layers: globs of the layers to look at; None takes every spatial convolution.
        seed: of everything drawn.
        evaluation: batch size, device and so on.
        jobs: how many evaluations at a time, where, and where finished ones are kept.
        progress: told jobs done and jobs in all.
        tell: told which images are read, and what was changed for them.
        remarks: sentences for the result, which a study adds to.
    """

    checkpoint: Any = None
    source: str = "-"
    data: DataSpec | None = None
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    layers: Sequence[str] | None = None
    seed: int = 0
    evaluation: EvaluationSettings = _EVALUATION
    jobs: JobSettings = _ONE_JOB
    progress: Progress | None = None
    tell: Callable[[str], None] | None = None
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Open a module in memory."""
        if self.checkpoint is not None:
            object.__setattr__(self, "checkpoint", as_checkpoint(self.checkpoint))

    def network(self) -> Checkpoint:
        """Give the network.

        Raises:
            OptionError: there is none, or it came through a pipe, which workers cannot open.
        """
        if self.checkpoint is not None and isinstance(self.checkpoint.architecture, InMemory):
            raise OptionError(
                "this study opens the network again for every job; save the module's tensors to a "
                "file, load that, and pass its name as `source`"
            )
        if self.checkpoint is None or self.source == "-":
            raise OptionError("this study needs a network that workers can open: pass INPUT")
        return self.checkpoint

    def images(self) -> DataSpec:
        """Give the images to measure with; raises OptionError where there are none."""
        if self.data is None:
            raise OptionError("this study needs images: pass them with `data`")
        check_kind(kind_of_labels(self.data), (CLASSES,), str(self.data.source))
        self.note(*part_of(self.data).notes())
        return self.data

    def remark(self, text: str) -> None:
        """Tell a person something that belongs into the result, too."""
        self.note(text)
        self.remarks.append(text)

    def note(self, *texts: str) -> None:
        """Tell a person something."""
        for text in texts if self.tell else ():
            self.tell(text)  # type: ignore[misc]


@dataclass(frozen=True)
class Table:
    """What a person sees: a title, columns of name and alignment, and rows of cells."""

    title: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class StudyResult:
    """The result of a study: tables, curves and remarks.

    Attributes:
        name: the study's name.
        options: its options that differ from their defaults.
        findings: a JSON document, of the study's own form.
        tables: the same for people.
        remarks: what it means, in sentences.
        draw: draws it into an empty figure; None where there is nothing to draw.
    """

    name: str
    options: Mapping[str, Any]
    findings: Mapping[str, Any]
    tables: Sequence[Table]
    remarks: Sequence[str] = ()
    draw: Callable[[Figure], None] | None = None

    def __repr__(self) -> str:
        entries = (f"{table.title}: {len(table.rows)} rows" for table in self.tables)
        return summarise(
            self,
            entries,
            name=self.name,
            options=dict(self.options) or None,
            findings=", ".join(self.findings),
            remarks=len(self.remarks) or None,
        )

    def to_json(self) -> dict[str, Any]:
        """Give the study in its JSON schema, ``filtersurgeon.study/1``."""
        return {
            "schema": "filtersurgeon.study/1",
            "study": self.name,
            "options": dict(self.options),
            **self.findings,
            "remarks": list(self.remarks),
        }


def study(name: str, lab: Lab, options: Mapping[str, Any] | None = None) -> StudyResult:
    """Reproduce an experiment of a paper.

    Args:
        name: the name of a file in ``studies``.
        lab: the network, the images, and how to evaluate.
        options: the study's own.

    Raises:
        OptionError: an unknown study or option, or something that it needs is missing.
        LayerError: the network has no layers for it.
        DataError: the images do not fit the network.

    Examples:
        >>> import filtersurgeon as fs
        >>> lab = fs.Lab(fs.untrained("timm:test_resnet"), "timm:test_resnet")
        >>> result = fs.study("storage", lab)
        >>> result.name, result.findings["rows"][0]["network"]
        ('storage', 'resnet50')
    """
    bound = STUDIES.bind(name, with_preset(name, options or {}))
    lab = replace(lab, remarks=[])
    findings: StudyResult = STUDIES.function(name)(lab, **bound)
    return replace(findings, remarks=[*findings.remarks, *lab.remarks])


def draw_study(found: StudyResult, path: str | Path) -> None:
    """Draw what a study found.

    Raises:
        OptionError: it has nothing to draw.
        CheckpointError: the file cannot be written.
    """
    if found.draw is None:
        raise OptionError(f"study {found.name} has no picture")
    figure = new_figure(7, 4.2)
    figure.set_layout_engine("constrained")
    found.draw(figure)
    write_figure(figure, path)


def changed_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Give those options of a study that differ from their defaults.

    Args:
        name: the study's.
        given: its options, by name.
    """
    defaults = STUDIES.options(name)
    return {key: value for key, value in given.items() if value != defaults[key].default}


def words(text: str, known: Iterable[str], option: str) -> list[str]:
    """Split a list of words, each of which must be known; raises OptionError."""
    found, allowed = [word.strip() for word in text.split(",")], list(known)
    unknown = [word for word in found if word not in allowed]
    if unknown:
        raise OptionError(f"{option}: {unknown[0]!r} is none of {', '.join(allowed)}")
    return list(dict.fromkeys(found))


def scoring_options(method: str, gradient: bool) -> dict[str, Any]:
    """Give the options of a method that scores kernels.

    Args:
        method: a ranking method.
        gradient: score by the magnitude of the gradient alone; of ``saliency``.

    Raises:
        OptionError: the method scores no kernels, or takes no gradient.
    """
    words(method, kernel_methods(), "method")
    if gradient and method != "saliency":
        raise OptionError("gradient=true is a form of saliency; leave method out")
    return {"gradient": True} if gradient else {}


def percentages(text: str, option: str) -> list[float]:
    """Read a list of percentages as shares in ascending order; raises OptionError."""
    try:
        found = sorted({float(word.strip().rstrip("%")) / 100 for word in text.split(",")})
    except ValueError:
        raise OptionError(f"{option}={text} should be percentages, such as 5,10") from None
    if not all(0 < share < 1 for share in found):
        raise OptionError(f"{option}={text} should lie above 0 and below 100")
    return found


def slopes_of(text: str, option: str = "slopes") -> list[float]:
    """Read slopes of rectifiers in ascending order; raises OptionError."""
    try:
        found = sorted({float(word) for word in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(0 < slope <= 1 for slope in found):
        raise OptionError(f"{option}={text} should be numbers above 0 to 1, such as 0.1,0.2")
    return found


def network_plan(lab: Lab) -> dict[str, Any]:
    """Say where the network is, and which of its layers are meant.

    Its digest is among the words, so that the cache of jobs notices when the file changed.
    """
    network = lab.network()
    return {
        "network": {
            "source": lab.source,
            "digest": network.digest,
            "architecture": network.architecture,
            "preprocess": dict(lab.preprocess),
            "layers": list(lab.layers or ()),
        }
    }


def open_for_worker(network: Mapping[str, Any]) -> Checkpoint:
    """Open the network of a plan.

    Args:
        network: as :func:`network_plan` describes it.
    """
    return load(network["source"], arch=network["architecture"])


def fresh_networks(
    lab: Lab, checkpoint: Checkpoint, images: LabelledImages, repeats: int, batch: int
) -> Iterator[tuple[nn.Module, list[Any]]]:
    """Initialise a network anew for every repeat, and draw other images.

    Args:
        lab: the seed, the device, and what shows the progress.
        checkpoint: whose architecture is meant.
        images: to draw from.
        repeats: how many.
        batch: images per repeat at most.

    Yields:
        The new network on the lab's device, and pairs of an image ``(channels, height, width)``
        and its label.
    """
    device = find_device(lab.evaluation.device)
    for repeat in range(repeats):
        chance = np.random.default_rng([lab.seed, repeat])
        chosen = chance.choice(len(images), size=min(batch, len(images)), replace=False)
        pairs = [images[int(i)] for i in chosen]
        yield fresh_model(checkpoint, None, lab.seed + repeat).to(device), pairs
        if lab.progress:
            lab.progress(repeat + 1, repeats)


def make_untrained(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """Give a network of the same architecture as that initialises it."""
    state = fresh_model(checkpoint, None, seed).state_dict()
    return Checkpoint(
        {name: from_torch(tensor, name) for name, tensor in state.items()},
        checkpoint.name,
        architecture=checkpoint.architecture,
        pretrained_cfg=checkpoint.pretrained_cfg,
    )


def image_run(
    images: Mapping[str, Any] | None, network: Mapping[str, Any], settings: EvaluationSettings
) -> ImageRun | None:
    """Say which images a method looks at, and how; None where it looks at none.

    Args:
        images: the fields of a ``DataSpec``.
        network: as :func:`network_plan` describes it.
        settings: how to evaluate.
    """
    if images is None:
        return None
    spec = DataSpec(**images)
    return ImageRun(spec, network["preprocess"], settings.workers, settings.device)


def network_words(lab: Lab) -> dict[str, Any]:
    """Say where the network is, on which images it is judged, and how."""
    return {
        **network_plan(lab),
        "test": asdict(lab.images()),
        "evaluation": asdict(lab.evaluation),
        "seed": lab.seed,
    }


def training_images(lab: Lab, train: str, subset: int) -> dict[str, Any]:
    """Say which images to learn from.

    Args:
        lab: the images to check on.
        train: images to learn from; none for the training split of the lab's.
        subset: so many of them, drawn by the lab's seed; 0 takes all.
    """
    images = lab.images()
    labels = None if train else images.labels
    root = None if train and Path(train).exists() else images.root
    spec = DataSpec(train or images.source, None, labels, root, subset or None, lab.seed)
    learnt, measured = part_of(spec, FIT), part_of(images)
    lab.note(*learnt.notes())
    if spec.source == images.source and learnt.described() == measured.described():
        lab.remark(
            f"warning: {learnt.data} has no training images of its own, so accuracy is measured on "
            "the images that weights are fitted with; name others with the parameter train=DATA"
        )
    return asdict(spec)


def head_plan(lab: Lab, train: Mapping[str, Any]) -> dict[str, Any]:
    """Say how many classes a new head has, which a network for other classes needs.

    Args:
        lab: the network.
        train: the fields of a ``DataSpec``, the images to learn from.

    Returns:
        ``classes``: outputs of the new head; None where the network's own head fits.
    """
    checkpoint = lab.checkpoint or lab.network()
    outputs = open_network(checkpoint, lab.preprocess).n_classes
    count = new_head(DataSpec(**train), outputs)
    if count is not None:
        lab.remark(f"a new head of {count} classes replaces the network's head of {outputs}")
    return {"classes": count}


def learning_plan(lab: Lab, epochs: int, lr: float) -> dict[str, Any]:
    """Say how to learn: Adam at a fixed learning rate."""
    evaluation = lab.evaluation
    run = RunSettings(
        epochs, evaluation.batch_size, workers=evaluation.workers, device=evaluation.device
    )
    recipe = TrainingRecipe(optimizer="adam", lr=lr, weight_decay=0.0, schedule="none")
    return {"recipe": asdict(recipe), "run": asdict(run)}


def training_plan(lab: Lab, train: str, subset: int, epochs: int, lr: float) -> dict[str, Any]:
    """Say what to learn from and what to check on; Adam at a fixed learning rate.

    Args:
        lab: the images to check on, and how to evaluate.
        train: images to learn from; none for the training split of the lab's.
        subset: learn from so many of them; 0 takes all.
        epochs: passes over them.
        lr: learning rate.
    """
    images = training_images(lab, train, subset)
    return {
        "train": images,
        "test": asdict(replace(lab.images(), seed=lab.seed)),
        **head_plan(lab, images),
        **learning_plan(lab, epochs, lr),
    }
