"""New cells are placed as a graph with them in it would place them, one by one, and decoded by the mean network."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import adjusted_rand_score
from torch_geometric.nn import TAGConv

from sctag_tools.io.model_format import Registry, pack
from sctag_tools.mapping import placement, reference
from sctag_tools.mapping.placement import place_cells
from sctag_tools.mapping.reference import NeighborSettings
from sctag_tools.neighbors.search import find_neighbors
from sctag_tools.train.config import Config
from sctag_tools.train.fit import fit

N, G, N_NEW = 120, 40, 30


def counts_of(seed, n):
    """Counts of three groups (0, 1, 2 by turns)."""
    profiles = np.random.default_rng(0).gamma(0.5, 6.0, size=(3, G)) + 0.1
    return sparse.csr_matrix(np.random.default_rng(seed).poisson(profiles[np.arange(n) % 3]).astype(np.float32))


def totals_of(counts):
    return np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()


def graph_of(counts):
    graph = find_neighbors(np.log1p(counts.toarray()), 8, metric="euclidean", random_state=0).to_csr(include_self=False)
    graph.data[:] = 1
    return graph.maximum(graph.T).tocsr()


COUNTS, NEW = counts_of(1, N), counts_of(2, N_NEW)
GRAPH = graph_of(COUNTS)
REPRESENTATION = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
ALL = np.ones(G, dtype=bool)
SMALL = {
    "n_clusters": 3, "n_networks": 2, "n_hidden": 12, "n_latent": 4, "pretrain_epochs": 8, "cluster_epochs": 2,
    "batch_size": 64, "accelerator": "cpu",
}  # fmt: skip


def fit_to(counts, graph=GRAPH, settings=NeighborSettings(7), batch_index=None, **options):  # noqa: B008
    config = Config(**{**SMALL, **options})
    return fit(counts, totals_of(counts), graph, config, batch_index=batch_index, neighbor_settings=settings)


@pytest.fixture(scope="module")
def run():
    """Runs, each once for all tests: do not change what it gives."""

    @cache
    def cached(*, own_representation=False, batched=False, **options):
        settings = NeighborSettings(5, "manhattan", REPRESENTATION) if own_representation else NeighborSettings(7)
        return fit_to(COUNTS, settings=settings, batch_index=np.arange(N) % 2 if batched else None, **options)

    return cached


@pytest.fixture(scope="module")
def trained(run):
    """Trained for long enough to tell the groups apart."""
    return run(pretrain_epochs=60, cluster_epochs=10)


def place(model, counts=NEW, measured=ALL, batch_index=None, representation=None):
    batch_index = np.full(counts.shape[0], -1) if batch_index is None else batch_index
    return place_cells(model, counts, totals_of(counts), measured, batch_index, representation)


def assert_close(a, b, tolerance=1e-4):
    for field in fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=field.name)


def log_of(counts):
    return np.log1p(counts.toarray().astype(float) / totals_of(counts)[:, None] * 1e4)


def scaled(counts):
    """What networks read, in float64, with the training cells' own means and standard deviations."""
    old = log_of(COUNTS)
    return np.clip((log_of(counts) - old.mean(axis=0)) / old.std(axis=0), -10, 10)


def weights_of(model, part):
    return {k.removeprefix(part): v.astype(float) for k, v in model.state.items() if k.startswith(part)}


def encoded(model, x, messages=0.0):
    """Latents of the first network from scaled expression and the messages of neighbors."""
    w = weights_of(model, "networks.0.encoder.")
    hidden = np.maximum(x @ w["hidden.lins.0.weight"].T + messages + w["hidden.bias"], 0)
    return hidden @ w["latent.lins.0.weight"].T + w["latent.bias"]


# --- against PyG's own layers on the graph with the new cell in it ---


def normalized():
    a = GRAPH.toarray().astype(float)
    scale = 1 / np.sqrt(a.sum(axis=1))
    return a * scale[:, None] * scale[None]


