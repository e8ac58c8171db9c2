"""The layout of the original scTAG data, and a plain matrix X with labels Y."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from sctag_tools import read

COUNTS = np.array([[3, 0, 1], [0, 0, 2], [5, 1, 0], [0, 4, 0]], dtype=np.float32)
CELLS, GENES, LABELS = ["c0", "c1", "c2", "c3"], ["g0", "g1", "g2"], ["T", "B", "T", "Zelle-\u03b2"]
NUMBERS = [str(i) for i in range(4)]


def _bytes(values: list[str]) -> np.ndarray:
    return np.array([value.encode() for value in values])


def _write(path: Path, **entries: object) -> Path:
    """An HDF5 file of these entries; two underscores stand for a slash, a CSR matrix for its parts."""
    with h5py.File(path, "w") as file:
        for name, value in entries.items():
            if sparse.issparse(value):
                for part in ("data", "indices", "indptr", "shape"):
                    file[f"{name}/{part}"] = getattr(value, part)
            else:
                file[name.replace("__", "/")] = value
    return path


@pytest.fixture(params=["dense", "csr"])
def exprs(request):
    return COUNTS if request.param == "dense" else sparse.csr_matrix(COUNTS)


def _check(adata: AnnData, cells: list[str] = NUMBERS, genes: list[str] = NUMBERS[:3]) -> None:
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == np.float32
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    assert list(adata.obs_names) == cells
    assert list(adata.var_names) == genes


def test_sctag_layout(tmp_path, exprs):
    path = _write(
        tmp_path / "data.h5",
        exprs=exprs,
        obs_names=_bytes(CELLS),
        var_names=_bytes(GENES),
        obs__cell_type1=_bytes(LABELS),
        obs__n_genes=[2, 1, 2, 1],
        obs__organ=_bytes(["kidney"]),
        obs__matrix=np.zeros((4, 2)),
        obs__nested__inner=[1, 2],
        var__symbol=["a", "b", "c"],
        uns__dataset_name=_bytes(["Pollen"]),
        uns__params__k=[3],
        uns__values=[1.0, 2.0],
    )
    adata = read(path)
    _check(adata, CELLS, GENES)
    assert list(adata.obs) == ["cell_type1", "n_genes"]
    assert adata.obs["cell_type1"].dtype == "category"
    assert list(adata.obs["cell_type1"]) == LABELS
    assert list(adata.obs["n_genes"]) == [2, 1, 2, 1]
    assert list(adata.var["symbol"]) == ["a", "b", "c"]
    assert isinstance(adata.uns["dataset_name"], str)
    assert adata.uns["dataset_name"] == "Pollen"
    assert adata.uns["params"] == {"k": 3}
    np.testing.assert_array_equal(adata.uns["values"], [1.0, 2.0])
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert list(read(tmp_path / "a.h5ad").obs["cell_type1"]) == LABELS


def test_sctag_layout_needs_neither_names_nor_labels(tmp_path, exprs):
    adata = read(_write(tmp_path / "data.h5", exprs=exprs))
    _check(adata)
    assert list(read(_write(tmp_path / "b.h5", exprs=exprs, var_names=list("ggh"))).var_names) == ["g", "g-1", "h"]
    assert adata.obs.empty
    assert not adata.uns


@pytest.mark.parametrize(
    ("labels", "categories", "first"),
    [
        (np.array([10, 2, 2, 1]), ["1", "2", "10"], "10"),
        (np.array([10.0, 2.0, 2.0, 1.0]), ["1", "2", "10"], "10"),
        (np.array([[10], [2], [2], [1]], dtype=np.uint8), ["1", "2", "10"], "10"),
        (np.array([0.5, 2.0, 2.0, 1.0]), ["0.5", "1", "2"], "0.5"),
        (_bytes(["v1.0", "b", "b", "a"]), ["a", "b", "v1.0"], "v1.0"),
        (["v1", "b", "b", "a"], ["a", "b", "v1"], "v1"),
        ([1.0, np.nan, 0.0, 0.0], ["0", "1"], "1"),
    ],
    ids=["int", "float", "column", "fraction", "bytes", "str", "missing"],
)
def test_x_y_layout(tmp_path, labels, categories, first):
    adata = read(_write(tmp_path / "data.h5", X=COUNTS.astype(np.int64), Y=labels))
    _check(adata)
    assert list(adata.obs["Y"].cat.categories) == categories
    assert adata.obs["Y"].iloc[0] == first
    assert list(adata.obs["Y"].isna()) == [False, labels[1] != labels[1], False, False]


def test_x_alone_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("sctag_tools.io.hdf5_layouts._VALUES_PER_BLOCK", 7)
    adata = read(_write(tmp_path / "data.h5", X=COUNTS / -2))
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS / -2)
    assert adata.obs.empty


# --- files that contradict themselves ---


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"obs_names": _bytes(["a", "b"])}, "obs_names has 2 entries, the matrix needs 4"),
        ({"var_names": _bytes(CELLS)}, "var_names has 4 entries, the matrix needs 3"),
        ({"obs__cell_type1": _bytes(["T", "B"])}, "obs/cell_type1 has 2 entries, the matrix needs 4"),
        ({"obs_names": np.array([b"\xff\xfe", b"b", b"c", b"d"])}, "can't decode byte"),
        ({"exprs": np.ones(3)}, r"must be cells x genes, but its shape is \(3,\)"),
        ({"exprs": np.ones((0, 3))}, r"must be cells x genes, but its shape is \(0, 3\)"),
        ({"exprs": np.ones((2, 2, 2))}, r"must be cells x genes, but its shape is \(2, 2, 2\)"),
    ],
)
def test_sctag_layout_that_contradicts_itself(tmp_path, entries, match):
    with pytest.raises(ValueError, match=f"could not be read as HDF5 of the scTAG layout.*{match}"):
        read(_write(tmp_path / "data.h5", **{"exprs": COUNTS, **entries}))


@pytest.mark.parametrize("labels", [[1, 2, 3], np.eye(4)], ids=["short", "one-hot"])
def test_x_y_layout_that_contradicts_itself(tmp_path, labels):
    with pytest.raises(ValueError, match=r"Y has (3|16) entries, the matrix needs 4"):
        read(_write(tmp_path / "data.h5", X=COUNTS, Y=labels))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("indices", np.array([0, 2, 2, 0, 1, 99], dtype=np.int32)),
        ("indptr", np.array([0, 2, 3, 5], dtype=np.int32)),
        ("data", np.ones(3, dtype=np.float32)),
        ("shape", None),
    ],
)
def test_damaged_csr(tmp_path, part, value):
    path = _write(tmp_path / "data.h5", exprs=sparse.csr_matrix(COUNTS))
    with h5py.File(path, "r+") as file:
        del file[f"exprs/{part}"]
        if value is not None:
            file[f"exprs/{part}"] = value
    with pytest.raises(ValueError, match="may be damaged or incomplete") as caught:
        read(path)
    assert caught.value.__cause__ is not None


def test_pollen_in_the_original_layout(real_sets):
    adata, expected = read(real_sets / "pollen_original_layout.h5"), anndata.read_h5ad(real_sets / "Pollen.h5ad")
    assert isinstance(adata.X, sparse.csr_matrix)
    assert (adata.X != expected.X).nnz == 0
    assert list(adata.obs_names) == list(expected.obs_names)
    assert list(adata.var_names) == list(expected.var_names)
    assert list(adata.obs["cell_type1"]) == list(expected.obs["cell_type"])
    assert adata.uns["dataset_name"] == "Pollen"
