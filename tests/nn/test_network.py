"""What one training step sees and sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from sctag_tools.nn.decoders import ZINBDecoder
from sctag_tools.nn.minibatch import Minibatch, row_shares
from sctag_tools.nn.network import Ensemble, ScTAGNet
from sctag_tools.train.config import Config

N, G, K = 40, 30, 3
SIZES = {"n_hidden": 8, "n_latent": 4, "n_hops": 2}


def minibatch(**parts):
    rng = np.random.default_rng(0)
    hops = torch.from_numpy(rng.normal(size=(N, 3, G)).astype(np.float32))
    counts = torch.from_numpy(rng.poisson(3.0, size=(N, G)).astype(np.float32))
    return Minibatch(hops, counts, torch.zeros(N), torch.zeros(N, dtype=torch.long), N, **parts)


def ensemble(**options):
    torch.manual_seed(0)
    return Ensemble(Config(**{**SIZES, **options}), torch.zeros(G))


def seen_by(networks):
    """What the encoders of an ensemble got, filled in as they are called."""
    seen = []
    for net in networks:
        net.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def test_a_mask_hides_genes_in_all_hops_alike_and_keeps_the_mean():
    networks, cells = ensemble(mask_rate=0.75).train(), minibatch()
    seen = seen_by(networks)
    networks([cells])
    for hops in seen:
        factor = (hops / cells.hops).numpy()
        assert set(np.unique(factor.round(4))) == {0, 4}
        np.testing.assert_allclose(factor, factor[:, :1].repeat(3, axis=1), rtol=1e-4)
        assert factor.mean() == pytest.approx(1, abs=0.1)
        assert np.ptp((factor[:, 0] > 0).sum(axis=1)) > 0, "cells are masked one by one"
    # A quarter each of the genes, of which no two networks see the same.
    assert ((np.stack(seen) != 0).sum(axis=0) <= 1).all()
    for unmasked in (networks.eval(), ensemble(mask_rate=0.0).train()):
        seen = seen_by(unmasked)
        unmasked([cells])
        assert len(seen) == 3
        assert all(torch.equal(hops, cells.hops) for hops in seen)


@pytest.mark.parametrize("n_shares", [2, 3])
def test_shares_of_a_minibatch_add_up_to_it(n_shares):
    whole, terms, gradients = minibatch(), {}, {}
    shares = row_shares(0, 1, min_shares=n_shares)
    assert shares == [share for rank in range(n_shares) for share in row_shares(rank, n_shares, min_shares=2)]
    per_row = ("hops", "counts", "log_size", "batch_index")
    parts = [
        whole._replace(**{name: share.take(getattr(whole, name)) for name in per_row}, share=share) for share in shares
    ]
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
    p = rng.dirichlet(np.ones(K), N).astype(np.float32)
    edges = (rng.random((N, N)) < 0.1).astype(np.float32)
    np.fill_diagonal(edges, 0)
    edges /= np.maximum(edges.sum(axis=1, keepdims=True), 1)
    same = torch.eye(N, dtype=torch.bool)
    torch.manual_seed(0)
    net = ScTAGNet(Config(**SIZES, mask_rate=0.0, graph_weight=0.1), torch.zeros(G), 1)
    net.set_centroids(torch.randn(K, 4), 0.5)
    cells = minibatch(edge_targets=torch.from_numpy(edges), same_cell=same, cluster_targets=torch.from_numpy(p))
    with torch.no_grad():
        terms = net([cells])
        z = net.encoder(cells.hops).double().numpy()
        logits = net.decoder(torch.from_numpy(z).float(), cells.batch_index).double().numpy()
        linear = z @ net.graph_decoder.weight.double().numpy().T
    assert list(terms) == ["multinomial", "graph", "cluster"]
    counts = cells.counts.numpy().astype(float)
    log_shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    by_hand = -(counts * log_shares).sum(axis=1) / counts.sum(axis=1)
    assert terms["multinomial"].item() == pytest.approx(by_hand.mean(), rel=1e-5)
    squared = ((z[:, None] - net.centroids.detach().numpy()) ** 2).sum(axis=2) / 0.25
    q = (1 / (1 + squared)) / (1 / (1 + squared)).sum(axis=1, keepdims=True)
    assert terms["cluster"].item() == pytest.approx(stats.entropy(p, q, axis=1).mean(), rel=1e-4)
    linear /= np.linalg.norm(linear, axis=1, keepdims=True)
    similarity = np.exp(linear @ linear.T / 0.2) * ~np.eye(N, dtype=bool)
    log_decoded = np.log(similarity / similarity.sum(axis=1, keepdims=True), where=similarity > 0, out=np.zeros((N, N)))
    assert terms["graph"].item() == pytest.approx(-(edges * log_decoded).sum() / edges.sum(), rel=1e-4)


def test_the_zinb_mean_grows_with_the_size_factor():
    torch.manual_seed(0)
    decoder = ZINBDecoder(4, 8, torch.zeros(G), 1)
    latent, sizes, batches = torch.randn(5, 4), torch.tensor([0.1, 0.5, 1, 2, 30]).log(), torch.zeros(5).long()
    with torch.no_grad():
        (mean, *rest), (usual, *same) = (decoder(latent, log_size, batches) for log_size in (sizes, torch.zeros(5)))
    np.testing.assert_allclose((mean - usual).numpy(), np.tile(sizes[:, None], (1, G)), atol=1e-5)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(rest, same, strict=True))


def test_a_zinb_weighs_cells_alike_however_deep_they_are():
    torch.manual_seed(0)
    decoder, cells = ZINBDecoder(4, 8, torch.zeros(G), 1), minibatch()
    latent = torch.randn(cells.n_rows, 4)
    with torch.no_grad():
        found = decoder.loss(latent, cells).item()
        log_mean, log_dispersion, logit = (
            part.double().numpy() for part in decoder(latent, cells.log_size, cells.batch_index)
        )
    counts, mean, size = cells.counts.double().numpy(), np.exp(log_mean), np.exp(log_dispersion)
    dropped = 1 / (1 + np.exp(-logit))
    likelihood = dropped * (counts == 0) + (1 - dropped) * stats.nbinom.pmf(counts, size, size / (size + mean))
    by_hand = -(np.log(likelihood).sum(axis=1) / np.maximum(counts.sum(axis=1), 1)).mean()
    assert found == pytest.approx(by_hand, rel=1e-4)


def test_far_hops_start_small():
    torch.manual_seed(0)
    near, far = (Ensemble(Config(**{**SIZES, "n_hops": n}), torch.zeros(G)).networks[0].encoder for n in (1, 3))
    sizes = [linear.weight.std().item() for linear in far.hidden.lins]
    np.testing.assert_allclose(sizes[2:], 0.1 * np.mean(sizes[:2]), rtol=0.2)
    assert near.hidden.lins[1].weight.std().item() == pytest.approx(sizes[1], rel=0.2)
