"""What a run leaves behind: new cells placed as a graph with them would place them, one by one, and decoded."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import adjusted_rand_score
from torch_geometric.nn import TAGConv

from sctag_tools._core import fitted as module
from sctag_tools._core.config import Config
from sctag_tools._core.fit import fit
from sctag_tools._core.fitted import Neighborhood
from sctag_tools._core.neighbors import find_neighbors

N, G = 180, 60


def _counts(seed, n, depth=1.0):
    """Counts of three groups (0, 1, 2 by turns)."""
    profiles = np.random.default_rng(0).gamma(0.5, 4.0, size=(3, G)) + 0.1
    rng = np.random.default_rng(seed)
    return sparse.csr_matrix(rng.poisson(profiles[np.arange(n) % 3] * depth).astype(np.float32))


def _graph(counts, k=8):
    x = np.log1p(counts.toarray())
    found = find_neighbors(x, k, metric="euclidean", random_state=0)
    rows, others = np.repeat(np.arange(N), k - 1), found.indices[:, 1:].ravel()
    edges = sparse.csr_matrix((np.ones(N * (k - 1)), (rows, others)), shape=(N, N))
    return edges.maximum(edges.T).tocsr()


def _totals(counts):
    return np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()


COUNTS, WEIGHTS = _counts(1, N), _graph(_counts(1, N))
NEW = _counts(2, 30)
REP = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
ALL = np.ones(G, dtype=bool)
SMALL = {"n_networks": 2, "n_hidden": 12, "n_latent": 4, "pretrain_epochs": 4, "cluster_epochs": 2, "batch_size": 64}


@cache
def run(*, of_rep=False, batched=False, **options):
    """A run, once for all tests: do not change what it gives."""
    config = Config(**{**SMALL, **options})
    neighborhood = Neighborhood(5, "manhattan", REP) if of_rep else Neighborhood(n_neighbors=7)
    batches = np.arange(N) % 2 if batched else None
    return fit(
        COUNTS, _totals(COUNTS), WEIGHTS, 3, config, random_state=0, batches=batches, neighborhood=neighborhood,
        accelerator="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def result():
    return run(n_hops=1)


@pytest.fixture(scope="module")
def trained():
    """Trained for long enough to tell the groups apart."""
    return run(pretrain_epochs=40, cluster_epochs=10)


def place(fitted, counts=NEW, known=ALL, batches=None, position=None):
    batches = np.full(counts.shape[0], -1) if batches is None else batches
    return fitted.place(counts, _totals(counts), known, batches, position)


def assert_same(a, b):
    for field in fields(a):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


def assert_close(a, b, tolerance=1e-4):
    for field in fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=field.name)


# --- against a computation of its own: the graph with the new cell in it, through PyG's own layers ---


def _scaled(counts, batches=None):
    """What networks read, in float64, with the training cells' own means and spreads."""
    train, new = (np.log1p(c.toarray().astype(float) / _totals(c)[:, None] * 1e4) for c in (COUNTS, counts))
    return np.clip((new - train.mean(axis=0)) / train.std(axis=0), -10, 10)


def _normalised():
    a = WEIGHTS.toarray().astype(float)
    np.fill_diagonal(a, 0)
    scale = 1 / np.sqrt(a.sum(axis=1))
    return a * scale[:, None] * scale[None]


