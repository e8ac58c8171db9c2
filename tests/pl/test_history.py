"""``sctag.pl.history``: the curves of a run."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sctag_tools as sctag


def test_shows_every_term_also_of_a_file(clustered, unchanged, tmp_path):
    clustered.write_h5ad(tmp_path / "run.h5ad")
    adata = sc.read_h5ad(tmp_path / "run.h5ad")
    with unchanged(adata):
        axes = sctag.pl.history(adata, show=False)
    assert all(isinstance(ax, Axes) for ax in axes)
    assert [ax.get_title() for ax in axes] == ["loss", "multinomial", "cluster"]
    for ax in axes:
        steps, values = ax.lines[0].get_data()
        np.testing.assert_array_equal(steps, np.arange(1, 6))
        np.testing.assert_array_equal(values, clustered.uns["sctag"]["history"][ax.get_title()])
        assert ax.lines[1].get_xdata()[0] == 3.5  # where self-training began
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["self-training begins"]


def test_one_phase_alone_under_another_key(clustered):
    curves = {name: values[:3] for name, values in clustered.uns["sctag"]["history"].items()}
    clustered.uns["other"], clustered.obsm["X_other"] = {"params": {}, "history": curves}, clustered.obsm["X_sctag"]
    axes = sctag.pl.history(clustered, key="other", show=False)
    assert [ax.get_title() for ax in axes] == ["loss", "multinomial"]
    assert [len(ax.lines) for ax in axes] == [1, 1]
    assert len(axes[0].lines[0].get_xdata()) == 3
    assert axes[0].get_legend() is None


@pytest.mark.parametrize("draw", ["history", "n_clusters"])
def test_return_types(chosen, draw):
    function = getattr(sctag.pl, draw)
    assert isinstance(function(chosen, return_fig=True), Figure)
    assert function(chosen, show=True) is None
    sc.settings.autoshow = False
    assert isinstance(function(chosen), list)
    sc.settings.autoshow = True
    assert function(chosen) is None


def test_a_run_without_steps(clustered):
    history = clustered.uns["sctag"]["history"]
    clustered.uns["sctag"]["history"] = {name: values[:0] for name, values in history.items()}
    with pytest.raises(ValueError, match="The run 'sctag' has no training steps to show"):
        sctag.pl.history(clustered, show=False)


@pytest.mark.parametrize("draw", ["history", "n_clusters"])
def test_what_was_no_run(clustered, draw):
    with pytest.raises(KeyError, match=r"no scTAG result 'none'.*There are \['sctag'\]"):
        getattr(sctag.pl, draw)(clustered, key="none")
    del clustered.uns["sctag"]["history"]
    with pytest.raises(ValueError, match="'sctag' was mapped from a reference"):
        getattr(sctag.pl, draw)(clustered)
