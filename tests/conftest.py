"""Small data, short runs, and comparisons of whole AnnData objects."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

import sctag_tools as sctag
from sctag_tools._keys import ResultKeys

REAL_SETS = Path(__file__).resolve().parents[2] / "shared" / "data"
N_CELLS, N_GENES, N_GROUPS = 150, 120, 3
SHORT = {"pretrain_epochs": 3, "cluster_epochs": 2, "progress_bar": False}


def pytest_configure(config: pytest.Config) -> None:
    """Let the fixtures of every_test.py serve the examples in docstrings too, which are not below this folder."""
    spec = importlib.util.spec_from_file_location("every_test", Path(__file__).with_name("every_test.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config.pluginmanager.register(module, "every_test")


@pytest.fixture(scope="session")
def _blobs_once() -> AnnData:
    """Negative binomial counts of three groups in random order; each group has 25 genes of its own."""
    rng = np.random.default_rng(7)
    groups = rng.permutation(np.repeat(np.arange(N_GROUPS), [70, 50, 30]))
    means = np.full((N_GROUPS, N_GENES), 1.5)
    for group in range(N_GROUPS):
        means[group, 25 * group : 25 * (group + 1)] = 9.0
    depth = rng.lognormal(0, 0.3, size=(N_CELLS, 1))
    counts = rng.poisson(rng.gamma(2.0, means[groups] * depth / 2.0))
    obs = {"group": pd.Categorical([f"g{group}" for group in groups])}
    return AnnData(
        sparse.csr_matrix(counts, dtype=np.float32),
        obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(N_CELLS)]),
        var=pd.DataFrame(index=[f"x{i}" for i in range(N_GENES)]),
    )


@pytest.fixture(scope="session")
def _graphed_once(_blobs_once: AnnData) -> AnnData:
    adata = _blobs_once.copy()
    sctag.pp.build_graph(adata)
    return adata


@pytest.fixture(scope="session")
def _clustered_once(_graphed_once: AnnData) -> AnnData:
    adata = _graphed_once.copy()
    sctag.tl.sctag(adata, 3, **SHORT)
    return adata


@pytest.fixture
def blobs(_blobs_once: AnnData) -> AnnData:
    """150 cells x 120 genes of raw counts (CSR float32) and ``obs["group"]``."""
    return _blobs_once.copy()


@pytest.fixture
def graphed(_graphed_once: AnnData) -> AnnData:
    """``blobs`` with the default graph."""
    return _graphed_once.copy()


@pytest.fixture
def clustered(_clustered_once: AnnData) -> AnnData:
    """``graphed`` with a short run of three clusters."""
    return _clustered_once.copy()


@pytest.fixture
def short() -> dict[str, Any]:
    """Options of a run where the labels do not matter."""
    return dict(SHORT)


FORMATS: dict[str, Callable[[np.ndarray], Any]] = {
    "dense": np.ascontiguousarray,
    "csr_matrix": sparse.csr_matrix,
    "csc_matrix": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
}


@pytest.fixture(params=[(name, dtype) for name in FORMATS for dtype in ("float32", "int64")], ids="-".join)
def as_format(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Turns a matrix into one of the formats and types that users have."""
    name, dtype = request.param

    def convert(matrix: Any) -> Any:
        dense = matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
        return FORMATS[name](dense.astype(dtype))

    return convert


@pytest.fixture
def writes_zarr() -> Callable[[int], AbstractContextManager[object]]:
    """A block in which anndata writes zarr in this format."""

    def block(zarr_format: int) -> AbstractContextManager[object]:
        if hasattr(ad.settings, "zarr_write_format"):
            return ad.settings.override(zarr_write_format=zarr_format)
        if zarr_format != 2:
            pytest.skip("anndata before 0.12 writes format 2 alone")
        return nullcontext()

    return block


@pytest.fixture
def real_sets() -> Path:
    if not REAL_SETS.is_dir():
        pytest.skip(f"the development data are not at {REAL_SETS}")
    return REAL_SETS


@pytest.fixture
def drop_result() -> Callable[[AnnData, str], None]:
    """Removes all slots of a result, each of which must be there (the novelty if it was mapped)."""

    def drop(adata: AnnData, key: str = "sctag") -> None:
        keys = ResultKeys(key)
        columns = [keys.clusters, keys.confidence, *([keys.novelty] if "mapped_to" in adata.uns[key] else [])]
        for part, names in {"obs": columns, "obsm": [keys.latent, keys.proba], "uns": [key]}.items():
            slot = getattr(adata, part)
            for name in names:
                del slot[name]

    return drop


@pytest.fixture
def own_random_states() -> Callable[[], AbstractContextManager[None]]:
    """A block that starts with the user's own random states, after which they have not moved."""

    def states() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # noqa: NPY002

    @contextmanager
    def block() -> Iterator[None]:
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        torch.manual_seed(5)
        before = states()
        yield
        assert states() == before

    return block


def _same(a: Any, b: Any, where: str) -> None:
    if isinstance(a, Mapping):
        assert isinstance(b, Mapping), where
        assert list(a) == list(b), f"{where}: {list(a)} != {list(b)}"
        for key in a:
            _same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_exact=True, obj=where)
    elif sparse.issparse(a):
        assert type(a) is type(b), where
        assert a.dtype == b.dtype, where
        assert a.shape == b.shape, where
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(a, part), getattr(b, part), err_msg=where)
    elif isinstance(a, np.ndarray):
        assert isinstance(b, np.ndarray), where
        assert a.dtype == b.dtype, where
        np.testing.assert_array_equal(a, b, err_msg=where)
    else:
        assert type(a) is type(b), where
        assert a == b, where


def _parts(adata: AnnData) -> dict[str, Any]:
    names = ("layers", "obsm", "varm", "obsp", "varp")
    return {"X": adata.X, "obs": adata.obs, "var": adata.var, "uns": dict(adata.uns)} | {
        name: {key: getattr(adata, name)[key] for key in getattr(adata, name)} for name in names
    }


@pytest.fixture
def same() -> Callable[[Any, Any], None]:
    """Fails unless two AnnData (or two parts of them) agree in every slot, type and bit."""

    def check(a: Any, b: Any) -> None:
        if isinstance(a, AnnData):
            assert a.shape == b.shape
            a, b = (_parts(x.copy() if x.is_view else x) for x in (a, b))  # parts of a view have types of their own
        _same(a, b, "adata")

    return check


@pytest.fixture
def unchanged(same: Callable[[Any, Any], None]) -> Callable[[AnnData], AbstractContextManager[None]]:
    """A block after which an AnnData is bit for bit what it was before."""

    @contextmanager
    def block(adata: AnnData) -> Iterator[None]:
        before, was_view = adata.copy(), adata.is_view
        yield
        assert adata.is_view == was_view
        same(before, adata)

    return block
