"""Order and place of nodes in rows with lines between them: few crossings, and children near their parents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_N_SWEEPS = 8


def arrange(weights: Sequence[NDArray[np.float64]]) -> list[NDArray[np.int64]]:
    """The order of the nodes of each row, from left to right, with few crossings of lines.

    ``weights[i]`` (n_upper, n_lower) are those of the lines from row i to row i + 1, 0 for no line. Each node goes to
    the mean of its neighbors in the row above, then in the row below, and so on (barycenters, Sugiyama et al. 1981);
    the best of all orders is kept.
    """
    orders = [np.arange(weights[0].shape[0]), *(np.arange(weight.shape[1]) for weight in weights)]
    best, fewest = orders, np.inf
    for sweep in range(_N_SWEEPS):
        down = sweep % 2 == 0
        for row in range(1, len(orders)) if down else range(len(orders) - 2, -1, -1):
            near, weight = (row - 1, weights[row - 1]) if down else (row + 1, weights[row].T)
            orders = [*orders[:row], _sorted_by_mean(orders[row], orders[near], weight), *orders[row + 1 :]]
        crossed = sum(crossings(weight, *orders[i : i + 2]) for i, weight in enumerate(weights))
        if crossed < fewest:
            best, fewest = orders, crossed
    return best


def crossings(weight: NDArray[np.float64], upper: NDArray[np.int64], lower: NDArray[np.int64]) -> float:
    """Sum over all pairs of lines that cross of the product of their weights."""
    ordered = weight[np.ix_(upper, lower)]
    to_the_left = np.cumsum(ordered, axis=1) - ordered  # of the same upper node
    from_further_right = np.cumsum(to_the_left[::-1], axis=0)[::-1] - to_the_left
    return float((ordered * from_further_right).sum())


def places(
    weights: Sequence[NDArray[np.float64]], orders: Sequence[NDArray[np.int64]], sizes: Sequence[NDArray[np.float64]]
) -> list[NDArray[np.float64]]:
    """Horizontal place of each node, in its own numbering: 0, 1, ... in the last row, else above those it leads to.

    Nodes of a row are at least 1 apart, as near to these places as that allows.
    """
    from sklearn.isotonic import isotonic_regression

    found, last = [np.empty(0)] * len(orders), len(orders[-1]) - 1
    found[-1] = np.argsort(orders[-1]).astype(float)
    for row in range(len(orders) - 2, -1, -1):
        cells, steps = weights[row] * sizes[row + 1], np.arange(len(orders[row]))
        total = cells.sum(axis=1)
        wanted = np.where(total > 0, cells @ found[row + 1] / np.where(total > 0, total, 1), last / 2)
        # less their steps, places 1 apart are places in order
        fitted = isotonic_regression(wanted[orders[row]] - steps, y_min=0, y_max=last - steps[-1]) + steps
        found[row] = fitted[np.argsort(orders[row])]
    return found


def _sorted_by_mean(
    order: NDArray[np.int64], near: NDArray[np.int64], weight: NDArray[np.float64]
) -> NDArray[np.int64]:
    """``order`` with each node at the weighted mean rank of its neighbors ``near``; one without stays where it is."""
    total = weight.sum(axis=0)
    scale = len(near) / len(order)
    means = np.argsort(order) * scale
    linked = total > 0
    means[linked] = (np.argsort(near) @ weight)[linked] / total[linked]
    return order[np.argsort(means[order], kind="stable")]