def _by_hand(fitted, counts):
    """Latents (n_cells, n_networks, n_latent) by PyG's TAGConv on a graph of the training cells and one new cell."""
    config, old, new, a = fitted.config, _scaled(COUNTS), _scaled(counts), _normalised()
    gain = a.sum() / N
    latents = np.empty((len(new), config.n_networks, config.n_latent))
    for cell, x in enumerate(new):
        components = fitted.loadings.astype(float)
        distance = ((old @ components - x @ components) ** 2).sum(axis=1)
        nearest = np.argsort(distance)[:7]
        joined = np.zeros((N + 1, N + 1))
        joined[:N, :N], joined[N, nearest] = a, gain / 7
        target, source = np.nonzero(joined)
        edges = torch.from_numpy(np.stack([source, target]))
        for network in range(config.n_networks):
            own = f"networks.{network}.encoder."
            state = {
                name.removeprefix(own): torch.from_numpy(array.astype(float))
                for name, array in fitted.weights.items()
                if name.startswith(own)
            }
            hidden = TAGConv(G, config.n_hidden, K=config.n_hops, normalize=False).double()
            hidden.load_state_dict({k[7:]: v for k, v in state.items() if k.startswith("hidden.")})
            with torch.no_grad():
                h = hidden(torch.from_numpy(np.vstack([old, x])), edges, torch.from_numpy(joined[target, source]))
            h = np.maximum(h.numpy()[N], 0)
            latents[cell, network] = state["latent.lins.0.weight"].numpy() @ h + state["latent.bias"].numpy()
    return latents


@pytest.mark.parametrize("n_hops", [0, 1, 3])
def test_placed_as_a_graph_with_the_cell_in_it_places_it(n_hops):
    fitted = run(n_hops=n_hops).fitted
    counts = NEW[:8]
    found, latents = place(fitted, counts), _by_hand(fitted, counts)
    assert fitted.gain == pytest.approx(_normalised().sum() / N)
    np.testing.assert_allclose(found.latents, latents, rtol=2e-3, atol=2e-3)
    # the parts that follow from the latents, by their definitions
    joined = ((found.latents - fitted.joint.means) / fitted.joint.scales[:, None]).reshape(8, -1)
    np.testing.assert_allclose(found.latent, joined @ fitted.joint.loadings, rtol=1e-4, atol=1e-5)
    q = np.zeros((8, 3))
    for network in range(2):
        centroids, z = fitted.weights[f"networks.{network}.centroids"], found.latents[:, network]
        squared = ((z[:, None] - centroids) ** 2).sum(axis=2) / fitted.spreads[network] ** 2
        q += (1 / (1 + squared)) / (1 / (1 + squared)).sum(axis=1, keepdims=True) / 2
    chosen = q[:, fitted.columns] / q[:, fitted.columns].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.proba, chosen, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(found.labels, chosen.argmax(axis=1))


def test_hops_matter():
    """The computation above would not notice if nothing of the neighbours were read."""
    fitted = run(n_hops=1).fitted
    without = replace(fitted.reference, context=np.zeros_like(fitted.reference.context))
    assert np.abs(place(replace(fitted, reference=without)).latents - place(fitted).latents).max() > 1e-2
    assert not run(n_hops=0).fitted.reference.context.any()


def test_confidence_is_the_neighbours_in_the_same_cluster(trained):
    fitted, found = trained.fitted, place(trained.fitted)
    position, old = _scaled(NEW) @ fitted.loadings, _scaled(COUNTS) @ fitted.loadings
    np.testing.assert_allclose(fitted.reference.position, old, rtol=1e-3, atol=1e-3)
    for cell in range(30):
        nearest = np.argsort(((old - position[cell]) ** 2).sum(axis=1))[:7]
        agree = trained.labels[nearest] == found.labels[cell]
        assert found.confidence[cell] == pytest.approx((agree * trained.confidence[nearest]).mean(), abs=1e-5)
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()


def test_neighbours_lie_in_a_representation_if_one_is_given():
    of_rep, rep = run(of_rep=True).fitted, REP
    assert of_rep.loadings is None
    np.testing.assert_array_equal(of_rep.reference.position, rep)  # in the order that the cells came in
    old = _scaled(COUNTS)
    found = place(of_rep, position=rep[:30])
    for cell in range(5):
        nearest = np.argsort(np.abs(rep - rep[cell]).sum(axis=1))[:5]
        context = of_rep.gain * of_rep.reference.context[nearest, 0].mean(axis=0)
        by_hops = of_rep.weights["networks.0.encoder.hidden.lins.1.weight"]
        np.testing.assert_allclose(context, of_rep.gain * (old[nearest] @ by_hops.T).mean(axis=0), rtol=1e-3, atol=1e-3)
        hidden = _scaled(NEW)[cell] @ of_rep.weights["networks.0.encoder.hidden.lins.0.weight"].T
        hidden = np.maximum(hidden + context + of_rep.weights["networks.0.encoder.hidden.bias"], 0)
        z = hidden @ of_rep.weights["networks.0.encoder.latent.lins.0.weight"].T
        z += of_rep.weights["networks.0.encoder.latent.bias"]
        np.testing.assert_allclose(found.latents[cell, 0], z, rtol=2e-3, atol=2e-3)
    with pytest.raises(ValueError, match="a representation that was not given"):
        place(of_rep)


