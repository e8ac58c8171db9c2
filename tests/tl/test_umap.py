"""``sctag.tl.umap``: the UMAP of the latent."""

from __future__ import annotations

import io

import numpy as np
import pytest
import scanpy as sc
from scipy.spatial.distance import cdist
from sklearn.manifold import trustworthiness

import sctag_tools as sctag


def test_shows_the_neighbors_in_the_latent_and_writes_nothing_else(clustered, same):
    clustered.obsm["X_umap"] = np.zeros((150, 2))
    before = clustered.copy()
    assert sctag.tl.umap(clustered) is None
    umap = clustered.obsm.pop("X_sctag_umap")
    assert umap.dtype == np.float32
    assert umap.shape == (150, 2)
    latent = clustered.obsm["X_sctag"]
    assert trustworthiness(latent, umap, n_neighbors=10) > 0.9
    assert trustworthiness(latent[::-1], umap, n_neighbors=10) < 0.7  # of other cells
    same(before, clustered)  # with the user's own graph and UMAP


def test_seed_is_that_of_the_run_by_default(clustered):
    layouts = {}
    for recorded, given in ((0, None), (0, 7), (7, None), (None, None)):  # mapped cells have none
        adata = clustered[:40].copy()
        adata.uns["sctag"]["params"].pop("random_state")
        if recorded is not None:
            adata.uns["sctag"]["params"]["random_state"] = np.int64(recorded)  # as in a file
        sctag.tl.umap(adata, random_state=given)
        layouts[recorded, given] = adata.obsm["X_sctag_umap"]
    assert np.abs(layouts[0, None] - layouts[0, 7]).max() > 0.1
    np.testing.assert_array_equal(layouts[0, 7], layouts[7, None])
    np.testing.assert_array_equal(layouts[0, None], layouts[None, None])


def test_replaces_an_earlier_one_in_a_copy_or_in_place(clustered, unchanged, same):
    few = clustered[:8].copy()
    few.obsm["X_sctag_umap"] = np.zeros((8, 2), np.float32)
    with unchanged(few):
        changed = sctag.tl.umap(few, copy=True)
    sctag.tl.umap(few)
    same(few, changed)
    assert np.isfinite(changed.obsm["X_sctag_umap"]).all()
    assert changed.obsm["X_sctag_umap"].any()


def test_other_key_on_a_view_is_told_once(clustered, unchanged):
    clustered.uns["other"], clustered.obsm["X_other"] = clustered.uns["sctag"], clustered.obsm["X_sctag"][:, :3]
    view = clustered[::2]
    with unchanged(clustered), pytest.warns(UserWarning, match="view") as caught:
        sctag.tl.umap(view, key="other")
    assert [warning.filename for warning in caught] == [__file__]
    assert view.obsm["X_other_umap"].shape == (75, 2)
    assert "X_sctag_umap" not in view.obsm


def test_separate_clusters_are_laid_out_without_a_warning(clustered):
    latent = clustered.obsm["X_sctag"]
    latent += 1e4 * (np.arange(150) % 6)[:, None].astype(np.float32)
    sctag.tl.umap(clustered)
    assert trustworthiness(latent, clustered.obsm["X_sctag_umap"], n_neighbors=10) > 0.9


def test_the_log_names_what_was_written_and_no_temporary(clustered):
    log = io.StringIO()
    sc.settings.logfile, sc.settings.verbosity = log, 3
    sctag.tl.umap(clustered)
    assert "computing the UMAP of 'X_sctag'" in log.getvalue()
    assert "'X_sctag_umap'" in log.getvalue()
    assert "sctag_neighbors" not in log.getvalue()
    assert "'X_umap'" not in log.getvalue()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"key": "none"}, KeyError, r"no scTAG result 'none'.*There are \['sctag'\].*`key=`"),
        ({"key": "sctag_neighbors"}, KeyError, "no scTAG result"),
        ({"random_state": -1}, ValueError, "random_state must be at least 0"),
        ({"copy": 1}, TypeError, "copy must be True or False"),
    ],
)
def test_what_is_refused(clustered, unchanged, options, error, match):
    with unchanged(clustered), pytest.raises(error, match=match):
        sctag.tl.umap(clustered, **options)


# --- in the UMAP of a reference ---


@pytest.fixture
def mapped(blobs, short):
    """A reference with its UMAP, and cells that were mapped to it."""
    reference, query = blobs[:110].copy(), blobs[110:].copy()
    sctag.pp.build_graph(reference)
    sctag.tl.sctag(reference, 3, **(short | {"pretrain_epochs": 40}))
    sctag.tl.umap(reference)
    sctag.tl.map_query(query, reference)
    return reference, query


def test_mapped_cells_lie_beside_their_like_in_a_reference_that_stays(mapped, unchanged):
    reference, query = mapped
    with unchanged(reference):
        sctag.tl.umap(query, reference=reference)
    positions = query.obsm["X_sctag_umap"]
    assert positions.dtype == np.float32
    distances = cdist(positions, reference.obsm["X_sctag_umap"])
    nearest = reference.obs["group"].astype(str).to_numpy()[distances.argsort(axis=1)[:, :5]]
    assert (nearest == query.obs["group"].astype(str).to_numpy()[:, None]).mean() > 0.9
    again = sctag.tl.umap(query, reference=reference, copy=True).obsm["X_sctag_umap"]
    np.testing.assert_array_equal(again, positions)
    sctag.tl.umap(query)  # of these cells alone, elsewhere
    assert np.abs(query.obsm["X_sctag_umap"] - positions).max() > 0.5


def test_results_of_other_names_and_cells_of_the_reference_itself(mapped):
    reference, query = mapped
    expected = sctag.tl.umap(query, reference=reference, copy=True).obsm["X_sctag_umap"]
    sctag.tl.map_query(query, reference, key_added="there")
    sctag.tl.umap(query, key="there", reference=reference, reference_key="sctag")
    np.testing.assert_array_equal(query.obsm["X_there_umap"], expected)
    before = reference.obsm["X_sctag_umap"].copy()
    sctag.tl.umap(reference, reference=reference.copy())
    np.testing.assert_array_equal(reference.obsm["X_sctag_umap"], before)


def test_a_reference_without_umap_or_of_other_dimensions_is_refused(mapped, short, unchanged):
    reference, query = mapped
    other = reference.copy()
    del other.obsm["X_sctag_umap"]
    with unchanged(query), pytest.raises(KeyError, match=r"sctag\.tl\.umap\(reference, key='sctag'\)"):
        sctag.tl.umap(query, reference=other)
    with unchanged(query), pytest.raises(KeyError, match="no scTAG result 'leiden'"):
        sctag.tl.umap(query, reference=reference, reference_key="leiden")
    sctag.tl.sctag(other, 3, n_latent=4, **short)
    other.obsm["X_sctag_umap"] = reference.obsm["X_sctag_umap"]
    with unchanged(query), pytest.raises(ValueError, match="different dimensions"):
        sctag.tl.umap(query, reference=other)
