"""Preprocessing, graph and runs of the published method: against one original run, and its switches one by one."""

from dataclasses import replace

import anndata
import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import kneighbors_graph

from sctag_tools.nn.self_training import target_distribution
from sctag_tools.published import fit, train
from sctag_tools.published.fit import binary_graph, fit_published, nearest_neighbors, spectral_start
from sctag_tools.published.recipe import published_inputs
from sctag_tools.published.settings import PAPER, REFERENCE, PublishedSettings
from sctag_tools.train.config import Config

SHORT = Config(n_clusters=3, pretrain_epochs=3, cluster_epochs=13, accelerator="cpu")
SWITCHES = {
    "hops": "true", "dropout": True, "likelihood": "counts", "symmetric_graph": True, "trained_centroids": True,
    "divergence": "p_from_q",
}  # fmt: skip


def run(cells, settings=REFERENCE, config=SHORT, **changes):
    counts = {"counts": cells.counts, "size_factors": cells.size_factors}
    return fit_published(cells.x, cells.distances, replace(config, **changes), settings, **counts)


@pytest.fixture(scope="module")
def reference(cells):
    return run(cells)


def test_losses_and_latent_follow_the_original_run(original):
    found = fit_published(
        original.x,
        original.distances,
        replace(SHORT, n_clusters=11, pretrain_epochs=50, cluster_epochs=0),
        initial_weights=original.weights,
    )
    followed = np.stack([found.history["zinb"], found.history["graph"]], axis=1)
    np.testing.assert_allclose(followed[0], original.losses[0], rtol=1e-5)
    np.testing.assert_allclose(followed, original.losses, rtol=1e-3)
    for ours, theirs in zip(found.latent.T, original.latent.T, strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] > 0.999


def test_preprocessing_gives_the_input_and_the_neighbors_of_the_original(original, real_sets):
    adata = anndata.read_h5ad(real_sets / "Pollen.h5ad")
    before = adata.X.copy()
    found = published_inputs(adata.X, 0)
    assert (before != adata.X).nnz == 0
    assert list(adata.var_names[found.genes]) == original.genes
    np.testing.assert_allclose(found.x, original.x, atol=1e-4)
    graph = binary_graph(kneighbors_graph(found.pca, 14, mode="distance"))
    assert graph.multiply(binary_graph(original.distances)).sum() >= 0.99 * original.distances.nnz