def by_pyg(model, counts):
    """Latents (n_cells, n_networks, n_latent) by PyG's TAGConv on a graph of the training cells and one new cell."""
    old, new, a = scaled(COUNTS), scaled(counts), normalized()
    latents = np.empty((len(new), model.config.n_networks, model.config.n_latent))
    for cell, x in enumerate(new):
        loadings = model.pca_loadings.astype(float)
        nearest = np.argsort(((old @ loadings - x @ loadings) ** 2).sum(axis=1))[:7]
        joined = np.zeros((N + 1, N + 1))
        joined[:N, :N], joined[N, nearest] = a, a.sum() / N / 7
        target, source = np.nonzero(joined)
        edges = torch.from_numpy(np.stack([source, target])), torch.from_numpy(joined[target, source])
        for network in range(model.config.n_networks):
            w = weights_of(model, f"networks.{network}.encoder.")
            hidden = TAGConv(G, model.config.n_hidden, K=model.config.n_hops, normalize=False).double()
            hidden.load_state_dict({k[7:]: torch.from_numpy(v) for k, v in w.items() if k.startswith("hidden.")})
            with torch.no_grad():
                h = hidden(torch.from_numpy(np.vstack([old, x])), *edges).relu().numpy()[N]
            latents[cell, network] = w["latent.lins.0.weight"] @ h + w["latent.bias"]
    return latents


@pytest.mark.parametrize("n_hops", [0, 1, 3])
def test_placed_as_a_graph_with_the_cell_in_it_places_it(run, n_hops):
    model = run(n_hops=n_hops).reference
    counts = NEW[:8]
    found = place(model, counts)
    assert model.mean_degree == pytest.approx(normalized().sum() / N)
    assert np.abs(model.cells.messages).max() > 0.1 or not n_hops, "nothing of the neighbors is read"
    np.testing.assert_allclose(found.latents, by_pyg(model, counts), rtol=2e-3, atol=2e-3)
    # What follows from the latents, by definition.
    joined = ((found.latents - model.joint_latent.means) / model.joint_latent.scales[:, None]).reshape(8, -1)
    np.testing.assert_allclose(found.latent, joined @ model.joint_latent.loadings, rtol=1e-4, atol=1e-5)
    q = np.zeros((8, 3))
    for network in range(2):
        centroids, z = model.state[f"networks.{network}.centroids"], found.latents[:, network]
        squared = ((z[:, None] - centroids) ** 2).sum(axis=2) / model.scales[network] ** 2
        q += (1 / (1 + squared)) / (1 / (1 + squared)).sum(axis=1, keepdims=True) / 2
    proba = q[:, model.centroid_index] / q[:, model.centroid_index].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.proba, proba, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(found.proba.argmax(axis=1), proba.argmax(axis=1))


def test_confidence_is_that_of_the_neighbors_in_the_same_cluster(trained):
    model, found = trained.reference, place(trained.reference)
    new, old = scaled(NEW) @ model.pca_loadings, scaled(COUNTS) @ model.pca_loadings
    np.testing.assert_allclose(model.cells.representation, old, rtol=1e-3, atol=1e-3)
    for cell in range(N_NEW):
        nearest = np.argsort(((old - new[cell]) ** 2).sum(axis=1))[:7]
        agree = trained.labels[nearest] == found.proba[cell].argmax()
        assert found.confidence[cell] == pytest.approx((agree * trained.confidence[nearest]).mean(), abs=1e-5)
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()


def test_neighbors_lie_in_a_representation_if_one_is_given(run):
    model, old = run(own_representation=True).reference, scaled(COUNTS)
    assert model.pca_loadings is None
    np.testing.assert_array_equal(model.cells.representation, REPRESENTATION)  # in the order that the cells came in
    found = place(model, representation=REPRESENTATION[:N_NEW])
    by_hops = weights_of(model, "networks.0.encoder.hidden.lins.")["1.weight"]
    for cell in range(5):
        nearest = np.argsort(np.abs(REPRESENTATION - REPRESENTATION[cell]).sum(axis=1))[:5]
        messages = model.mean_degree * (old[nearest] @ by_hops.T).mean(axis=0)
        z = encoded(model, scaled(NEW)[cell], messages)
        np.testing.assert_allclose(found.latents[cell, 0], z, rtol=2e-3, atol=2e-3)
    with pytest.raises(ValueError, match="a representation of its own; give that of the new cells"):
        place(model)


# --- one by one, and without a trace ---


