"""Fine-tune a checkpoint's network, optionally with frozen layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint import Checkpoint, HistoryEntry
from filtersurgeon.checkpoint.tensor import from_torch
from filtersurgeon.data.data import DataSpec, as_spec, open_data, part_of
from filtersurgeon.data.generated import LabelNoise, add_label_noise
from filtersurgeon.data.images import LabelledImages
from filtersurgeon.data.kinds import ALL_KINDS, CLASSES, kind_of
from filtersurgeon.data.labels import names_of_classes
from filtersurgeon.data.preprocess import Augmentation
from filtersurgeon.data.reading import has_labels
from filtersurgeon.data.sources import FileImages
from filtersurgeon.data.splits import FIT, MEASURE, TEST, TRAIN
from filtersurgeon.errors import DivergedError, OptionError, TrainingError
from filtersurgeon.learn import engine
from filtersurgeon.learn.networks import Network, classifier, fresh_model, open_network, running
from filtersurgeon.learn.session import TrainingData, TrainingStep
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.state import EpochRow
from filtersurgeon.learn.train import TrainingResult, frozen_layers, train
from filtersurgeon.networks.architecture import identify
from filtersurgeon.networks.files import save
from filtersurgeon.networks.opened_module import open_like, trains_modules
from filtersurgeon.networks.structure.plain_weights import weight_tensors

if TYPE_CHECKING:
    from torch import nn

LAST_GOOD = "last_good.safetensors"


@dataclass(frozen=True)
class TrainingImages:
    """The training and validation images.

    Attributes:
        train: images to learn from.
        validation: images to check every epoch on, or None.
        augmentation: random changes of the training images, or None.
        label_noise: the label noise of the training images, if any.
        labelled: use the labels of the training images; if not, or where they have none, the
            teacher alone is learnt from.
    """

    train: DataSpec
    validation: DataSpec | None = None
    augmentation: Augmentation | None = None
    label_noise: LabelNoise = field(default_factory=LabelNoise)
    labelled: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", as_spec(self.train))
        if self.validation is not None:
            object.__setattr__(self, "validation", as_spec(self.validation))


@dataclass(frozen=True)
class TrainingStart:
    """The initial state of training.

    Attributes:
        scratch: reset everything that is not frozen, as the architecture initialises it.
        n_classes: give the network a new classifier of so many outputs; None keeps its own.
        preprocess: values that replace those of the checkpoint's ``pretrained_cfg``, also in the
            result.
    """

    scratch: bool = False
    n_classes: int | None = None
    preprocess: Mapping[str, Any] = field(default_factory=dict)


@trains_modules
def tune(
    checkpoint: Checkpoint,
    images: TrainingImages,
    recipe: TrainingRecipe,
    run: RunSettings,
    *,
    start: TrainingStart = TrainingStart(),
    teacher: Checkpoint | nn.Module | None = None,
    progress: Callable[[TrainingStep], None] | None = None,
    on_epoch: Callable[[EpochRow], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> tuple[Checkpoint, TrainingResult]:
    """Fine-tune a network, or train it from scratch.

    Source of what may be frozen: ``spatial``, all spatial filters (Gaudio et al.,
    *ExplainFix*, section 4); ``depthwise``, depthwise filters but for an additive bias per kernel,
    ``x + b`` (Babaiee et al., *We Need Far Fewer Unique Filters*, section 4.1). With a teacher the
    network also learns from its outputs and features (see ``learn/distillation.py``).

    Instead of a checkpoint, it takes a module in memory, with its ``example_inputs`` by name, and
    gives a trained module of the same class, device, types, modes and hooks. The module stays as it
    is, unless ``copy=False``. Parameters that are frozen in the module stay as they are.

    Args:
        checkpoint: where to begin.
        images: what to learn from.
        recipe: how to learn, and what to freeze.
        run: for how long, where, in which precision.
        start: whether to begin from scratch or with a new classifier, and how images are fed.
        teacher: a network of the same classes and images to learn from too, such as the original
            of a pruned network; it does not change. A checkpoint or a module.
        progress: called after every step.
        on_epoch: called after every epoch.
        tell: told what was converted or left out.

    Returns:
        The trained checkpoint, its tensors in the types of the original, and the history.

    Raises:
        DivergedError: the loss is not finite (names the step); the run's folder, if there is
            one, then holds the last good network as ``last_good.safetensors``.
        TrainingError: there is nothing to train, or the folder holds another run.
        ArchitectureError: the network does not take such images, or so many classes.
        DataError: the images do not fit the network.
        OptionError: unusable settings.
        OutOfMemoryError: a batch does not fit.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet", num_classes=2)
        >>> images = fs.TrainingImages(fs.DataSpec("dashes", subset=8))
        >>> recipe = fs.TrainingRecipe(freeze="spatial")
        >>> run = fs.RunSettings(epochs=1, batch_size=4)
        >>> tuned, result = fs.tune(checkpoint, images, recipe, run)
        >>> tuned["conv1.0.weight"].array().shape, result.frozen[0]
        ((16, 3, 3, 3), 'conv1.0')
        >>> tuned["conv1.0.weight"].raw() == checkpoint["conv1.0.weight"].raw()
        True
    """
    if teacher is not None:
        teacher = open_like(teacher, checkpoint)
    checkpoint = identify(checkpoint)
    opened_network = open_network(checkpoint, start.preprocess, parts=True)
    network = _begin(opened_network, checkpoint, start, recipe, run.seed)
    labelled = _has_labels(images, teacher)
    opened = _open_images(images, network, labelled)
    origin = _origin(checkpoint, images, recipe, run, start, teacher)
    options, warning = origin["options"], _find_warning(images, run)
    notes = [text for data in opened for text in data.notes]
    notes += [f"warning: {warning}; accuracy on that split will read too high"] if warning else []
    for text in dict.fromkeys(notes) if tell else ():
        tell(text)  # type: ignore[misc]
    used = part_of(images.train, FIT).described()
    validation = opened[1] if len(opened) > 1 else None
    train_images = add_label_noise(opened[0], images.label_noise, network.n_classes, run.seed)
    data = TrainingData(
        train_images, validation, network.n_classes, _open_teacher(teacher, network, start),
        labelled, origin,
    )  # fmt: skip
    known = {} if teacher is None else {"teacher": teacher.digest}
    try:
        with running(network.name):
            result = train(network.model, data, recipe, run, progress, on_epoch)
    except DivergedError as problem:
        entry = HistoryEntry(
            "tune", {**options, "diverged": True}, resources=known, data=used, warning=warning
        )
        good = _collect_trained(checkpoint, network.model.cpu(), entry, start)
        raise DivergedError(f"{problem}{_keep(good, run.folder)}") from problem
    entry = HistoryEntry("tune", options, resources=known, data=used, warning=warning)
    tuned = _collect_trained(checkpoint, network.model.cpu(), entry, start)
    names = _name_classes(opened[0], network.n_classes) if labelled else []
    return _with_class_names(tuned, names), result


def _open_images(images: TrainingImages, network: Network, labelled: bool) -> list[LabelledImages]:
    """Open the images to learn from and, if there are any, those to check on."""
    expected, count = network.preprocessing, network.n_classes
    train = open_data(
        images.train, expected, count, images.augmentation, use=FIT, labelled=labelled,
        kinds=ALL_KINDS,
    )  # fmt: skip
    check = images.validation
    if check is None:
        return [train]
    if train.class_names and check.labels and not check.columns:
        # The same classes in the same order, also where a column of them has no known label.
        check = replace(check, columns=train.class_names)
    kinds = (train.kind,) if labelled else (CLASSES,)
    return [train, open_data(check, expected, count, use=MEASURE, kinds=kinds)]


def _name_classes(images: LabelledImages, n_classes: int) -> list[str]:
    """Name the classes that were learnt, where the images do, or their folders."""
    source = images.source
    if images.class_names:
        return list(images.class_names)
    if not isinstance(source, FileImages) or kind_of(source.labels) != CLASSES:
        return []
    return names_of_classes(source.paths, source.labels, source.root, n_classes)


def _with_class_names(tuned: Checkpoint, names: list[str]) -> Checkpoint:
    """Store the names of classes, unless the checkpoint has some for as many classes."""
    cfg = dict(tuned.pretrained_cfg or {})
    if not names or len(cfg.get("label_names") or ()) == len(names):
        return tuned
    return replace(tuned, pretrained_cfg={**cfg, "label_names": names})


def _has_labels(images: TrainingImages, teacher: Checkpoint | None) -> bool:
    """Tell whether labels are learnt from; refuse what cannot be without a teacher, or labels."""
    spec = images.train
    labelled = images.labelled and (
        teacher is None or has_labels(spec.source, part_of(spec, FIT), spec.labels)
    )
    if not labelled and teacher is None:
        raise OptionError("images without labels need a teacher")
    if not labelled and images.label_noise != LabelNoise():
        raise OptionError("label noise needs images with labels")
    return labelled


def _open_teacher(
    teacher: Checkpoint | None, network: Network, start: TrainingStart
) -> nn.Module | None:
    """Build the teacher of a network.

    Raises:
        TrainingError: it has other classes, or expects other images.
    """
    if teacher is None:
        return None
    opened = open_network(identify(teacher), start.preprocess)
    if opened.n_classes != network.n_classes:
        raise TrainingError(
            f"{opened.name}: gives {opened.n_classes} classes but {network.name} gives "
            f"{network.n_classes}; a teacher needs the same classes"
        )
    own, other = network.preprocessing, opened.preprocessing
    for word in ("input_size", "mean", "std"):
        expected, found = getattr(own, word), getattr(other, word)
        if expected and found and tuple(expected) != tuple(found):
            first, second = (",".join(f"{value:g}" for value in each) for each in (found, expected))
            raise TrainingError(
                f"{opened.name}: expects images of {word} {first}, {network.name} of {second}; "
                f"set both with `preprocess` {word}={second}"
            )
    return opened.model


def _find_warning(images: TrainingImages, run: RunSettings) -> str:
    """Say for the history what is wrong with the images that weights are chosen with."""
    fitted = part_of(images.train, FIT).warning
    if fitted or not run.patience or images.validation is None:
        return fitted
    part = part_of(images.validation)
    # Images that were named for validation alone need not be those of a later test.
    if part.split != TEST or images.validation.source != images.train.source:
        return ""
    return f"the best epoch is chosen with the test split of {part.data}"


def _keep(last_good: Checkpoint, folder: str | None) -> str:
    """Write the last good network into the run's folder, and say so."""
    if folder is None:
        return "; give the run a folder to keep that state"
    if engine.is_first_process():
        save(last_good, Path(folder) / LAST_GOOD, force=True)
    return f"; the network is in {Path(folder) / LAST_GOOD}"


