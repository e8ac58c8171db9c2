"""The published method: against one original run, against independent formulas, and its switches one by one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse, special
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import kneighbors_graph

from sctag_tools._core import losses, published, published_losses, published_train
from sctag_tools._core.published import PAPER, REFERENCE, PublishedSettings, binary_graph, fit_published, spectral_start
from sctag_tools._core.published_losses import ZINBTarget, block_rows, divergence, graph_loss, zinb_loss
from sctag_tools._core.published_net import Adjacency, HopLayer, PublishedNet
from sctag_tools._core.published_train import KerasAdam
from sctag_tools._published_recipe import published_inputs

SHARED = Path(__file__).resolve().parents[3] / "shared"
SHORT = {"pretrain_epochs": 3, "cluster_epochs": 10}
CPU = torch.device("cpu")
LAYERS = {
    "encoder/tag_conv/dense": "hidden",
    "encoder/tag_conv_1/dense_1": "latent",
    "decoderA/dense_2": "graph",
    "decoderA/bilinear": "bilinear",
    "decoderX/dense_3": "decoder.0",
    "decoderX/dense_4": "decoder.1",
    "decoderX/dense_5": "decoder.2",
}


def shared_file(*parts):
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} is not stored beside this checkout")
    return path


@pytest.fixture(scope="module")
def original():
    with np.load(shared_file("peers", "original_pollen_seed1.npz")) as stored:
        return dict(stored)


def lists_to_csr(neighbors):
    n, k = neighbors.shape
    return sparse.csr_matrix((np.ones(n * k), neighbors.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))


def original_weights(original):
    weights = {f"{ours}.kernel": original[f"{theirs}/kernel:0"] for theirs, ours in LAYERS.items()}
    heads = [original[f"decoderX/{head}/kernel:0"] for head in ("pi", "dispersion", "mean")]
    return weights | {"heads.kernel": np.concatenate(heads, axis=1)}


@pytest.fixture(scope="module")
def cells():
    """(x, distances, counts, size factors, groups) of 150 cells in 3 groups."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(3), 50)
    profiles = rng.gamma(0.5, 2.0, size=(3, 40))
    counts = rng.poisson(profiles[groups] * rng.uniform(0.5, 2, size=(150, 1)) + 0.05)
    size_factors = counts.sum(axis=1) / np.median(counts.sum(axis=1))
    x = np.log1p(counts / size_factors[:, None])
    x = ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)
    distances = kneighbors_graph(x, 14, mode="distance")
    return x, distances, sparse.csr_matrix(counts, dtype=np.float32), size_factors, groups


@pytest.fixture(scope="module")
def reference(cells):
    return fit_published(*cells[:2], 3, REFERENCE, **SHORT)


# --- against the original ---------------------------------------------------------------------------------------------