# --- one by one ---


@pytest.mark.parametrize("rows_at_once", [1, 7, 29, 30])
def test_batching_does_not_matter(trained, monkeypatch, rows_at_once):
    whole = place(trained.fitted)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", rows_at_once)
    assert_close(whole, place(trained.fitted))


def test_order_and_company_do_not_matter(trained):
    whole = place(trained.fitted)
    order = np.random.default_rng(0).permutation(30)
    shuffled = place(trained.fitted, NEW[order])
    assert_close(type(whole)(*(getattr(whole, f.name)[order] for f in fields(whole))), shuffled)
    alone = place(trained.fitted, NEW[11])
    assert_close(type(whole)(*(getattr(whole, f.name)[11:12] for f in fields(whole))), alone)


def test_the_reference_stays_as_it_is(trained, monkeypatch):
    from sctag_tools._core import store

    before = {name: array.copy() for name, array in store.pack(trained.fitted)[0].items()}
    place(trained.fitted)
    trained.fitted.shares(trained.fitted.reference.latents, trained.fitted.reference.batches)
    for name, array in store.pack(trained.fitted)[0].items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_no_random_state_is_touched(trained):
    import random

    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first = place(trained.fitted)
    trained.fitted.networks()
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
    torch.manual_seed(99)
    assert_same(first, place(trained.fitted))


def test_keeping_the_model_changes_no_result(result):
    without = fit(
        COUNTS, _totals(COUNTS), WEIGHTS, 3, Config(**SMALL), random_state=0, accelerator="cpu", neighborhood=None
    )
    assert without.fitted is None
    for part in ("latent", "proba", "labels", "confidence"):
        np.testing.assert_array_equal(getattr(without, part), getattr(result, part))


# --- what comes out ---


def test_training_cells_are_placed_nearly_where_they_were(trained):
    found = place(trained.fitted, COUNTS)
    for axis in range(2):  # the others hold little
        assert np.corrcoef(found.latent[:, axis], trained.latent[:, axis])[0, 1] > 0.97
    assert (found.labels == trained.labels).mean() > 0.97


def test_new_cells_join_the_clusters_of_their_group(trained):
    found = place(trained.fitted, _counts(5, 90))
    assert adjusted_rand_score(np.arange(90) % 3, found.labels) > 0.95
    assert adjusted_rand_score(np.arange(N) % 3, trained.labels) > 0.95
    of_group = [np.bincount(trained.labels[group::3]).argmax() for group in range(3)]
    assert (found.labels == np.array(of_group)[np.arange(90) % 3]).mean() > 0.95


def test_reference_holds_the_run_in_the_order_of_the_cells(trained):
    fitted, reference = trained.fitted, trained.fitted.reference
    for part in ("latent", "proba", "confidence"):
        np.testing.assert_array_equal(getattr(reference, part), getattr(trained, part))
    np.testing.assert_allclose(reference.depth, _totals(COUNTS))
    np.testing.assert_allclose(
        fitted.joint.apply(list(np.moveaxis(reference.latents, 1, 0))), trained.latent, atol=1e-5
    )
    np.testing.assert_allclose(fitted.gene_shares, _totals(COUNTS.T) / COUNTS.sum(), rtol=1e-5)
    assert fitted.gene_shares.sum() == pytest.approx(1)
    taken = reference.take(np.array([5, 2]))
    assert len(taken) == 2
    for part in fields(reference):
        np.testing.assert_array_equal(getattr(taken, part.name), getattr(reference, part.name)[[5, 2]])


