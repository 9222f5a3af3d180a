"""Matrix games, solved by the simplex method: small linear programs for the multipliers of a Lagrangian bound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TINY = 1e-11
_PIVOTS = 300


def solve_game(payoff: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Mixed strategies of both players and the game's value.

    The player of columns wants much, the player of rows little: the returned column weights earn at least the value
    against each row, the returned row weights pay at most the value against each column. To floating-point accuracy;
    a game that has not ended after 300 pivots returns what it has, still two sets of weights that sum to 1.
    """
    rows, columns = payoff.shape
    lift = 1 - float(payoff.min())
    # In the lifted game all payoffs are at least 1: maximise sum(y) such that y (rows) @ payoff <= 1, y >= 0.
    tableau = np.zeros((columns + 1, rows + columns + 1))
    tableau[:columns, :rows] = (payoff + lift).T
    tableau[:columns, rows : rows + columns] = np.eye(columns)
    tableau[:columns, -1] = 1
    tableau[columns, :rows] = -1
    basis = list(range(rows, rows + columns))
    for pivot in range(_PIVOTS):
        costs = tableau[columns, :-1]
        # The steepest column is quick; the first one (Bland) cannot cycle.
        enters = int(np.argmin(costs)) if pivot < _PIVOTS // 2 else int(np.argmax(costs < -_TINY))
        if costs[enters] >= -_TINY:
            break
        column = tableau[:columns, enters]
        ratios = np.full(columns, np.inf)
        np.divide(tableau[:columns, -1], column, out=ratios, where=column > _TINY)
        leaves = int(np.argmin(ratios))
        if not np.isfinite(ratios[leaves]):
            break
        tableau[leaves] /= tableau[leaves, enters]
        others = np.arange(columns + 1) != leaves
        tableau[others] -= np.outer(tableau[others, enters], tableau[leaves])
        basis[leaves] = enters
    by_row = np.zeros(rows)
    for place, variable in enumerate(basis):
        if variable < rows:
            by_row[variable] = max(0.0, tableau[place, -1])
    by_column = tableau[columns, rows : rows + columns].clip(0)
    total = float(by_column.sum())
    if not total > 0 or not by_row.sum() > 0:
        return np.full(columns, 1 / columns), np.full(rows, 1 / rows), float(payoff.mean(axis=1).min())
    weights = by_column / total
    return weights, by_row / by_row.sum(), float((payoff @ weights).min())
