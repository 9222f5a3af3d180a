"""Least squares whose coefficients cannot be negative: no resource of a machine takes negative time. Knows no torch."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

_MOST_COLUMNS = 8  # 255 small systems


def fit_nonnegative(rows: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """The coefficients, none below 0, with the least sum of squared ``rows @ coefficients - targets``.

    Exact: the best solution is the ordinary one of some subset of the columns, and all subsets are tried.

    Raises:
        ValueError: the shapes do not fit, or there are more than eight columns.
    """
    if rows.ndim != 2 or targets.shape != rows.shape[:1] or not 1 <= rows.shape[1] <= _MOST_COLUMNS:
        raise ValueError(f"rows (n, 1 to {_MOST_COLUMNS}) and targets (n,) are needed: {rows.shape}, {targets.shape}")
    # Columns in units of their size: FLOPs and bytes differ by orders of magnitude, which would cost precision.
    units = np.linalg.norm(rows, axis=0)
    used = [int(column) for column in np.flatnonzero(units)]
    best, least = np.zeros(rows.shape[1]), float(targets @ targets)
    for size in range(1, len(used) + 1):
        for subset in map(list, combinations(used, size)):
            found, *_ = np.linalg.lstsq(rows[:, subset] / units[subset], targets, rcond=None)
            if (found < 0).any():
                continue
            residual = rows[:, subset] @ (found / units[subset]) - targets
            if (error := float(residual @ residual)) < least:
                best, least = np.zeros(rows.shape[1]), error
                best[subset] = found / units[subset]
    return best
