"""Filter banks: K named kernels of one spatial size."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from filtersurgeon.checkpoint.summary import summarise

SCHEMA = "filtersurgeon.bank/1"

Size = tuple[int, int]


@dataclass(frozen=True)
class FilterBank:
    """K kernels of one size.

    Attributes:
        name: what users call it.
        kernels: ``(K, kh, kw)`` float64.
        labels: one name for each kernel.
        description: what it is and where it comes from.

    Examples:
        >>> import numpy as np
        >>> import filtersurgeon as fs
        >>> kernels = np.array([[[-1.0, 0, 1]] * 3, [[1, 1, 1], [0, 0, 0], [-1, -1, -1]]])
        >>> bank = fs.FilterBank("prewitt", kernels, ("x", "y"))
        >>> bank
        FilterBank(name='prewitt', kernels=2, size='3x3')
          x
          y
        >>> bank.kernel_size, bank.kernels.shape
        ((3, 3), (2, 3, 3))
    """

    name: str
    kernels: np.ndarray
    labels: tuple[str, ...]
    description: str = ""

    def __repr__(self) -> str:
        size = "x".join(map(str, self.kernels.shape[1:]))
        return summarise(self, self.labels, name=self.name, kernels=len(self.kernels), size=size)

    def __len__(self) -> int:
        return len(self.kernels)

    @property
    def kernel_size(self) -> Size:
        """Height and width of every kernel."""
        return self.kernels.shape[1], self.kernels.shape[2]

    @property
    def digest(self) -> str:
        """SHA-256 of the kernels, which identifies a bank whatever its file is called."""
        text = f"{self.kernels.shape}".encode() + self.kernels.astype("<f8").tobytes()
        return f"sha256:{hashlib.sha256(text).hexdigest()}"

    def to_json(self) -> dict[str, Any]:
        """Give the bank in its JSON schema, ``filtersurgeon.bank/1``."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "description": self.description,
            "labels": list(self.labels),
            "kernels": self.kernels.tolist(),
        }