def test_unknown_genes_are_hidden(trained):
    """As masked ones in training: zero, the others scaled up; and what their columns hold does not matter."""
    known = np.arange(G) % 3 > 0
    zeros, nonsense = (c.copy().tolil() for c in (NEW, NEW))
    zeros[:, ~known], nonsense[:, ~known] = 0, 77
    totals, unknown = _totals(NEW), np.full(30, -1)
    a, b = (trained.fitted.place(c.tocsr(), totals, known, unknown) for c in (zeros, nonsense))
    assert_same(a, b)
    assert (a.labels == place(trained.fitted).labels).mean() > 0.9
    few = run(n_hops=0).fitted
    by_hand = (
        np.where(known, _scaled(NEW), 0) * G / known.sum() @ few.weights["networks.0.encoder.hidden.lins.0.weight"].T
    )
    by_hand = np.maximum(by_hand + few.weights["networks.0.encoder.hidden.bias"], 0)
    z = (
        by_hand @ few.weights["networks.0.encoder.latent.lins.0.weight"].T
        + few.weights["networks.0.encoder.latent.bias"]
    )
    np.testing.assert_allclose(few.place(NEW, totals, known, unknown).latents[:, 0], z, rtol=1e-3, atol=1e-3)


def test_a_constant_gene_does_not_hurt():
    counts = COUNTS.copy().tolil()
    counts[:, 0] = 0
    counts = counts.tocsr()
    found = fit(
        counts, _totals(counts), WEIGHTS, 3, Config(**SMALL), random_state=0, accelerator="cpu",
        neighborhood=Neighborhood(),
    ).fitted  # fmt: skip
    assert np.isinf(found.scaling.spread[0])
    assert np.isfinite(place(found).latent).all()
    assert np.isfinite(place(found).novelty).all()


def test_fewer_cells_than_neighbours():
    rows = np.arange(6)
    found = fit(
        COUNTS[rows], _totals(COUNTS[rows]), WEIGHTS[rows][:, rows], 2, Config(**SMALL), random_state=0,
        accelerator="cpu", neighborhood=Neighborhood(n_neighbors=14),
    ).fitted  # fmt: skip
    assert found.n_neighbors <= 6
    placed = place(found)
    assert np.isfinite(placed.latent).all()
    assert np.isfinite(placed.novelty).all()


# --- decoding ---


def _softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _decoded(fitted, latents, network, layer, effects=None):
    weights = {k.removeprefix(f"networks.{network}.decoder."): v.astype(float) for k, v in fitted.weights.items()}
    hidden = np.maximum(latents[:, network] @ weights["hidden.weight"].T + weights["hidden.bias"], 0)
    out = hidden @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
    if effects is not None:
        effect = weights["batch_effects.effects"]
        assert np.abs(effect).max() > 0
        out = out + np.vstack([effect, effect.mean(axis=0)])[effects]
    return out


@pytest.mark.parametrize("likelihood", ["multinomial", "zinb"])
def test_shares_are_the_mean_softmax_of_the_networks(likelihood):
    fitted = (run(n_hops=1) if likelihood == "multinomial" else run(n_hops=1, likelihood=likelihood)).fitted
    latents = fitted.reference.latents
    layer = {"multinomial": "logit", "zinb": "log_mean"}[likelihood]
    by_hand = np.mean([_softmax(_decoded(fitted, latents, network, layer)) for network in range(2)], axis=0)
    found = fitted.shares(latents, fitted.reference.batches)
    np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-7)
    genes = np.array([17, 3, 40])
    np.testing.assert_array_equal(fitted.shares(latents, fitted.reference.batches, genes), found[:, genes])