def _begin(
    network: Network,
    checkpoint: Checkpoint,
    start: TrainingStart,
    recipe: TrainingRecipe,
    seed: int,
) -> Network:
    """Reset what the start asks for."""
    if not start.scratch and start.n_classes is None:
        return network
    n_classes = start.n_classes or network.n_classes
    other = None if n_classes == network.n_classes else n_classes
    fresh = fresh_model(checkpoint, other, seed)
    reset = f"{classifier(fresh)[0]}." if start.n_classes is not None else None
    held = {
        f"{name}.{tensor}"
        for name in frozen_layers(network.model, recipe.freeze)
        for tensor in weight_tensors(network.model.get_submodule(name))
    }
    own = {name: tensor.shape for name, tensor in fresh.state_dict().items()}
    kept = {
        name: tensor
        for name, tensor in network.model.state_dict().items()
        if own.get(name) == tensor.shape
        and (name in held or not start.scratch)
        and not (reset and name.startswith(reset))
    }
    fresh.load_state_dict(kept, strict=False)
    return replace(network, model=fresh.eval(), n_classes=n_classes)


def _collect_trained(
    checkpoint: Checkpoint, model: nn.Module, entry: HistoryEntry, start: TrainingStart
) -> Checkpoint:
    """Put a network's tensors, in the types of the original's, in the place of those."""
    from filtersurgeon.checkpoint.tensor import torch_dtypes

    known = torch_dtypes()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name in checkpoint:
            tensor = tensor.to(known[checkpoint[name].dtype])
        tensors[name] = from_torch(tensor, name)
    known_tensors = {name: tensor for name, tensor in tensors.items() if name in checkpoint}
    edited = checkpoint.edited(entry, known_tensors, "tuned")
    cfg = {**(checkpoint.pretrained_cfg or {}), **start.preprocess}
    if start.n_classes is not None:
        cfg["num_classes"] = start.n_classes
    return replace(edited, tensors=tensors, pretrained_cfg=cfg or None)


