"""``sctag.pl.n_clusters``: the evidence for the number of clusters."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc

import sctag_tools as sctag


@pytest.mark.parametrize(("n_clusters", "n_shown"), [(3, 40), (41, 46), (59, 59)])
def test_shows_what_was_stored_in_a_file(chosen, unchanged, tmp_path, n_clusters, n_shown):
    chosen.uns["sctag"]["params"]["n_clusters"] = n_clusters
    chosen.write_h5ad(tmp_path / "run.h5ad")
    adata = sc.read_h5ad(tmp_path / "run.h5ad")
    with unchanged(adata):
        above, below = sctag.pl.n_clusters(adata, show=False)
    assert above.get_title() == f"{n_clusters} clusters"
    curve = adata.uns["sctag"]["n_clusters_curve"]
    limits = np.full(59, 0.75), curve["least_separation"]
    sides = ("below", "above")
    for ax, name, limit, side in zip((above, below), ("coassociation", "separation"), limits, sides, strict=True):
        supported, others = (points.get_offsets() for points in ax.collections)
        np.testing.assert_array_equal(supported[:, 0], [2, 3])
        shown = np.concatenate([supported, others])
        np.testing.assert_array_equal(shown[:, 0], np.arange(2, n_shown + 2))
        np.testing.assert_array_equal(shown[:, 1], np.maximum(curve[name][:n_shown], 0))
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), limit[:n_shown])
        assert ax.lines[1].get_xdata()[0] == n_clusters + 0.5
        assert ax.texts[0].get_text() == f"must lie\n{side} {limit[n_shown - 1]:.2g}"
        assert ax.texts[0].xy[1] == limit[n_shown - 1]
    legend = [text.get_text() for text in above.get_legend().get_texts()]
    assert legend == ["supported", "not supported", "limit of support", f"number chosen: {n_clusters}"]
    assert chosen.uns["sctag"]["n_clusters_curve"]["separation"].min() < 0


def test_limits_of_version_0_1_are_drawn(chosen):
    """There the limit of the first was in no file, and that of the second was one number."""
    curve = chosen.uns["sctag"]["n_clusters_curve"]
    del curve["max_coassociation"]
    curve["least_separation"] = 3.5
    above, below = sctag.pl.n_clusters(chosen, show=False)
    assert (above.lines[0].get_ydata() == 2 / 3).all()
    assert (below.lines[0].get_ydata() == 3.5).all()


def test_a_given_number_has_no_evidence(clustered):
    with pytest.raises(ValueError, match="number of clusters of 'sctag' was given"):
        sctag.pl.n_clusters(clustered)
