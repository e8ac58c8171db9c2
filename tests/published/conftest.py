"""Small cells for the published method, and one stored run of the original code."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse
from sklearn.neighbors import kneighbors_graph

PEERS = Path(__file__).resolve().parents[3] / "shared" / "peers"
LAYERS = {
    "hidden": "encoder/tag_conv/dense",
    "latent": "encoder/tag_conv_1/dense_1",
    "graph": "decoderA/dense_2",
    "bilinear": "decoderA/bilinear",
    **{f"decoder.{i}": f"decoderX/dense_{i + 3}" for i in range(3)},
}


@pytest.fixture(scope="session")
def original():
    """One run on Pollen: x, genes, distances (a pattern), weights under our names, losses and latent of 50 epochs."""
    path = PEERS / "original_pollen_seed1.npz"
    if not path.exists():
        pytest.skip("peers/original_pollen_seed1.npz is not stored beside this checkout")
    with np.load(path) as file:
        stored = dict(file)
    n, k = stored["neighbors"].shape
    pattern = np.ones(n * k), stored["neighbors"].ravel(), np.arange(0, n * k + 1, k)
    heads = [stored[f"decoderX/{head}/kernel:0"] for head in ("pi", "dispersion", "mean")]
    weights = {f"{ours}.kernel": stored[f"{theirs}/kernel:0"] for ours, theirs in LAYERS.items()}
    return SimpleNamespace(
        x=stored["X"],
        genes=[gene.decode() for gene in stored["genes"]],
        distances=sparse.csr_matrix(pattern, shape=(n, n)),
        weights=weights | {"heads.kernel": np.concatenate(heads, axis=1)},
        losses=stored["losses_zinb_adjacency"],
        latent=stored["latent_after_50"],
    )


@pytest.fixture(scope="session")
def cells():
    """150 cells x 40 genes in 3 groups: x, distances to 14 neighbors (directed), counts, size_factors, groups."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(3), 50)
    profiles = rng.gamma(0.5, 2.0, size=(3, 40))
    counts = rng.poisson(profiles[groups] * rng.uniform(0.5, 2, size=(150, 1)) + 0.05)
    size_factors = counts.sum(axis=1) / np.median(counts.sum(axis=1))
    x = np.log1p(counts / size_factors[:, None])
    x = ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)
    distances, counts = kneighbors_graph(x, 14, mode="distance"), sparse.csr_matrix(counts, dtype=np.float32)
    return SimpleNamespace(x=x, distances=distances, counts=counts, size_factors=size_factors, groups=groups)