@pytest.mark.parametrize("rows_at_once", [1, 7, 29])
def test_pieces_order_and_company_do_not_matter(trained, monkeypatch, rows_at_once):
    model, order = trained.reference, np.random.default_rng(0).permutation(N_NEW)
    whole = place(model)
    decoded = model.expected_proportions(model.cells.latents, model.cells.batch_index)
    for module in (placement, reference):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", rows_at_once)
    assert_close(type(whole)(*(getattr(whole, field.name)[order] for field in fields(whole))), place(model, NEW[order]))
    assert_close(type(whole)(*(getattr(whole, field.name)[[11]] for field in fields(whole))), place(model, NEW[11]))
    in_pieces = model.expected_proportions(model.cells.latents, model.cells.batch_index)
    np.testing.assert_allclose(in_pieces, decoded, rtol=1e-5)


def test_neither_the_reference_nor_any_random_state_is_touched(trained):
    model = replace(trained.reference)  # nothing is cached yet
    registry = Registry([], [], [], None, None, {})
    before = {name: array.copy() for name, array in pack(model, registry)[0].items()}
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first = place(model)
    model.expected_proportions(model.cells.latents, model.cells.batch_index)
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    for name, array in pack(model, registry)[0].items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    torch.manual_seed(99)
    assert_close(first, place(replace(model)), tolerance=0)


def test_keeping_the_model_changes_no_result(run):
    without, result = fit_to(COUNTS, settings=None, n_hops=1), run(n_hops=1)
    assert without.reference is None
    for part in ("latent", "proba", "labels", "confidence"):
        np.testing.assert_array_equal(getattr(without, part), getattr(result, part))


# --- what comes out ---


def test_cells_join_the_clusters_of_their_group(trained):
    """Training cells are placed nearly where they were, new cells beside them."""
    again, new = place(trained.reference, COUNTS), place(trained.reference, counts_of(5, 90))
    for axis in range(2):  # the others hold little
        assert np.corrcoef(again.latent[:, axis], trained.latent[:, axis])[0, 1] > 0.97
    assert (again.proba.argmax(axis=1) == trained.labels).mean() > 0.97
    assert adjusted_rand_score(np.arange(N) % 3, trained.labels) > 0.95
    of_group = [np.bincount(trained.labels[group::3]).argmax() for group in range(3)]
    assert (new.proba.argmax(axis=1) == np.array(of_group)[np.arange(90) % 3]).mean() > 0.95


def test_reference_holds_the_run_in_the_order_of_the_cells(trained):
    model, cells = trained.reference, trained.reference.cells
    for part in ("latent", "proba", "confidence"):
        np.testing.assert_array_equal(getattr(cells, part), getattr(trained, part))
    np.testing.assert_allclose(cells.n_counts, totals_of(COUNTS))
    joint = model.joint_latent.transform(list(np.moveaxis(cells.latents, 1, 0)))
    np.testing.assert_allclose(joint, trained.latent, atol=1e-5)
    np.testing.assert_allclose(model.gene_proportions, totals_of(COUNTS.T) / COUNTS.sum(), rtol=1e-5)
    assert len(cells.take(np.array([5, 2]))) == 2
    for part in fields(cells):
        taken = getattr(model.cells.take(np.array([5, 2])), part.name)
        np.testing.assert_array_equal(taken, getattr(cells, part.name)[[5, 2]])


def test_genes_that_were_not_measured_are_hidden(trained, run):
    """As masked ones in training: zero, the others scaled up; and what their columns hold does not matter."""
    measured = np.arange(G) % 3 > 0
    zeros, nonsense = (NEW.copy().tolil() for _ in range(2))
    zeros[:, ~measured], nonsense[:, ~measured] = 0, 77
    totals, unknown = totals_of(NEW), np.full(N_NEW, -1)
    a, b = (place_cells(trained.reference, c.tocsr(), totals, measured, unknown) for c in (zeros, nonsense))
    assert_close(a, b, tolerance=0)
    assert (a.proba.argmax(axis=1) == place(trained.reference).proba.argmax(axis=1)).mean() > 0.9
    model = run(n_hops=0).reference
    by_hand = encoded(model, np.where(measured, scaled(NEW), 0) * G / measured.sum())
    found = place_cells(model, NEW, totals, measured, unknown)
    np.testing.assert_allclose(found.latents[:, 0], by_hand, rtol=1e-3, atol=1e-3)


