"""Replace the activations of a network, or its convolutions by pre-defined filter modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from filtersurgeon.banks import FilterBank
from filtersurgeon.checkpoint import Checkpoint, HistoryEntry
from filtersurgeon.errors import ArchitectureError, OptionError
from filtersurgeon.filters import as_globs
from filtersurgeon.networks.modules.rectifier_kinds import check_kind
from filtersurgeon.networks.opened_module import transforms_modules
from filtersurgeon.transforms.predefined.report import ConversionReport
from filtersurgeon.transforms.predefined.settings import ModuleSettings

DEFAULT_SLOPE = 0.1


@transforms_modules
def convert(
    checkpoint: Checkpoint,
    *,
    activation: str | None = None,
    slope: float | None = None,
    module: str | None = None,
    bank: str | FilterBank | None = None,
    growth: int | None = None,
    relu: bool | None = None,
    trainable: bool = False,
    own_filters: bool = False,
    smooth_skips: bool | None = None,
    from_weights: bool = False,
    layers: Iterable[str] | None = None,
    seed: int = 0,
    observe: Callable[[ConversionReport], None] | None = None,
) -> Checkpoint:
    """Replace the activations of a network, or its convolutions by pre-defined filter modules.

    With ``activation``, rectifiers (ReLU, ReLU6, Leaky ReLU) and smooth activations (GELU, SiLU,
    ...) are replaced, a cap such as that of ReLU6 stays, and so do gates; no tensor changes.
    Source of ProxyGrad: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, section 5.4.

    With ``module``, a convolution becomes the filters of a bank on every channel, a batch
    normalisation, a ReLU, and a trainable pointwise convolution; where the network does not
    normalise the result, the module does. Source: the same, Eq. 1.6, 1.7 and 7.1.
    Kernels of a size that the bank does not have give way to the bank's own. Pointwise weights
    are drawn anew (He et al., *Delving Deep into Rectifiers*, Eq. 10), or with ``from_weights``
    found by least squares (Eq. 1.4); the module is then linear and has no normalisation.

    What takes the place of what is in the checkpoint's ``structure``, which ``build`` follows.

    Args:
        checkpoint: the network.
        activation: ``relu``; ``leaky-relu``, which leaks in both passes; or ``proxygrad``, which
            leaks in the backward pass only.
        slope: of the activation below zero, 0 to 1, by default 0.1; ``relu`` has none.
        module: ``pfm``, every filter on every channel; or ``reduced-pfm``, one filter per
            channel, except on those of the image.
        bank: a bank's name or file, or a bank; ``edge-line-16`` by default.
        growth: filters per channel (f in Eq. 7.1), instead of all or one.
        relu: rectify the filters' results; by default unless ``from_weights``.
        trainable: let the filters learn, one set for the network.
        own_filters: let every module learn its own.
        smooth_skips: smooth what strided 1x1 convolutions read, by a Gaussian of sigma 0.75
            (section 6.6); by default unless ``from_weights``.
        from_weights: express the trained kernels in the bank.
        layers: globs of the convolutions; None takes all that can be exchanged.
        seed: of the pointwise weights.
        observe: told what became modules, what did not and why, and the sizes.

    Returns:
        The converted checkpoint.

    Raises:
        OptionError: an unknown activation, module or bank, or values that exclude each other.
        ArchitectureError: the network cannot be built, or has no activation to replace.
        LayerError: no convolution can be exchanged.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> fs.convert(checkpoint, activation="proxygrad").structure[0]["kind"]
        'proxygrad'
        >>> converted = fs.convert(checkpoint, module="pfm", layers=["conv1.0"])
        >>> converted["conv1.0.bank.filters"].shape, converted["conv1.0.pointwise.weight"].shape
        ((16, 3, 3), (16, 48, 1, 1))
    """
    if (activation is None) == (module is None):
        raise OptionError("pass exactly one of `activation` and `module`")
    given: dict[str, Any] = {
        "bank": bank, "growth": growth, "relu": relu, "trainable": trainable,
        "own_filters": own_filters, "smooth_skips": smooth_skips, "from_weights": from_weights,
        "layers": tuple(as_globs(layers)), "seed": seed,
    }  # fmt: skip
    usual = {"trainable": False, "own_filters": False, "from_weights": False, "layers": (),
             "seed": 0}  # fmt: skip
    said = {key: value for key, value in given.items() if value != usual.get(key)}
    if activation is not None:
        if said:
            raise OptionError(f"`{next(iter(said))}` needs `module`")
        return _convert_activations(checkpoint, activation, slope)
    if slope is not None:
        raise OptionError("`slope` needs `activation`")
    assert module is not None
    return _convert_modules(checkpoint, {"module": module, **said}, observe)


def _convert_activations(
    checkpoint: Checkpoint, activation: str, slope: float | None
) -> Checkpoint:
    slope = DEFAULT_SLOPE if slope is None else slope
    check_kind(activation, slope)
    slope = 0.0 if activation == "relu" else slope
    from filtersurgeon.networks.architecture import identify

    checkpoint = identify(checkpoint)
    functions = _calls_functions(checkpoint)
    edit = {"edit": "activation", "kind": activation, "slope": slope, "functions": functions}
    kept = [x for x in checkpoint.structure if x.get("edit") != "activation"]
    options = {"activation": activation, **({"slope": slope} if slope else {})}
    edited = checkpoint.edited(HistoryEntry("convert", options), {}, "")
    return replace(edited, structure=(*kept, edit))


def _calls_functions(checkpoint: Checkpoint) -> bool:
    """Tell whether activations are called as functions, by running the network once."""
    import torch

    from filtersurgeon.learn.networks import open_network, running
    from filtersurgeon.networks.modules.rectifiers import calls_functions, swap_modules

    network = open_network(checkpoint)
    size = network.preprocessing.input_size or (network.preprocessing.channels, 224, 224)
    with running(checkpoint.name):
        functions = calls_functions(network.model, torch.zeros((1, *size)))
    if functions:
        return True
    if not swap_modules(network.model, "relu", 0.0):
        raise ArchitectureError(f"{checkpoint.name} has no activation that could be replaced")
    return False


def _convert_modules(
    checkpoint: Checkpoint,
    said: dict[str, Any],
    observe: Callable[[ConversionReport], None] | None,
) -> Checkpoint:
    from filtersurgeon.banks.bank import load_bank

    settings = ModuleSettings(**said)
    checkpoint.check_unpacked()
    # The history names a bank, wherever it came from; a path is nobody's business.
    options = {**said, "bank": load_bank(settings.bank).name}
    if "layers" in options:
        options["layers"] = list(options["layers"])
    from filtersurgeon.transforms.predefined.conversion import convert_modules

    converted, report = convert_modules(checkpoint, settings, HistoryEntry("convert", options))
    if observe:
        observe(report)
    return converted
