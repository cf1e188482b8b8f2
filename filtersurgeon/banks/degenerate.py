"""Members of a bank that give no kernel which others do not give."""

from __future__ import annotations

import numpy as np

from filtersurgeon.banks.bank import FilterBank
from filtersurgeon.banks.closest import unit_bank

_SAME = 1e-9  # 1 - |cosine| below which two members are one to a linear transform


def degenerate_members(bank: FilterBank, bias: bool = True) -> list[str]:
    """Say which members are constant, or the same as an earlier one but for scale and offset.

    Args:
        bank: K members.
        bias: an offset is fitted too; without it, constants are members like others and an offset
            makes a difference, and only zeros are of no use.

    Returns:
        A clause for each such member.
    """
    unit = unit_bank(bank.kernels.reshape(len(bank), -1), bias)
    cosines = np.abs(unit @ unit.T)
    found = []
    for k, label in enumerate(bank.labels):
        if not unit[k].any():
            found.append(f"member {label} is {'constant' if bias else 'zero'}")
        elif (twins := np.flatnonzero(cosines[k, :k] > 1 - _SAME)).size:
            found.append(f"member {label} is a multiple of member {bank.labels[twins[0]]}")
    return found
