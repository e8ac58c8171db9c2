"""What one training step sees and sums, and what self-training aims at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse, stats

from sctag_tools._core import train
from sctag_tools._core.config import Config
from sctag_tools._core.fit import fit
from sctag_tools._core.model import Batch, Ensemble, ScTAGNet, ZINBDecoder
from sctag_tools._core.share import shares_of

N, G, K = 40, 30, 3
SIZES = {"n_hidden": 8, "n_latent": 4, "n_hops": 2}


def batch(**parts):
    rng = np.random.default_rng(0)
    blocks = torch.from_numpy(rng.normal(size=(N, 3, G)).astype(np.float32))
    counts = torch.from_numpy(rng.poisson(3.0, size=(N, G)).astype(np.float32))
    return Batch(blocks, counts, torch.zeros(N), torch.zeros(N, dtype=torch.long), N, **parts)


def network(**options):
    torch.manual_seed(0)
    return ScTAGNet(Config(**{**SIZES, **options}), torch.zeros(G), 1)


def seen_by(networks):
    """What the encoders of an ensemble got, filled in as they are called."""
    seen = []
    for net in networks:
        net.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def ensemble(**options):
    torch.manual_seed(0)
    return Ensemble(Config(**{**SIZES, **options}), torch.zeros(G))


def test_a_mask_hides_genes_in_all_hops_alike_and_keeps_the_mean():
    networks, cells = ensemble(mask_rate=0.75).train(), batch()
    seen = seen_by(networks)
    networks([cells])
    for blocks in seen:
        scaling = (blocks / cells.blocks).numpy()
        assert set(np.unique(scaling.round(4))) == {0, 4}
        np.testing.assert_allclose(scaling, scaling[:, :1].repeat(3, axis=1), rtol=1e-4)
        assert scaling.mean() == pytest.approx(1, abs=0.1)
        assert np.ptp((scaling[:, 0] > 0).sum(axis=1)) > 0, "cells are masked one by one"
    # A quarter each of the genes, of which no two networks see the same.
    assert ((np.stack(seen) != 0).sum(axis=0) <= 1).all()
    for unmasked in (networks.eval(), ensemble(mask_rate=0.0).train()):
        seen = seen_by(unmasked)
        unmasked([cells])
        assert all(torch.equal(blocks, cells.blocks) for blocks in seen)


@pytest.mark.parametrize("n_shares", [2, 3])
def test_shares_of_a_batch_add_up_to_it(n_shares):
    whole, terms, gradients = batch(), {}, {}
    shares = shares_of(0, 1, least=n_shares)
    assert shares == [share for rank in range(n_shares) for share in shares_of(rank, n_shares, least=2)]
    parts = [
        whole._replace(
            blocks=share.of(whole.blocks), counts=share.of(whole.counts), log_size=share.of(whole.log_size),
            batch_numbers=share.of(whole.batch_numbers), share=share,
        )
        for share in shares
    ]  # fmt: skip
    for name, of_batch in (("whole", [whole]), ("parts", parts)):
        networks = ensemble(mask_rate=0.5).train()
        torch.manual_seed(1)
        terms[name] = networks(of_batch)["multinomial"]
        gradients[name] = torch.autograd.grad(terms[name], list(networks.parameters()))
    assert terms["parts"].item() == pytest.approx(terms["whole"].item(), rel=1e-6)
    for of_parts, of_whole in zip(gradients["parts"], gradients["whole"], strict=True):
        np.testing.assert_allclose(of_parts.numpy(), of_whole.numpy(), atol=1e-6)


def test_the_terms_of_the_loss_by_hand():
    rng = np.random.default_rng(1)
    target = rng.dirichlet(np.ones(K), N).astype(np.float32)
    edges = (rng.random((N, N)) < 0.1).astype(np.float32)
    np.fill_diagonal(edges, 0)
    edges /= np.maximum(edges.sum(axis=1, keepdims=True), 1)
    same = torch.eye(N, dtype=torch.bool)
    net = network(mask_rate=0.0, graph_weight=0.1)
    net.set_centroids(torch.randn(K, 4), 0.5)
    cells = batch(edges=torch.from_numpy(edges), same_cell=same, target=torch.from_numpy(target))
    with torch.no_grad():
        terms = net([cells])
        z = net.encoder(cells.blocks).double().numpy()
        logits = net.decoder(torch.from_numpy(z).float(), cells.batch_numbers).double().numpy()
        features = net.graph_decoder(torch.from_numpy(z).float()).double().numpy()
    assert list(terms) == ["multinomial", "graph", "cluster"]
    counts = cells.counts.numpy().astype(float)
    log_shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    by_hand = -(counts * log_shares).sum(axis=1) / counts.sum(axis=1)
    assert terms["multinomial"].item() == pytest.approx(by_hand.mean(), rel=1e-5)
    squared = ((z[:, None] - net.centroids.detach().numpy()) ** 2).sum(axis=2) / 0.25
    q = (1 / (1 + squared)) / (1 / (1 + squared)).sum(axis=1, keepdims=True)
    assert terms["cluster"].item() == pytest.approx(stats.entropy(target, q, axis=1).mean(), rel=1e-4)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    similarity = np.exp(features @ features.T / 0.2) * ~np.eye(N, dtype=bool)
    log_decoded = np.log(similarity / similarity.sum(axis=1, keepdims=True), where=similarity > 0, out=np.zeros((N, N)))
    assert terms["graph"].item() == pytest.approx(-(edges * log_decoded).sum() / edges.sum(), rel=1e-4)


def test_the_zinb_mean_grows_with_the_size_factor():
    torch.manual_seed(0)
    decoder = ZINBDecoder(4, 8, torch.zeros(G), 1)
    latent, sizes, numbers = torch.randn(5, 4), torch.tensor([0.1, 0.5, 1, 2, 30]).log(), torch.zeros(5).long()
    with torch.no_grad():
        (mean, *rest), (usual, *same) = (decoder(latent, log_size, numbers) for log_size in (sizes, torch.zeros(5)))
    np.testing.assert_allclose((mean - usual).numpy(), np.tile(sizes[:, None], (1, G)), atol=1e-5)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(rest, same, strict=True))


def test_the_target_is_sharpened_from_the_networks_as_they_are(monkeypatch):
    """At the first step and at every 20th, from the mean assignment of that moment, for the rows of the batch."""
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(rng.gamma(0.5, 3.0, (3, G))[np.arange(60) % 3] + 0.2).astype(np.float32))
    graph = sparse.random(60, 60, density=0.1, random_state=0, format="csr")
    step, assignment, assigned, seen = train.Trainer._step, train.Trainer.assignment, [], []

    def watched_assignment(trainer, latents):
        assigned.append(assignment(trainer, latents))
        return assigned[-1]

    def watched_step(trainer, module, optimizer, parts):
        if trainer._target is not None:
            of_batch = np.concatenate([part.target.numpy() for part in parts])
            seen.append((len(assigned), of_batch, trainer._target.numpy().copy()))
        step(trainer, module, optimizer, parts)

    monkeypatch.setattr(train.Trainer, "assignment", watched_assignment)
    monkeypatch.setattr(train.Trainer, "_step", watched_step)
    config = Config(**SIZES, n_networks=1, pretrain_epochs=2, cluster_epochs=45, batch_size=60)
    fit(counts, np.asarray(counts.sum(axis=1)).ravel(), graph, 3, config, random_state=0, accelerator="cpu")
    assert [number for number, *_ in seen] == [1] * 20 + [2] * 20 + [3] * 5
    for number, of_batch, target in seen:
        q = assigned[number - 1].numpy().astype(float)
        p = q**2 / q.sum(axis=0)
        p /= p.sum(axis=1, keepdims=True)
        assert np.abs(p - q).max() > 0.01
        np.testing.assert_allclose(target, p, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(np.sort(of_batch, axis=0), np.sort(target, axis=0))  # the batch holds all cells
    assert np.abs(seen[0][2] - seen[-1][2]).max() > 1e-3