def test_dropout_is_the_mean_sigmoid_of_the_networks():
    fitted = run(n_hops=1, likelihood="zinb").fitted
    latents = fitted.reference.latents
    by_hand = np.mean([1 / (1 + np.exp(-_decoded(fitted, latents, i, "dropout_logit"))) for i in range(2)], axis=0)
    np.testing.assert_allclose(fitted.dropout(latents, fitted.reference.batches), by_hand, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("likelihood", ["multinomial", "zinb"])
def test_batch_effects_are_those_of_the_cell_and_averaged_for_others(likelihood):
    fitted = run(likelihood=likelihood, batched=True).fitted
    latents = fitted.reference.latents
    layer = {"multinomial": "logit", "zinb": "log_mean"}[likelihood]
    asked = np.resize([0, 1, -1], N)
    each = [
        np.mean([_softmax(_decoded(fitted, latents, i, layer, np.full(N, batch))) for i in range(2)], axis=0)
        for batch in (0, 1, -1)
    ]
    by_hand = np.stack(each)[asked, np.arange(N)]
    np.testing.assert_allclose(fitted.shares(latents, asked), by_hand, rtol=1e-4, atol=1e-7)
    assert np.abs(each[0] - each[1]).max() > 1e-5


def test_decoding_in_pieces_is_the_same(trained, monkeypatch):
    latents, batches = trained.fitted.reference.latents, np.zeros(N, dtype=np.int64)
    whole = trained.fitted.shares(latents, batches)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 13)
    np.testing.assert_allclose(trained.fitted.shares(latents, batches), whole, rtol=1e-5)


def test_each_batch_is_centred_on_itself_and_unknown_ones_on_all():
    batches = np.arange(N) % 2
    fitted = run(likelihood="multinomial", batched=True).fitted
    totals = _totals(NEW)
    alone = replace(fitted, reference=replace(fitted.reference, context=np.zeros_like(fitted.reference.context)))
    placed = {batch: alone.place(NEW, totals, ALL, np.full(30, batch)).latents for batch in (0, 1, -1)}
    x = np.log1p(NEW.toarray().astype(float) / totals[:, None] * 1e4)
    logged = np.log1p(COUNTS.toarray().astype(float) / _totals(COUNTS)[:, None] * 1e4)
    means = {0: logged[::2].mean(axis=0), 1: logged[1::2].mean(axis=0), -1: logged.mean(axis=0)}
    spread = (logged - np.stack([means[0], means[1]])[batches]).std(axis=0)
    for batch, mean in means.items():
        hidden = np.clip((x - mean) / spread, -10, 10) @ fitted.weights["networks.0.encoder.hidden.lins.0.weight"].T
        hidden = np.maximum(hidden + fitted.weights["networks.0.encoder.hidden.bias"], 0)
        z = hidden @ fitted.weights["networks.0.encoder.latent.lins.0.weight"].T
        z += fitted.weights["networks.0.encoder.latent.bias"]
        np.testing.assert_allclose(placed[batch][:, 0], z, rtol=2e-3, atol=2e-3)


def test_the_components_of_many_cells_are_those_of_a_sample(monkeypatch):
    whole = run(n_hops=1).fitted
    monkeypatch.setattr(module, "_CELLS_FOR_COMPONENTS", 120)
    monkeypatch.setattr(module, "_CELLS_TO_EXPLAIN", 60)
    part = run(n_hops=1, learning_rate=2.1e-3).fitted  # no run that is kept
    assert (part.reference.unexplained >= 0).sum() == 60
    assert (whole.reference.unexplained >= 0).all()
    x = _scaled(COUNTS)
    a, b = (np.linalg.qr(f.loadings[:, :2])[0] for f in (whole, part))
    assert np.linalg.svd(a.T @ b)[1].min() > 0.95, "the leading plane turned away"
    assert part.reference.position.shape == (N, part.loadings.shape[1])
    np.testing.assert_allclose(part.reference.position, x @ part.loadings, rtol=1e-3, atol=2e-3)
    placed = place(part)
    assert np.isfinite(placed.novelty).all()
