"""Which clusters are compared: by hand, on the tree ((0, 1), (2, (3, 4)))."""

from __future__ import annotations

import numpy as np
import pytest

from sctag_tools.cluster.comparisons import Comparison, compare_sides, name_comparisons
from sctag_tools.cluster.hierarchy import Hierarchy


@pytest.fixture
def tree():
    """Nodes 5: (0, 1), 6: (3, 4), 7: (2, 6), 8: (5, 7), made from the root down."""
    leaf, nothing = np.arange(5), np.full(4, np.nan)
    children = np.array([[0, 1], [3, 4], [2, 6], [5, 7]])
    return Hierarchy(
        leaf, leaf, children, nothing, nothing, nothing, nothing, np.array([1, 1, 1, 1, 1, 2, 2, 3, 5]),
        np.array([8, 7, 6, 5]), children[None], nothing[None],
    )  # fmt: skip


def shown(comparisons):
    return [
        f"{each.node}: {name}" for each, name in zip(comparisons, name_comparisons(comparisons, "abcde"), strict=True)
    ]


def test_two_comparisons_a_split_in_the_order_in_which_they_are_made(tree):
    assert shown(compare_sides(tree, np.arange(5))) == [
        "8: a+b vs c+d+e", "8: c+d+e vs a+b", "7: c vs d+e", "7: d+e vs c", "6: d vs e", "6: e vs d",
        "5: a vs b", "5: b vs a",
    ]  # fmt: skip


def test_splits_within_a_cluster_are_left_out(tree):
    assert shown(compare_sides(tree, np.array([1, 1, 0, 0, 2]))[:2]) == ["8: b vs a+c", "8: a+c vs b"]
    assert shown(compare_sides(tree, np.array([0, 0, 1, 2, 2]))) == [
        "8: a vs b+c", "8: b+c vs a", "7: b vs c", "7: c vs b",
    ]  # fmt: skip


def test_clusters_joined_across_the_tree_are_compared_with_their_siblings(tree):
    """Leaves 1 and 3 are one cluster, b, so that every split lies across it or has a part of it on a side."""
    found = shown(compare_sides(tree, np.array([0, 1, 2, 1, 3])))
    assert found == ["5: a vs b", "6: b vs d", "7: c vs b+d", "6: d vs b"]
    found = shown(compare_sides(tree, np.array([0, 0, 1, 1, 2])))  # leaves 2 and 3, and 4 beside the latter
    assert found == ["8: a vs b+c", "8: b+c vs a", "6: b vs c", "6: c vs b"]


def test_leaves_without_cells_do_not_count(tree):
    n_cells = np.array([1, 0, 1, 1, 1, 1, 2, 3, 4])
    empty = Hierarchy(**{**vars(tree), "n_cells": n_cells})
    assert shown(compare_sides(empty, np.array([0, 2, 1, 2, 2]))) == [
        "8: a vs b+c", "8: b+c vs a", "7: b vs c", "7: c vs b",
    ]  # fmt: skip


def test_a_single_cluster_has_none(tree):
    assert compare_sides(tree, np.zeros(5, dtype=int)) == []


@pytest.mark.parametrize("seed", range(30))
def test_every_cluster_is_the_whole_group_of_one_comparison(tree, seed):
    labels = np.unique(np.random.default_rng(seed).integers(0, 4, 5), return_inverse=True)[1]
    found = compare_sides(tree, labels)
    alone = sorted(int(each.group[0]) for each in found if len(each.group) == 1)
    assert alone == (np.unique(labels).tolist() if labels.max() else [])
    assert not any(set(each.group) & set(each.reference) for each in found)


def test_names_are_unique_and_fit_into_files():
    numbers = np.arange(20)
    some = [
        Comparison(0, numbers[:1], numbers[1:3]), Comparison(0, numbers[:1], numbers[3:4]),
        Comparison(0, numbers[:12], numbers[12:13]), Comparison(0, numbers[:13], numbers[13:14]),
    ]  # fmt: skip
    names = name_comparisons(some, ["CD4/8", "b", "c", "b+c", *"defghijklmnopqrs"])
    assert names == [
        "CD4|8 vs b+c", "CD4|8 vs b+c (2)", "CD4|8+b+c+b+c+d+e+f+g+h+i+j+k vs l", "CD4|8+b+c+b+c and 9 more vs m",
    ]  # fmt: skip