def _origin(
    checkpoint: Checkpoint,
    images: TrainingImages,
    recipe: TrainingRecipe,
    run: RunSettings,
    start: TrainingStart,
    teacher: Checkpoint | None,
) -> dict[str, Any]:
    """List what else must be the same for a run to go on.

    Raises:
        OptionError: settings of a teacher without one.
    """
    options = _options(images, recipe, run, start)
    if teacher is None:
        for name in ("temperature", "teacher_weight", "feature_weight"):
            if name in options:
                raise OptionError(f"{name} is for learning from a teacher; pass one with `teacher`")
        return {"checkpoint": checkpoint.digest, "options": options}
    return {"checkpoint": checkpoint.digest, "options": options, "teacher": teacher.digest}


def _options(
    images: TrainingImages, recipe: TrainingRecipe, run: RunSettings, start: TrainingStart
) -> dict[str, Any]:
    """List what differs from the defaults and decides the result; no paths."""
    decisive = ("epochs", "batch_size", "accumulate", "precision", "seed", "patience")
    given = {
        **_list_changes(recipe, TrainingRecipe()),
        **{k: v for k, v in _list_changes(run, RunSettings()).items() if k in decisive},
        **_list_changes(start, TrainingStart()),
    }
    if images.train.split not in (None, TRAIN):
        given["split"] = images.train.split
    if images.train.subset is not None:
        given["subset"] = images.train.subset
    if not images.labelled:
        given["labelled"] = False
    if images.augmentation is not None:
        given["augment"] = _list_changes(images.augmentation, Augmentation())
    return given | images.label_noise.options()


def _list_changes(settings: Any, defaults: Any) -> dict[str, Any]:
    base = asdict(defaults)
    return {key: value for key, value in asdict(settings).items() if value != base[key]}
