"""Every readable format, written as real files, and what cannot be read; tables and our HDF5 layouts have own files."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import io, sparse

from sctag_tools import read

COUNTS = np.array([[3, 0, 1], [0, 0, 2], [5, 1, 0], [0, 4, 0]], dtype=np.float32)
CELLS, GENES, GENE_IDS = ["c0", "c1", "c2", "c3"], ["g0", "g1", "g2"], ["ENSG0", "ENSG1", "ENSG2"]
LABELS = ["T", "B", "T", "Zelle-\u03b2"]
needs_loompy = pytest.mark.skipif(find_spec("loompy") is None, reason="loompy is not installed")


def _check(adata: AnnData, cells: list[str] = CELLS, genes: list[str] = GENES) -> None:
    np.testing.assert_array_equal(adata.X.toarray() if sparse.issparse(adata.X) else adata.X, COUNTS)
    assert list(adata.obs_names) == cells
    assert list(adata.var_names) == genes
    assert not adata.is_view


def _example(genes: list[str] = GENES) -> AnnData:
    obs = pd.DataFrame({"cell_type": pd.Categorical(LABELS)}, index=CELLS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that occur twice
        return AnnData(sparse.csr_matrix(COUNTS), obs=obs, var=pd.DataFrame(index=genes))


def _write_h5ad(path: Path, genes: list[str] = GENES) -> None:
    _example(genes).write_h5ad(path)


def _write_10x_h5(path: Path, genes: list[str] = GENES, version: int = 3) -> None:
    matrix = sparse.csc_matrix(COUNTS.T.astype(np.int32))
    entries = {part: getattr(matrix, part) for part in ("data", "indices", "indptr")}
    entries |= {"shape": np.array(matrix.shape, dtype=np.int32), "barcodes": np.array(CELLS, "S")}
    columns = {"name": genes, "id": GENE_IDS, "feature_type": ["Gene Expression"] * 3, "genome": ["GRCh38"] * 3}
    if version == 3:
        entries |= {f"features/{name}": np.array(values, "S") for name, values in columns.items()}
    else:
        entries |= {"gene_names": np.array(genes, "S"), "genes": np.array(GENE_IDS, "S")}
    with h5py.File(path, "w") as file:
        for name, value in entries.items():
            file[f"{'matrix' if version == 3 else 'hg19'}/{name}"] = value


def _write_10x_mtx(path: Path, genes: list[str] = GENES, version: int = 3) -> None:
    path.mkdir()
    features = zip(*[GENE_IDS, genes, ["Gene Expression"] * 3][:version], strict=True)
    (path / "genes.tsv").write_text("".join("\t".join(row) + "\n" for row in features))
    (path / "barcodes.tsv").write_text("".join(f"{cell}\n" for cell in CELLS))
    io.mmwrite(path / "matrix.mtx", sparse.csr_matrix(COUNTS.T.astype(np.int64)))
    if version == 3:
        (path / "genes.tsv").rename(path / "features.tsv")
        for name in ("features.tsv", "barcodes.tsv", "matrix.mtx"):
            with gzip.open(path / f"{name}.gz", "wb") as file:
                file.write((path / name).read_bytes())
            (path / name).unlink()


def _write_loom(path: Path, *, names: bool = True) -> None:
    with h5py.File(path, "w") as file:
        file["matrix"] = COUNTS.T
        file["row_attrs/Gene" if names else "row_attrs/symbol"] = GENES
        file["col_attrs/CellID" if names else "col_attrs/plate"] = CELLS
        for group in ("layers", "row_graphs", "col_graphs", "attrs"):
            file.create_group(group)
        file["attrs/LOOM_SPEC_VERSION"] = "3.0.0"


# --- formats ---


@pytest.mark.parametrize("name", ["a.h5ad", "a.h5", "no_suffix"])
def test_h5ad_whatever_its_suffix(tmp_path, name):
    _write_h5ad(tmp_path / name)
    adata = read(str(tmp_path / name))
    _check(adata)
    assert list(adata.obs["cell_type"]) == LABELS


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_folder_and_zip(tmp_path, zarr_format, writes_zarr):
    folder = tmp_path / "a.zarr"
    with warnings.catch_warnings(), writes_zarr(zarr_format):
        warnings.simplefilter("ignore")
        _example().write_zarr(folder)
    shutil.make_archive(str(folder), "zip", folder)
    for path in (folder, tmp_path / "a.zarr.zip"):
        adata = read(path)
        _check(adata)
        assert list(adata.obs["cell_type"]) == LABELS
    shutil.rmtree(folder / "obs")
    (tmp_path / "b.zarr.zip").write_bytes(b"PK\x03\x04 and no more")
    for path in (folder, tmp_path / "b.zarr.zip"):
        with pytest.raises(ValueError, match="could not be read as zarr"):
            read(path)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("write", [_write_10x_h5, _write_10x_mtx])
def test_10x(tmp_path, write, version):
    write(tmp_path / "filtered", version=version)
    adata = read(tmp_path / "filtered")
    _check(adata)
    assert list(adata.var["gene_ids"]) == GENE_IDS


@pytest.mark.parametrize("write", [_write_h5ad, _write_10x_h5, _write_10x_mtx])
def test_gene_names_become_unique(tmp_path, write):
    write(tmp_path / "filtered", genes=["g", "h", "g"])
    _check(read(tmp_path / "filtered"), genes=["g", "h", "g-1"])


@needs_loompy
def test_loom(tmp_path):
    adata = _example()
    adata.obs["cell_type"] = list("TBTB")  # loompy is not at ease with other than ASCII strings
    adata.layers["spliced"] = adata.X * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_loom(tmp_path / "a.loom")
    _check(read(tmp_path / "a.loom"))
    assert list(read(tmp_path / "a.loom").obs["cell_type"]) == list("TBTB")
    _write_loom(tmp_path / "b.loom")
    _check(read(tmp_path / "b.loom"))
    _write_loom(tmp_path / "c.loom", names=False)
    _check(read(tmp_path / "c.loom"), cells=["0", "1", "2", "3"], genes=["0", "1", "2"])
    assert list(read(tmp_path / "c.loom").var["symbol"]) == GENES


def test_loom_without_loompy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "loompy", None)
    _write_loom(tmp_path / "a.loom")
    with pytest.raises(ImportError, match="loompy") as caught:
        read(tmp_path / "a.loom")
    assert caught.value.__notes__ == ["pip install loompy"]


# --- what cannot be read ---


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.h5ad does not exist"):
        read(tmp_path / "absent.h5ad")
    with pytest.raises(ValueError, match="The path is empty"):
        read("")


@pytest.mark.parametrize(("name", "content"), [("a.rds", b"RDX3"), ("a.h5ad", b"version https"), ("empty", b"")])
def test_file_of_another_format(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"none of the readable formats: h5ad, zarr, loom, 10x h5, .*X and Y"):
        read(tmp_path / name)


@pytest.mark.parametrize(("entries", "found"), [(["counts", "meta"], "'counts', 'meta'"), ([], "nothing")])
def test_unknown_hdf5_layout(tmp_path, entries, found):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in entries:
            file.create_group(name)
    with pytest.raises(ValueError, match=rf"unknown layout: found {found} at its top, expected 'exprs'"):
        read(tmp_path / "a.h5")


@pytest.mark.parametrize("write", [_write_h5ad, _write_10x_h5])
def test_truncated_hdf5(tmp_path, write):
    path = tmp_path / "a.h5"
    write(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="damaged or incomplete HDF5 file") as caught:
        read(path)
    assert isinstance(caught.value.__cause__, OSError)


def test_10x_without_barcodes(tmp_path):
    folder, file = tmp_path / "filtered", tmp_path / "a.h5"
    _write_10x_mtx(folder)
    (folder / "barcodes.tsv.gz").unlink()
    with pytest.raises(ValueError, match=r"could not be read as 10x mtx folder.*barcodes"):
        read(folder)
    _write_10x_h5(file)
    with h5py.File(file, "r+") as opened:
        del opened["matrix/barcodes"]
    with pytest.raises(ValueError, match="could not be read as 10x h5"):
        read(file)


# --- paths that are nearly right ---


@pytest.mark.parametrize("name", ["matrix.mtx.gz", "barcodes.tsv.gz", "features.tsv.gz"])
def test_a_file_of_a_10x_folder(tmp_path, name):
    _write_10x_mtx(tmp_path / "filtered")
    with pytest.raises(ValueError, match=re.escape(f"pass the folder that holds it, {tmp_path / 'filtered'}.")):
        read(tmp_path / "filtered" / name)


def test_folders_of_other_things(tmp_path):
    with pytest.raises(ValueError, match=r"a folder without matrix.mtx or matrix.mtx.gz of 10x, .* It holds nothing;"):
        read(tmp_path)
    _write_10x_mtx(tmp_path / "filtered")
    (tmp_path / "summary.html").write_text("")
    with pytest.raises(ValueError, match=r"It holds 'filtered', 'summary.html'; if one of these is meant, pass that."):
        read(tmp_path)
    for i in range(4):
        (tmp_path / f"f{i}").write_text("")
    with pytest.raises(ValueError, match=r"It holds 'f0', 'f1', 'f2', 'f3', 'filtered', ...; if"):
        read(tmp_path)


def test_the_readers_load_nothing_heavy_before_they_are_used():
    code = (
        "import sys, sctag_tools.io.read\n"
        "print([name for name in ('scanpy', 'anndata', 'h5py', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