def test_preprocessing_drops_empty_cells_and_genes():
    counts = np.random.default_rng(0).poisson(1.0, size=(60, 30)).astype(float)
    counts[:, 4] = counts[7] = 0
    counts[0, 0] = 0.2  # rounded up
    found = published_inputs(sparse.csr_matrix(counts), 0, n_top_genes=10)
    assert np.array_equal(np.flatnonzero(~found.cells), [7])
    assert found.genes.sum() == 10
    assert not found.genes[4]
    totals = np.ceil(counts).sum(axis=1)[found.cells]
    np.testing.assert_allclose(found.size_factors, totals / np.median(totals), rtol=1e-6)
    np.testing.assert_allclose(found.x.std(axis=0, ddof=1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="Too little is left"):
        published_inputs(sparse.csr_matrix((5, 4)), 0)


def test_nearest_neighbors_by_hand():
    distances = sparse.csr_matrix(([0.0, 3.0, 1.0, 2.0, 5.0, 4.0], [0, 1, 2, 3, 0, 2], [0, 4, 4, 4, 6]), shape=(4, 4))
    kept = nearest_neighbors(distances, 2)
    assert [kept.indices[kept.indptr[i] : kept.indptr[i + 1]].tolist() for i in range(4)] == [[2, 3], [], [], [0, 2]]
    assert kept[0, 3] == 2


def test_graph_keeps_neighbors_at_distance_zero_and_adds_each_cell_once():
    distances = sparse.csr_matrix((np.array([0.0, 2.0, 3.0]), [1, 1, 0], [0, 1, 2, 3]), shape=(3, 3))
    assert np.array_equal(binary_graph(distances).toarray(), [[1, 1, 0], [0, 1, 0], [1, 0, 1]])
    assert np.array_equal(binary_graph(distances, symmetric=True).toarray(), [[1, 1, 1], [1, 1, 0], [1, 0, 1]])


def test_start_is_sklearns_own_on_the_directed_graph(cells):
    binary = binary_graph(cells.distances)
    model = SpectralClustering(4, affinity="precomputed", assign_labels="discretize", random_state=0)
    with pytest.warns(UserWarning, match="not symmetric"):
        expected = model.fit_predict(binary.toarray())
    assert adjusted_rand_score(expected, spectral_start(binary, 4)) == 1.0


def test_a_missing_label_of_the_start_is_told_and_makes_no_nan(monkeypatch, cells):
    labels = np.where(cells.groups == 2, 3, cells.groups)
    monkeypatch.setattr(SpectralClustering, "fit_predict", lambda self, _: labels)
    with pytest.warns(UserWarning, match="gave 3 of 4 clusters"):
        found = run(cells, n_clusters=4)
    assert found.n_clusters <= 3
    assert np.isfinite(found.proba).all()


def test_result_has_the_form_of_every_run(reference):
    assert reference.latent.shape == (150, 15)
    assert reference.latent.dtype == np.float32
    np.testing.assert_allclose(reference.proba.sum(axis=1), 1, rtol=1e-5)
    assert np.array_equal(reference.labels, reference.proba.argmax(axis=1))
    lengths = {name: len(values) for name, values in reference.history.items()}
    assert lengths == dict.fromkeys(("loss", "zinb", "graph", "cluster"), 16)
    assert np.array_equal(np.isnan(reference.history["cluster"]), np.arange(16) < 3)
    weighted = {"zinb": 1.0, "graph": 0.3, "cluster": 1.5}
    total = sum(weight * np.nan_to_num(reference.history[name]) for name, weight in weighted.items())
    np.testing.assert_allclose(reference.history["loss"], total, rtol=1e-5)


def test_it_finds_the_groups(cells):
    found = run(cells, pretrain_epochs=40, cluster_epochs=20)
    assert adjusted_rand_score(cells.groups, found.labels) > 0.95
    assert found.history["loss"][39] < found.history["loss"][0]


@pytest.mark.parametrize("settings", [REFERENCE, PAPER], ids=["reference", "paper"])
def test_same_seed_same_result_and_global_state_untouched(cells, settings):
    before = torch.get_rng_state()
    first, again, other = (run(cells, settings, random_state=seed) for seed in (4, 4, 5))
    assert np.array_equal(first.latent, again.latent)
    assert np.array_equal(first.history["loss"], again.history["loss"])
    assert not np.array_equal(first.latent, other.latent)
    assert torch.equal(before, torch.get_rng_state())


def test_paper_is_the_reference_with_six_switches_turned():
    changed = {name for name in vars(PAPER) if getattr(PAPER, name) != getattr(REFERENCE, name)}
    assert changed == {"hops", "dropout", "likelihood", "trained_centroids", "divergence", "labels"}


@pytest.mark.parametrize("name", SWITCHES)
def test_each_switch_changes_its_phase(cells, reference, name):
    found = run(cells, PublishedSettings(**{name: SWITCHES[name]}))
    differs = found.history["loss"] != reference.history["loss"]
    assert differs[0] == differs[:3].any() == (name not in {"trained_centroids", "divergence"})
    assert differs[3:].any()


@pytest.mark.parametrize("name", ["q_from_p", "p_from_q"])
def test_each_divergence_is_the_one_that_is_named(monkeypatch, cells, name):
    """P is held fixed, and only what the network gives has a gradient."""
    pairs = []
    monkeypatch.setattr(train, "kl_divergence", lambda *pair: pairs.append(pair) or pair[0].sum() * 0)
    run(cells, PublishedSettings(divergence=name), pretrain_epochs=1, cluster_epochs=1)
    q, p = pairs[0] if name == "q_from_p" else pairs[0][::-1]
    assert q.requires_grad
    assert not p.requires_grad
    torch.testing.assert_close(p, target_distribution(q.detach()), rtol=1e-4, atol=1e-5)


def test_labels_of_the_last_refresh_come_from_earlier_weights(cells, reference):
    settings = PublishedSettings(labels="final")
    final = run(cells, settings)
    assert np.array_equal(final.history["loss"], reference.history["loss"])
    assert not np.allclose(final.proba, reference.proba, rtol=1e-6)
    np.testing.assert_allclose(run(cells, settings, cluster_epochs=8).proba, reference.proba, rtol=1e-6)


def test_one_cluster_is_no_error(cells):
    assert not run(cells, n_clusters=1).labels.any()


def test_too_many_cells_for_the_memory_are_refused(monkeypatch, cells):
    monkeypatch.setattr(fit, "_installed_memory", lambda: 10**8)
    with pytest.raises(ValueError, match=r"150 cells x 40 genes need up to 0\.2 GB, this machine has 0\.1 GB"):
        run(cells)
    monkeypatch.setattr(fit, "_installed_memory", lambda: None)
    run(cells, pretrain_epochs=1, cluster_epochs=1)


def test_wrong_arrays_and_numbers_are_refused(cells):
    x, distances, counts = cells.x, cells.distances, {"counts": cells.counts, "size_factors": cells.size_factors}
    for match, arrays, changes, extra in (
        ("needs `counts` and `size_factors`", (x, distances), {}, {**counts, "size_factors": None}),
        (r"counts must have shape \(150, 40\)", (x, distances), {}, {**counts, "counts": cells.counts[:, 1:]}),
        (r"distances must have shape \(149, 149\)", (x[1:], distances), {}, {}),
        ("NaN or infinite", (np.full_like(x, np.nan), distances), {}, {}),
        ("give `n_clusters`", (x, distances), {"n_clusters": None}, {}),
        ("smaller than the number of cells", (x, distances), {"n_clusters": 150}, {}),
    ):
        settings = PublishedSettings(likelihood="counts" if extra else "scaled")
        with pytest.raises(ValueError, match=match):
            fit_published(*arrays, replace(SHORT, **changes), settings, **extra)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="hops must be one of"):
        PublishedSettings(hops="two")
    with pytest.raises(TypeError, match="dropout must be True or False"):
        PublishedSettings(dropout=0.2)


def test_non_finite_loss_is_named(cells):
    with pytest.raises(RuntimeError, match=r"non-finite \(loss, zinb.*at epoch 1"):
        fit_published(cells.x, cells.distances, SHORT, initial_weights={"hidden.bias": np.full(128, np.inf)})
