"""``sctag.pl.history``: the curves of a run."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sctag_tools as sctag


def test_shows_every_term(clustered, unchanged):
    with unchanged(clustered):
        axes = sctag.pl.history(clustered, show=False)
    assert all(isinstance(ax, Axes) for ax in axes)
    assert [ax.get_title() for ax in axes] == ["loss", "multinomial", "cluster"]
    history = clustered.uns["sctag"]["history"]
    for ax in axes:
        steps, values = ax.lines[0].get_data()
        np.testing.assert_array_equal(steps, np.arange(1, 6))
        np.testing.assert_array_equal(values, history[ax.get_title()])
        assert ax.lines[1].get_xdata()[0] == 3.5  # where clustering began


def test_without_clustering(graphed, short):
    sctag.tl.sctag(graphed, 2, **(short | {"cluster_epochs": 0}))
    axes = sctag.pl.history(graphed, show=False)
    assert [ax.get_title() for ax in axes] == ["loss", "multinomial"]
    assert all(len(ax.lines) == 1 for ax in axes)


def test_without_any_step(graphed):
    sctag.tl.sctag(graphed, 2, pretrain_epochs=0, cluster_epochs=0)
    with pytest.raises(ValueError, match=r"no step|no training|not trained"):
        sctag.pl.history(graphed, show=False)


def test_return_types(clustered):
    assert isinstance(sctag.pl.history(clustered, return_fig=True), Figure)
    assert sctag.pl.history(clustered, show=True) is None
    sc.settings.autoshow = False
    assert isinstance(sctag.pl.history(clustered), list)
    sc.settings.autoshow = True
    assert sctag.pl.history(clustered) is None


def test_other_key(clustered, short):
    sctag.tl.sctag(clustered, 2, key_added="other", **(short | {"pretrain_epochs": 6}))
    axes = sctag.pl.history(clustered, key="other", show=False)
    assert len(axes[0].lines[0].get_xdata()) == 8


def test_survives_a_file(clustered, tmp_path):
    clustered.write_h5ad(tmp_path / "run.h5ad")
    axes = sctag.pl.history(sc.read_h5ad(tmp_path / "run.h5ad"), show=False)
    assert len(axes) == 3


def test_missing_result(graphed, unchanged):
    with unchanged(graphed), pytest.raises(KeyError, match=r"no scTAG result 'sctag'.*Run `sctag\.tl\.sctag"):
        sctag.pl.history(graphed)


def test_a_mapped_result_has_no_history_of_its_own(clustered):
    query = clustered[:30].copy()
    sctag.tl.map_query(query, clustered, key_added="mapped")
    for draw in (sctag.pl.history, sctag.pl.n_clusters):
        with pytest.raises(ValueError, match="mapped to a reference"):
            draw(query, key="mapped", show=False)
    assert sctag.pl.embedding(query, key="mapped", show=False) is not None