def test_losses_and_latent_follow_the_original_run(original):
    distances = lists_to_csr(original["neighbors"])
    weights = original_weights(original)
    found = fit_published(
        original["X"], distances, 11, REFERENCE, pretrain_epochs=50, cluster_epochs=0, initial_weights=weights
    )
    expected = original["losses_zinb_adjacency"]
    followed = np.stack([found.history["zinb"], found.history["graph"]], axis=1)
    np.testing.assert_allclose(followed[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(followed, expected, rtol=1e-3)
    for ours, theirs in zip(found.latent.T, original["latent_after_50"].T, strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] > 0.999


def test_first_epoch_in_double_precision(original):
    net = PublishedNet(500, true_hops=False, dropout=False)
    net.load(original_weights(original))
    net.double()
    x = torch.from_numpy(original["X"]).double()
    graph = Adjacency.from_scipy(binary_graph(lists_to_csr(original["neighbors"])), CPU)
    graph = replace(graph, normalised=graph.normalised.double())
    latent = net.encode(x, graph)
    assert net.zinb_loss(latent, ZINBTarget.from_scaled(original["X"], CPU)).item() == pytest.approx(
        0.6168840, abs=6e-8
    )
    assert net.graph_loss(latent, graph).item() == pytest.approx(0.5163186, abs=6e-8)


def test_preprocessing_gives_the_original_input_and_neighbours(original):
    import anndata

    adata = anndata.read_h5ad(shared_file("data", "Pollen.h5ad"))
    before = adata.X.copy()
    found = published_inputs(adata.X, 0)
    assert (before != adata.X).nnz == 0
    assert list(adata.var_names[found.genes]) == [gene.decode() for gene in original["genes"]]
    np.testing.assert_allclose(found.x, original["X"], atol=1e-4)
    graph = binary_graph(kneighbors_graph(found.pca, 14, mode="distance"))
    shared = graph.multiply(binary_graph(lists_to_csr(original["neighbors"]))).sum()
    assert shared >= 0.99 * original["neighbors"].size


def test_preprocessing_drops_empty_cells_and_genes():
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, size=(60, 30)).astype(float)
    counts[:, 4] = 0
    counts[7] = 0
    counts[0, 0] = 0.2  # rounded up
    found = published_inputs(sparse.csr_matrix(counts), 0, n_top_genes=10)
    assert np.array_equal(np.flatnonzero(~found.cells), [7])
    assert found.genes.sum() == 10
    assert not found.genes[4]
    totals = np.ceil(counts).sum(axis=1)[found.cells]
    np.testing.assert_allclose(found.size_factors, totals / np.median(totals), rtol=1e-6)
    np.testing.assert_allclose(found.x.std(axis=0, ddof=1), 1, rtol=1e-5)


def test_preprocessing_refuses_an_empty_matrix():
    with pytest.raises(ValueError, match="Too little is left"):
        published_inputs(sparse.csr_matrix((5, 4)), 0)


# --- against independent formulas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("true_hops", [False, True])
def test_layer_equals_dense_concatenation(cells, true_hops, symmetric):
    torch.manual_seed(0)
    binary = binary_graph(cells[1], symmetric=symmetric)
    layer = HopLayer(40, 7, true_hops=true_hops).double()
    layer.bias.data.uniform_()
    graph = Adjacency.from_scipy(binary, CPU)
    graph = replace(graph, normalised=graph.normalised.double(), transposed=graph.transposed.double())
    x = torch.from_numpy(cells[0]).double().requires_grad_()
    dense = torch.from_numpy(binary.toarray()).double()
    dense = dense / (dense.sum(dim=1)[:, None] * dense.sum(dim=1)).sqrt()
    hops = [torch.linalg.matrix_power(dense, k if true_hops else min(k, 1)) @ x for k in range(4)]
    expected = torch.cat(hops, dim=1) @ layer.kernel + layer.bias
    found = layer(x, graph)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(found)
    inputs = [x, layer.kernel, layer.bias]
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def published_zinb(y, logits, raw, log_mean, sizes):
    """The published likelihood in numpy, entry by entry."""
    eps = 1e-10
    pi = special.expit(logits)
    theta = np.minimum(np.clip(np.logaddexp(0, raw), 1e-4, 1e4), 1e6)
    mean = np.clip(np.exp(log_mean), 1e-5, 1e6) * sizes
    log_factors = special.gammaln(theta + eps) + special.gammaln(y + 1) - special.gammaln(y + theta + eps)
    rates = (theta + y) * np.log(1 + mean / (theta + eps)) + y * (np.log(theta + eps) - np.log(mean + eps))
    positive = log_factors + rates - np.log(1 - pi + eps)
    zero = -np.log(pi + (1 - pi) * (theta / (theta + mean + eps)) ** theta + eps)
    return np.where(y < 1e-8, zero, positive)


def zinb_problem(scale):
    """Double-precision hidden layer, heads, and a matrix of 33 cells and 20 genes with values of both signs."""
    rng = np.random.default_rng(1)
    y = np.where(rng.random((33, 20)) < 0.3, rng.gamma(1.0, 3.0, (33, 20)), -rng.random((33, 20))).astype(np.float32)
    y[0, :3] = 1e-9, 1e-7, 0
    shapes = (33, 5), (5, 60), (60,)
    return y, [torch.from_numpy(rng.normal(scale=scale, size=shape)).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("on_counts", [False, True])
@pytest.mark.parametrize("block", [2**19, 100])
@pytest.mark.parametrize("scale", [0.5, 5.0])  # the larger one reaches the bounds of mean and dispersion
def test_zinb_equals_numpy_formula(monkeypatch, scale, block, on_counts):
    monkeypatch.setattr(published_losses, "_BLOCK", block)
    y, inputs = zinb_problem(scale)
    sizes = np.random.default_rng(2).uniform(0.3, 3.0, size=33).astype(np.float32) if on_counts else np.ones(33)
    if on_counts:
        y = np.ceil(np.maximum(y, 0))
        target = ZINBTarget.from_counts(sparse.csr_matrix(y), sizes, CPU)
    else:
        target = ZINBTarget.from_scaled(y, CPU)
    hidden, kernel, bias = (tensor.detach().numpy() for tensor in inputs)
    heads = np.split(hidden @ kernel + bias, 3, axis=1)
    expected = published_zinb(y.astype(float), *heads, sizes[:, None]).mean()
    assert zinb_loss(*inputs, target).item() == pytest.approx(expected, rel=1e-9)


def test_zinb_gradients_equal_finite_differences():
    y, inputs = zinb_problem(0.5)
    target = ZINBTarget.from_scaled(y, CPU)
    assert torch.autograd.gradcheck(lambda *tensors: zinb_loss(*tensors, target), inputs, fast_mode=True)


def test_zinb_on_counts_agrees_with_the_default_methods_likelihood():
    y, inputs = zinb_problem(0.5)
    counts = np.ceil(np.maximum(y, 0))
    target = ZINBTarget.from_counts(sparse.csr_matrix(counts), np.ones(33), CPU)
    logits, raw, log_mean = (inputs[0] @ inputs[1] + inputs[2]).chunk(3, dim=1)
    log_dispersion = torch.nn.functional.softplus(raw).log()
    other = -losses.zinb_log_likelihood(torch.from_numpy(counts).double(), log_mean, log_dispersion, logits).mean()
    assert zinb_loss(*inputs, target).item() == pytest.approx(other.item(), rel=1e-5)


@pytest.mark.parametrize("block", [2**19, 2_000])
def test_graph_loss_equals_dense_error(monkeypatch, cells, block):
    monkeypatch.setattr(published_losses, "_BLOCK", block)
    binary = binary_graph(cells[1])
    torch.manual_seed(0)
    factors = [torch.randn(150, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    edges = Adjacency.from_scipy(binary, CPU).edges
    assert len(edges) == -(-150 // block_rows(150, 150))
    expected = (torch.sigmoid(factors[0] @ factors[1].T) - torch.from_numpy(binary.toarray())).square().mean()
    found = graph_loss(*factors, edges)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(torch.autograd.grad(found, factors), torch.autograd.grad(expected, factors), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_divergence_is_kl_with_keras_floor():
    p, q = torch.tensor([[1.0, 0.0], [0.4, 0.6]]), torch.tensor([[0.5, 0.5], [0.3, 0.7]])
    clipped = np.clip(p.numpy().astype(float), 1e-7, 1)
    expected = (clipped * np.log(clipped / q.numpy())).sum(axis=1).mean()
    assert divergence(p, q).item() == pytest.approx(expected, rel=1e-6)


def test_keras_adam_equals_numpy_loop():
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=4), rng.normal(size=(20, 4)) * [1.0, 1e-3, 1e-6, 1e-9]
    parameter = torch.tensor(start, requires_grad=True)
    untouched = torch.tensor(start, requires_grad=True)
    optimizer = KerasAdam([parameter, untouched], 1e-2)
    expected, m, v = start.copy(), np.zeros(4), np.zeros(4)
    for t, gradient in enumerate(gradients, start=1):
        optimizer.zero_grad()
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = 1e-2 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        expected -= rate * m / (np.sqrt(v) + 1e-7)
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12)
    assert np.array_equal(untouched.detach().numpy(), start)


# --- graph and start --------------------------------------------------------------------------------------------------


def test_graph_keeps_neighbours_at_distance_zero_and_adds_each_cell_once():
    distances = sparse.csr_matrix((np.array([0.0, 2.0, 3.0]), [1, 1, 0], [0, 1, 2, 3]), shape=(3, 3))
    assert np.array_equal(binary_graph(distances).toarray(), [[1, 1, 0], [0, 1, 0], [1, 0, 1]])
    assert np.array_equal(binary_graph(distances, symmetric=True).toarray(), [[1, 1, 1], [1, 1, 0], [1, 0, 1]])


def test_normalised_graph_of_equal_rows_is_a_mean(cells):
    graph = Adjacency.from_scipy(binary_graph(cells[1]), CPU)
    np.testing.assert_allclose(graph.normalised.to_dense().sum(dim=1), 1, rtol=1e-6)
    np.testing.assert_allclose(graph.normalised.values(), 1 / 15, rtol=1e-6)


def test_start_is_sklearns_own_on_the_directed_graph(cells):
    binary = binary_graph(cells[1])
    model = SpectralClustering(4, affinity="precomputed", assign_labels="discretize", random_state=0)
    with pytest.warns(UserWarning, match="not symmetric"):
        expected = model.fit_predict(binary.toarray())
    assert adjusted_rand_score(expected, spectral_start(binary, 4)) == 1.0


def test_a_label_that_the_start_drops_is_told_and_makes_no_nan(monkeypatch, cells):
    monkeypatch.setattr(SpectralClustering, "fit_predict", lambda self, _: np.where(cells[4] == 2, 3, cells[4]))
    with pytest.warns(UserWarning, match="gave 3 of 4 clusters"):
        found = fit_published(*cells[:2], 4, **SHORT)
    assert found.proba.shape[1] <= 3
    assert np.isfinite(found.proba).all()


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_result_has_the_form_of_every_run(reference):
    assert reference.latent.shape == (150, 15)
    assert reference.latent.dtype == np.float32
    np.testing.assert_allclose(reference.proba.sum(axis=1), 1, rtol=1e-5)
    assert np.array_equal(reference.labels, reference.proba.argmax(axis=1))
    assert {name: len(values) for name, values in reference.history.items()} == dict.fromkeys(
        ("loss", "zinb", "graph", "cluster"), 13
    )
    assert np.array_equal(np.isnan(reference.history["cluster"]), np.arange(13) < 3)
    weighted = {"zinb": 1.0, "graph": 0.3, "cluster": 1.5}
    total = sum(weight * np.nan_to_num(reference.history[name]) for name, weight in weighted.items())
    np.testing.assert_allclose(reference.history["loss"], total, rtol=1e-5)


def test_it_finds_the_groups(cells):
    found = fit_published(*cells[:2], 3, pretrain_epochs=40, cluster_epochs=20)
    assert adjusted_rand_score(cells[4], found.labels) > 0.95
    assert found.history["loss"][39] < found.history["loss"][0]


@pytest.mark.parametrize("settings", [REFERENCE, PAPER], ids=["reference", "paper"])
def test_same_seed_same_result_and_global_state_untouched(cells, settings):
    x, distances, counts, size_factors, _ = cells
    before = torch.get_rng_state()
    extra = {"counts": counts, "size_factors": size_factors}
    first, again, other = (
        fit_published(x, distances, 3, settings, random_state=seed, **extra, **SHORT) for seed in (4, 4, 5)
    )
    assert np.array_equal(first.latent, again.latent)
    assert np.array_equal(first.history["loss"], again.history["loss"])
    assert not np.array_equal(first.latent, other.latent)
    assert torch.equal(before, torch.get_rng_state())


def test_paper_is_the_reference_with_six_switches_turned():
    changed = {name for name in vars(PAPER) if getattr(PAPER, name) != getattr(REFERENCE, name)}
    assert changed == {"hops", "dropout", "likelihood", "trained_centroids", "divergence", "labels"}


@pytest.mark.parametrize(
    ("switch", "first_epoch", "pretraining"),
    [
        ({"hops": "true"}, True, True),
        ({"dropout": True}, True, True),
        ({"likelihood": "counts"}, True, True),
        ({"symmetric_graph": True}, True, True),
        ({"trained_centroids": True}, False, False),
        ({"divergence": "p_from_q"}, False, False),
    ],
    ids=str,
)
def test_each_switch_changes_its_phase(cells, reference, switch, first_epoch, pretraining):
    x, distances, counts, size_factors, _ = cells
    found = fit_published(
        x, distances, 3, replace(REFERENCE, **switch), counts=counts, size_factors=size_factors, **SHORT
    )
    differs = found.history["loss"] != reference.history["loss"]
    assert differs[0] == first_epoch
    assert differs[:3].any() == pretraining
    assert differs[3:].any()


@pytest.mark.parametrize("name", ["q_from_p", "p_from_q"])
def test_each_divergence_is_the_one_that_is_named(monkeypatch, cells, name):
    """Of the two distributions P is held fast, and only what the network gives has a gradient."""
    pairs = []
    monkeypatch.setattr(published_train, "divergence", lambda of, from_: pairs.append((of, from_)) or of.sum() * 0)
    fit_published(*cells[:2], 3, replace(REFERENCE, divergence=name), pretrain_epochs=1, cluster_epochs=1)
    q, p = pairs[0] if name == "q_from_p" else pairs[0][::-1]
    assert q.requires_grad
    assert not p.requires_grad
    torch.testing.assert_close(p, losses.target_distribution(q.detach()), rtol=1e-4, atol=1e-5)


def test_labels_of_the_last_refresh_come_from_earlier_weights(cells, reference):
    settings = replace(REFERENCE, labels="final")
    final = fit_published(*cells[:2], 3, settings, **SHORT)
    assert np.array_equal(final.history["loss"], reference.history["loss"])
    assert not np.allclose(final.proba, reference.proba, rtol=1e-6)
    stopped = fit_published(*cells[:2], 3, settings, pretrain_epochs=3, cluster_epochs=8)
    np.testing.assert_allclose(stopped.proba, reference.proba, rtol=1e-6)


def test_dropout_is_off_outside_training(cells):
    net = PublishedNet(40, true_hops=True, dropout=True).eval()
    graph = Adjacency.from_scipy(binary_graph(cells[1]), CPU)
    x = torch.from_numpy(cells[0])
    assert torch.equal(net.encode(x, graph), net.encode(x, graph))


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_number_of_clusters_is_required(cells):
    with pytest.raises(ValueError, match="give `n_clusters`"):
        fit_published(*cells[:2], None)
    with pytest.raises(ValueError, match="smaller than the number of cells"):
        fit_published(*cells[:2], 150)
    with pytest.raises(TypeError, match="n_clusters must be an integer"):
        fit_published(*cells[:2], 3.0)


def test_one_cluster_is_no_error(cells):
    assert not fit_published(*cells[:2], 1, **SHORT).labels.any()


def test_too_many_cells_for_the_memory_are_refused(monkeypatch, cells):
    monkeypatch.setattr(published, "_installed_memory", lambda: 10**8)
    with pytest.raises(ValueError, match=r"150 cells x 40 genes need up to 0\.2 GB, this machine has 0\.1 GB"):
        fit_published(*cells[:2], 3)
    monkeypatch.setattr(published, "_installed_memory", lambda: None)
    fit_published(*cells[:2], 3, pretrain_epochs=1, cluster_epochs=1)


def test_wrong_arrays_are_refused(cells):
    x, distances, counts, size_factors, _ = cells
    on_counts = replace(REFERENCE, likelihood="counts")
    with pytest.raises(ValueError, match="needs `counts` and `size_factors`"):
        fit_published(x, distances, 3, on_counts, counts=counts)
    with pytest.raises(ValueError, match=r"counts must have shape \(150, 40\)"):
        fit_published(x, distances, 3, on_counts, counts=counts[:, 1:], size_factors=size_factors)
    with pytest.raises(ValueError, match=r"distances must have shape \(149, 149\)"):
        fit_published(x[1:], distances, 3)
    with pytest.raises(ValueError, match="NaN or infinite"):
        fit_published(np.full_like(x, np.nan), distances, 3)


def test_wrong_settings_and_weights_are_refused(cells):
    with pytest.raises(ValueError, match="hops must be one of"):
        PublishedSettings(hops="two")
    with pytest.raises(TypeError, match="dropout must be True or False"):
        PublishedSettings(dropout=0.2)
    with pytest.raises(KeyError, match="is no weight of the network"):
        fit_published(*cells[:2], 3, initial_weights={"encoder": np.zeros(3)})
    with pytest.raises(ValueError, match=r"must have shape \(160, 128\), got \(3,\)"):
        fit_published(*cells[:2], 3, initial_weights={"hidden.kernel": np.zeros(3)})


def test_non_finite_loss_is_named(cells):
    with pytest.raises(RuntimeError, match=r"non-finite \(loss, zinb.*at epoch 1"):
        fit_published(*cells[:2], 3, initial_weights={"hidden.bias": np.full(128, np.inf)})