def test_a_constant_gene_and_fewer_cells_than_neighbors_do_not_hurt(run):
    rows = np.arange(6)
    counts = COUNTS[rows].tolil()
    counts[:, 0] = 0
    model = fit_to(counts.tocsr(), GRAPH[rows][:, rows], NeighborSettings(14), n_clusters=2).reference
    assert model.n_neighbors <= 6
    assert np.isinf(model.scaler.std[0])
    placed = place(model)
    assert np.isfinite(placed.latent).all()
    assert np.isfinite(placed.novelty).all()


def test_each_batch_is_centered_on_itself_and_unknown_ones_on_all(run):
    model = run(n_hops=0, batched=True).reference
    old, new = log_of(COUNTS), log_of(NEW)
    means = {0: old[::2].mean(axis=0), 1: old[1::2].mean(axis=0), -1: old.mean(axis=0)}
    std = (old - np.stack([means[0], means[1]])[np.arange(N) % 2]).std(axis=0)
    for batch, mean in means.items():
        found = place(model, batch_index=np.full(N_NEW, batch)).latents[:, 0]
        expected = encoded(model, np.clip((new - mean) / std, -10, 10))
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_the_components_of_many_cells_are_those_of_a_sample(run, monkeypatch):
    whole = run(n_hops=1).reference
    monkeypatch.setattr(reference, "_N_CELLS_FOR_PCA", 80)
    monkeypatch.setattr(reference, "_N_CELLS_FOR_DEVIANCE", 50)
    part = fit_to(COUNTS).reference
    assert (part.cells.deviance >= 0).sum() == 50
    assert (whole.cells.deviance >= 0).all()
    a, b = (np.linalg.qr(model.pca_loadings[:, :2])[0] for model in (whole, part))
    assert np.linalg.svd(a.T @ b)[1].min() > 0.95, "the leading plane turned away"
    representation = scaled(COUNTS) @ part.pca_loadings
    np.testing.assert_allclose(part.cells.representation, representation, rtol=1e-3, atol=2e-3)
    assert np.isfinite(place(part).novelty).all()


# --- decoding ---


def decoded(model, layer, batch, activation):
    """Mean over the networks of what their decoders make of the training cells; batch -1: the mean of all batches."""
    parts = []
    for network in range(2):
        w = weights_of(model, f"networks.{network}.decoder.")
        hidden = np.maximum(model.cells.latents[:, network] @ w["hidden.weight"].T + w["hidden.bias"], 0)
        out = hidden @ w[f"{layer}.weight"].T + w[f"{layer}.bias"]
        if batch is not None:
            effects = w["batch_effects.effects"]
            assert np.abs(effects[0] - effects[1]).max() > 1e-4
            out += effects.mean(axis=0) if batch == -1 else effects[batch]
        parts.append(activation(out))
    return np.mean(parts, axis=0)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(
    ("likelihood", "layer", "activation", "method"),
    [
        ("multinomial", "logit", softmax, "expected_proportions"),
        ("zinb", "log_mean", softmax, "expected_proportions"),
        ("zinb", "dropout_logit", lambda x: 1 / (1 + np.exp(-x)), "dropout_probability"),
    ],
)
def test_what_is_decoded_is_the_mean_of_the_networks(run, likelihood, layer, activation, method, batched):
    """With the effect of the cell's batch, and that of all batches for other cells; dropout has none."""
    model, effects = run(n_hops=0, likelihood=likelihood, batched=batched).reference, batched and activation is softmax
    asked = np.resize([0, 1, -1], N) if batched else np.zeros(N, dtype=np.int64)
    each = {batch: decoded(model, layer, batch if effects else None, activation) for batch in np.unique(asked)}
    by_hand = np.stack([each[batch][cell] for cell, batch in enumerate(asked)])
    found = getattr(model, method)(model.cells.latents, asked)
    np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-7)
    genes = np.array([17, 3, 30])
    np.testing.assert_array_equal(getattr(model, method)(model.cells.latents, asked, genes), found[:, genes])
