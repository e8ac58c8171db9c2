"""``sctag.pl.n_clusters``: the evidence for the number of clusters."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
from matplotlib.figure import Figure

import sctag_tools as sctag


@pytest.fixture
def chosen(graphed, short):
    sctag.tl.sctag(graphed, **(short | {"pretrain_epochs": 30}))
    return graphed


def test_shows_what_was_stored(chosen, unchanged, tmp_path):
    chosen.write_h5ad(tmp_path / "run.h5ad")
    chosen = sc.read_h5ad(tmp_path / "run.h5ad")
    with unchanged(chosen):
        above, below = sctag.pl.n_clusters(chosen, show=False)
    curve, found = chosen.uns["sctag"]["n_clusters_curve"], chosen.obs["sctag"].nunique()
    assert f"{found} clusters" in above.get_title()
    for ax, name in ((above, "coassociation"), (below, "separation")):
        counted, rejected = (points.get_offsets() for points in ax.collections)
        assert len(counted) == found - 1
        shown = dict(np.concatenate([counted, rejected]))
        for number, value in list(zip(curve["n_clusters"], curve[name], strict=True))[: len(shown)]:
            assert shown[number] == max(value, 0)
    assert above.lines[0].get_ydata()[0] == 0.5


def test_return_types(chosen):
    assert isinstance(sctag.pl.n_clusters(chosen, return_fig=True), Figure)
    assert sctag.pl.n_clusters(chosen, show=True) is None


def test_a_given_number_has_no_evidence(clustered):
    with pytest.raises(ValueError, match="number of clusters of 'sctag' was given"):
        sctag.pl.n_clusters(clustered)


def test_missing_result(graphed):
    with pytest.raises(KeyError, match="no scTAG result 'sctag'"):
        sctag.pl.n_clusters(graphed)
