"""The tree above some clusters: its shape by hand, and the largest parts of clusters that were joined."""

import numpy as np
import pytest

from sctag_tools.cluster.contracted import ContractedTree
from sctag_tools.cluster.hierarchy import Hierarchy

# ((0, 1), ((2, 3), (4, 5))); leaf 5 has lost its cells
CHILDREN = np.array([[0, 1], [2, 3], [4, 5], [7, 8], [6, 9]])
CELLS = np.array([10, 2, 8, 3, 4, 0, 12, 11, 4, 15, 27])


@pytest.fixture
def tree():
    leaf, nothing = np.repeat(np.arange(6), CELLS[:6]), np.full(5, np.nan)
    return Hierarchy(
        leaf=leaf, consensus_leaf=leaf, children=CHILDREN, coassociation=np.array([0.8, 0.7, 0.9, 0.4, 0.1]),
        relative_coassociation=np.array([0.3, 0.45, 0.95, 0.5, 0.1]), dprime=nothing, null_dprime=nothing,
        n_cells=CELLS, split_order=np.array([10, 9, 6, 7, 8]),
        replicate_children=CHILDREN[None], replicate_coassociation=np.zeros((1, 5)),
    )  # fmt: skip


def drawn(tree, labels, n_below=0):
    labels = np.array(labels)
    return ContractedTree.from_clusters(tree, labels, labels.max() + 1, n_below)


def check(found, node, parent, cluster):
    assert found.node.tolist() == node
    assert found.parent.tolist() == parent
    assert found.cluster.tolist() == cluster


def test_each_split_of_clusters_is_there(tree):
    found = drawn(tree, [0, 0, 1, 2, 3, 0])
    check(found, [10, 6, 9, 7, 2, 3, 8], [-1, 0, 0, 2, 3, 3, 2], [-1, 0, -1, -1, 1, 2, 3])
    assert found.is_split.tolist() == [True, False, True, True, False, False, False]
    assert found.is_whole.all()


def test_a_split_lies_in_the_middle_of_its_sides(tree):
    rows = drawn(tree, [0, 0, 1, 2, 3, 0]).rows()
    assert rows.tolist() == [1.125, 0, 2.25, 1.5, 1, 2, 3]


def test_a_split_lies_right_of_that_above_it(tree):
    """Node 7 (0.45) is below node 9 (0.5)."""
    depths = drawn(tree, [0, 0, 1, 2, 3, 0]).depths(tree.relative_coassociation)
    np.testing.assert_allclose(depths, [0.1, 1, 0.5, 0.52, 1, 1, 1])
    wild = np.array([0, -1.0, 0, np.nan, 7.0])
    depths = drawn(tree, [0, 0, 1, 2, 3, 0]).depths(wild)
    np.testing.assert_allclose(depths, [0.98, 1.04, 1.0, 1.02, 1.04, 1.04, 1.04])


@pytest.mark.parametrize(("n_below", "shown"), [(0, {10}), (1, {10, 9}), (2, {10, 9, 6}), (9, {10, 9, 6, 7})])
def test_the_next_splits_within_clusters(tree, n_below, shown):
    """Node 8 has one side alone that holds cells, so it is no split."""
    found = drawn(tree, [0, 0, 1, 1, 1, 0], n_below)
    assert set(found.node[found.is_split]) == shown
    assert found.cluster[found.is_split].tolist() == [-1 if node == 10 else 0 if node == 6 else 1
                                                      for node in found.node[found.is_split]]  # fmt: skip
    assert CELLS[found.node[~found.is_split]].sum() == 27
    assert (np.diff(found.rows()[~found.is_split]) == 1).all()


def test_a_joined_cluster_is_at_its_largest_part(tree):
    """Cluster 1 has leaves 1, 3 and 4; the largest part that is all its own is node 8, as for ``siblings``."""
    labels = np.array([0, 1, 2, 1, 1, 0])
    found = drawn(tree, labels)
    check(found, [10, 0, 9, 2, 8], [-1, 0, 0, 2, 2], [-1, 0, -1, 2, 1])
    assert found.is_whole.tolist() == [True, False, True]
    split, _ = tree.siblings(labels, 1)
    assert split == found.node[found.parent[found.ends(1)[0]]]


@pytest.mark.parametrize("n_below", [0, 3])
def test_one_cluster(tree, n_below):
    found = drawn(tree, [0] * 6, n_below)
    assert (found.cluster == 0).all()
    assert found.is_split.sum() == n_below
    assert found.ends(0).tolist() == np.flatnonzero(~found.is_split).tolist()
    assert found.depths(tree.relative_coassociation).max() == 1


def test_a_tree_of_one_leaf():
    leaf, none = np.zeros(3, dtype=int), np.zeros(0)
    tree = Hierarchy(
        leaf=leaf, consensus_leaf=leaf, children=np.zeros((0, 2), dtype=int), coassociation=none,
        relative_coassociation=none, dprime=none, null_dprime=none, n_cells=np.array([3]),
        split_order=np.zeros(0, dtype=int), replicate_children=np.zeros((1, 0, 2), dtype=int),
        replicate_coassociation=np.zeros((1, 0)),
    )  # fmt: skip
    found = drawn(tree, [0], 2)
    check(found, [0], [-1], [0])
    assert found.rows().tolist() == [0]
    assert found.depths(none).tolist() == [1]


def test_a_cluster_without_cells_has_no_end(tree):
    found = ContractedTree.from_clusters(tree, np.array([0, 0, 2, 2, 2, 0]), 3)
    assert found.ends(1).size == 0
    assert found.is_whole.tolist() == [True, False, True]
