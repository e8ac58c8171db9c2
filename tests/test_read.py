"""Every readable format, written as real files, and what cannot be read."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import warnings
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import io, sparse

import sctag_tools
from sctag_tools._read import read

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
COUNTS = np.array([[3, 0, 1], [0, 0, 2], [5, 1, 0], [0, 4, 0]], dtype=np.float32)
CELLS = ["c0", "c1", "c2", "c3"]
GENES = ["g0", "g1", "g2"]
needs_loompy = pytest.mark.skipif(find_spec("loompy") is None, reason="loompy is not installed")
LABELS = ["T", "B", "T", "Zelle-\u03b2"]


def _dense(adata: AnnData) -> np.ndarray:
    return adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)


def _check(adata: AnnData, cells: list[str] = CELLS, genes: list[str] = GENES) -> None:
    np.testing.assert_array_equal(_dense(adata), COUNTS)
    assert list(adata.obs_names) == cells
    assert list(adata.var_names) == genes
    assert not adata.is_view


def _is_csr_float32(adata: AnnData) -> bool:
    return isinstance(adata.X, sparse.csr_matrix) and adata.X.dtype == np.float32


def _example() -> AnnData:
    obs = pd.DataFrame({"cell_type": pd.Categorical(LABELS)}, index=CELLS)
    return AnnData(sparse.csr_matrix(COUNTS), obs=obs, var=pd.DataFrame(index=GENES))


def _write_zarr(path: Path, in_format: AbstractContextManager[object]) -> Path:
    with warnings.catch_warnings(), in_format:
        warnings.simplefilter("ignore")
        _example().write_zarr(path)
    return path


def _write_matrix(file: h5py.File, name: str, *, dense: bool, counts: np.ndarray = COUNTS) -> None:
    if dense:
        file[name] = counts
        return
    matrix = sparse.csr_matrix(counts)
    for part in ("data", "indices", "indptr", "shape"):
        file[f"{name}/{part}"] = getattr(matrix, part)


def _write_sctag(path: Path, *, dense: bool = False, **entries: object) -> Path:
    with h5py.File(path, "w") as file:
        _write_matrix(file, "exprs", dense=dense)
        for name, value in entries.items():
            file[name.replace("__", "/")] = value
    return path


def _bytes(values: list[str]) -> np.ndarray:
    return np.array([value.encode() for value in values])


def _write_10x_h5(path: Path, *, version: int, genes: list[str] = GENES) -> Path:
    matrix = sparse.csc_matrix(COUNTS.T.astype(np.int32))
    group = "matrix" if version == 3 else "hg19"
    with h5py.File(path, "w") as file:
        for part in ("data", "indices", "indptr"):
            file[f"{group}/{part}"] = getattr(matrix, part)
        file[f"{group}/shape"] = np.array(matrix.shape, dtype=np.int32)
        file[f"{group}/barcodes"] = _bytes(CELLS)
        if version == 3:
            file[f"{group}/features/name"] = _bytes(genes)
            file[f"{group}/features/id"] = _bytes([f"ENSG{i}" for i in range(3)])
            file[f"{group}/features/feature_type"] = _bytes(["Gene Expression"] * 3)
            file[f"{group}/features/genome"] = _bytes(["GRCh38"] * 3)
        else:
            file[f"{group}/gene_names"] = _bytes(genes)
            file[f"{group}/genes"] = _bytes([f"ENSG{i}" for i in range(3)])
    return path


def _write_10x_mtx(path: Path, *, version: int, genes: list[str] = GENES) -> Path:
    path.mkdir()
    columns = [[f"ENSG{i}" for i in range(3)], genes, ["Gene Expression"] * 3]
    rows = zip(*columns[:version], strict=True)
    (path / "genes.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    (path / "barcodes.tsv").write_text("".join(f"{cell}\n" for cell in CELLS))
    io.mmwrite(path / "matrix.mtx", sparse.csr_matrix(COUNTS.T.astype(np.int64)))
    if version == 3:
        (path / "genes.tsv").rename(path / "features.tsv")
        for name in ("features.tsv", "barcodes.tsv", "matrix.mtx"):
            with gzip.open(path / f"{name}.gz", "wb") as file:
                file.write((path / name).read_bytes())
            (path / name).unlink()
    return path


@pytest.mark.parametrize("name", ["a.h5ad", "a.h5", "no_suffix"])
def test_h5ad_whatever_its_suffix(tmp_path: Path, name: str) -> None:
    _example().write_h5ad(tmp_path / name)
    adata = read(tmp_path / name)
    _check(adata)
    assert list(adata.obs["cell_type"]) == LABELS


def test_path_as_string(tmp_path: Path) -> None:
    _example().write_h5ad(tmp_path / "a.h5ad")
    _check(read(str(tmp_path / "a.h5ad")))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_folder(tmp_path: Path, zarr_format: int, writes_zarr) -> None:
    adata = read(_write_zarr(tmp_path / "a.zarr", writes_zarr(zarr_format)))
    _check(adata)
    assert list(adata.obs["cell_type"]) == LABELS


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_zip(tmp_path: Path, zarr_format: int, writes_zarr) -> None:
    folder = _write_zarr(tmp_path / "a.zarr", writes_zarr(zarr_format))
    shutil.make_archive(str(folder), "zip", folder)
    adata = read(tmp_path / "a.zarr.zip")
    _check(adata)
    assert list(adata.obs["cell_type"]) == LABELS


def test_damaged_zarr(tmp_path: Path, writes_zarr) -> None:
    folder = _write_zarr(tmp_path / "a.zarr", writes_zarr(2))
    shutil.rmtree(folder / "obs")
    with pytest.raises(ValueError, match="could not be read as zarr"):
        read(folder)


def test_h5ad_gene_names_become_unique(tmp_path: Path) -> None:
    adata = AnnData(COUNTS, obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=GENES))
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["var/_index"][1] = "g0"
    _check(read(tmp_path / "a.h5ad"), genes=["g0", "g0-1", "g2"])


@pytest.mark.parametrize("version", [2, 3])
def test_10x_h5(tmp_path: Path, version: int) -> None:
    adata = read(_write_10x_h5(tmp_path / "filtered.h5", version=version))
    _check(adata)
    assert list(adata.var["gene_ids"]) == ["ENSG0", "ENSG1", "ENSG2"]


@pytest.mark.parametrize("version", [2, 3])
def test_10x_mtx(tmp_path: Path, version: int) -> None:
    adata = read(_write_10x_mtx(tmp_path / "filtered", version=version))
    _check(adata)
    assert list(adata.var["gene_ids"]) == ["ENSG0", "ENSG1", "ENSG2"]


@pytest.mark.parametrize("write", [_write_10x_h5, _write_10x_mtx])
@pytest.mark.parametrize("version", [2, 3])
def test_gene_names_become_unique(tmp_path: Path, write, version: int) -> None:
    adata = read(write(tmp_path / "filtered", version=version, genes=["g", "h", "g"]))
    _check(adata, genes=["g", "h", "g-1"])


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".CSV"])
def test_text(tmp_path: Path, suffix: str) -> None:
    separator = "," if "csv" in suffix.lower() else "\t"
    path = tmp_path / f"a{suffix}"
    pd.DataFrame(COUNTS, index=CELLS, columns=GENES).to_csv(path, sep=separator)
    _check(read(path))


@pytest.mark.parametrize(
    "text",
    [
        '"g0","g1","g2"\n"c0",3,0,1\n"c1",0,0,2\n"c2",5,1,0\n"c3",0,4,0\n',
        "# from elsewhere\n\ncell,g0,g1,g2\nc0,3,0,1\nc1,0,0,2\nc2,5,1,0\nc3,0,4,0",
        "x,g0,g1,g2\r\nc0,3,0,1\r\nc1,0,0,2\r\nc2,5,1,0\r\nc3,0,4,0\r\n",
    ],
    ids=["R", "comment", "crlf"],
)
def test_text_dialects(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode())
    _check(read(tmp_path / "a.csv"))


def test_text_with_spaces(tmp_path: Path) -> None:
    rows = zip(["cell", *CELLS], [GENES, *COUNTS], strict=True)
    (tmp_path / "a.txt").write_text("\n".join(f"{name}  {' '.join(map(str, values))}" for name, values in rows))
    _check(read(tmp_path / "a.txt"))


def test_text_tabs_keep_spaces_in_names(tmp_path: Path) -> None:
    pd.DataFrame(COUNTS, index=["cell 0", *CELLS[1:]], columns=GENES).to_csv(tmp_path / "a.txt", sep="\t")
    _check(read(tmp_path / "a.txt"), cells=["cell 0", *CELLS[1:]])


def test_text_numbers_as_cell_names(tmp_path: Path) -> None:
    pd.DataFrame(COUNTS, columns=GENES).to_csv(tmp_path / "a.csv")
    _check(read(tmp_path / "a.csv"), cells=["0", "1", "2", "3"])


@needs_loompy
def test_loom_written_by_anndata(tmp_path: Path) -> None:
    adata = _example()
    adata.obs["cell_type"] = list("TBTB")  # loompy is not at ease with other than ASCII strings
    adata.layers["spliced"] = adata.X * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_loom(tmp_path / "a.loom")
    adata = read(tmp_path / "a.loom")
    _check(adata)
    assert list(adata.obs["cell_type"]) == list("TBTB")


@needs_loompy
def test_loom(tmp_path: Path) -> None:
    _check(read(_write_bare_loom(tmp_path / "a.loom")))


@needs_loompy
def test_loom_without_names(tmp_path: Path) -> None:
    adata = read(_write_bare_loom(tmp_path / "a.loom", names=False))
    _check(adata, cells=["0", "1", "2", "3"], genes=["0", "1", "2"])
    assert list(adata.var["symbol"]) == GENES


def _write_bare_loom(path: Path, *, names: bool = True) -> Path:
    with h5py.File(path, "w") as file:
        file["matrix"] = COUNTS.T
        file["row_attrs/Gene" if names else "row_attrs/symbol"] = GENES
        file["col_attrs/CellID" if names else "col_attrs/plate"] = CELLS
        for group in ("layers", "row_graphs", "col_graphs", "attrs"):
            file.create_group(group)
        file["attrs/LOOM_SPEC_VERSION"] = "3.0.0"
    return path


def test_loom_without_loompy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "loompy", None)
    with pytest.raises(ImportError, match="loompy") as caught:
        read(_write_bare_loom(tmp_path / "a.loom"))
    assert caught.value.__notes__ == ["pip install loompy"]


@pytest.mark.parametrize("kind", ["dense", "csr"])
def test_sctag_layout(tmp_path: Path, kind: str) -> None:
    path = _write_sctag(
        tmp_path / "data.h5",
        dense=kind == "dense",
        obs_names=_bytes(CELLS),
        var_names=_bytes(GENES),
        obs__cell_type1=_bytes(LABELS),
        obs__n_genes=[2, 1, 2, 1],
        obs__organ=_bytes(["kidney"]),
        obs__matrix=np.zeros((4, 2)),
        obs__nested__inner=[1, 2],
        var__symbol=_bytes(["a", "b", "c"]),
        uns__dataset_name=_bytes(["Pollen"]),
        uns__params__k=[3],
        uns__values=[1.0, 2.0],
    )
    adata = read(path)
    _check(adata)
    assert _is_csr_float32(adata)
    assert list(adata.obs) == ["cell_type1", "n_genes"]
    assert adata.obs["cell_type1"].dtype == "category"
    assert list(adata.obs["cell_type1"]) == LABELS
    assert list(adata.obs["n_genes"]) == [2, 1, 2, 1]
    assert list(adata.var["symbol"]) == ["a", "b", "c"]
    assert adata.uns["dataset_name"] == "Pollen"
    assert adata.uns["params"] == {"k": 3}
    np.testing.assert_array_equal(adata.uns["values"], [1.0, 2.0])


def test_sctag_layout_can_be_written_as_h5ad(tmp_path: Path) -> None:
    path = _write_sctag(tmp_path / "data.h5", obs__cell_type1=LABELS, uns__name="Pollen", var__symbol=_bytes(GENES))
    read(path).write_h5ad(tmp_path / "a.h5ad")
    assert list(read(tmp_path / "a.h5ad").obs["cell_type1"]) == LABELS


@pytest.mark.parametrize("kind", ["dense", "csr"])
def test_sctag_layout_needs_neither_names_nor_labels(tmp_path: Path, kind: str) -> None:
    adata = read(_write_sctag(tmp_path / "data.h5", dense=kind == "dense"))
    _check(adata, cells=["0", "1", "2", "3"], genes=["0", "1", "2"])
    assert adata.obs.empty
    assert not adata.uns


def test_sctag_layout_makes_gene_names_unique(tmp_path: Path) -> None:
    adata = read(_write_sctag(tmp_path / "data.h5", var_names=_bytes(["g", "g", "h"])))
    assert list(adata.var_names) == ["g", "g-1", "h"]


@pytest.mark.parametrize(
    ("labels", "categories", "first"),
    [
        (np.array([10, 2, 2, 1]), ["1", "2", "10"], "10"),
        (np.array([10.0, 2.0, 2.0, 1.0]), ["1", "2", "10"], "10"),
        (np.array([[10], [2], [2], [1]], dtype=np.uint8), ["1", "2", "10"], "10"),
        (np.array([0.5, 2.0, 2.0, 1.0]), ["0.5", "1", "2"], "0.5"),
        (_bytes(["v1.0", "b", "b", "a"]), ["a", "b", "v1.0"], "v1.0"),
        (["v1", "b", "b", "a"], ["a", "b", "v1"], "v1"),
    ],
    ids=["int", "float", "column", "fraction", "bytes", "str"],
)
def test_x_y_layout(tmp_path: Path, labels: np.ndarray, categories: list[str], first: str) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["X"] = COUNTS.astype(np.int64)
        file["Y"] = labels
    adata = read(tmp_path / "data.h5")
    _check(adata, cells=["0", "1", "2", "3"], genes=["0", "1", "2"])
    assert _is_csr_float32(adata)
    assert list(adata.obs["Y"].cat.categories) == categories
    assert adata.obs["Y"].iloc[0] == first


def test_x_y_layout_without_labels(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["X"] = COUNTS
    assert read(tmp_path / "data.h5").obs.empty


def test_x_y_layout_missing_labels_stay_missing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["X"] = COUNTS
        file["Y"] = [1.0, np.nan, 0.0, 0.0]
    labels = read(tmp_path / "data.h5").obs["Y"]
    assert list(labels.isna()) == [False, True, False, False]
    assert list(labels.cat.categories) == ["0", "1"]


def test_dense_blocks_equal_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sctag_tools._read._BLOCK_VALUES", 7)
    _check(read(_write_sctag(tmp_path / "data.h5", dense=True)), cells=["0", "1", "2", "3"], genes=["0", "1", "2"])


def test_fractions_and_negatives_are_kept(tmp_path: Path) -> None:
    values = np.array([[0.5, -1.0], [0.0, 2.25]], dtype=np.float32)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["X"] = values
    np.testing.assert_array_equal(_dense(read(tmp_path / "data.h5")), values)


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.h5ad does not exist"):
        read(tmp_path / "absent.h5ad")


@pytest.mark.parametrize(("name", "content"), [("a.rds", b"RDX3"), ("a.h5ad", b"version https"), ("empty", b"")])
def test_file_of_another_format(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"none of the readable formats: h5ad, zarr, loom, 10x h5, .*X and Y"):
        read(tmp_path / name)


def test_folder_of_another_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the readable formats"):
        read(tmp_path)


@pytest.mark.parametrize(("entries", "found"), [(["counts", "meta"], "'counts', 'meta'"), ([], "nothing")])
def test_unknown_hdf5_layout(tmp_path: Path, entries: list[str], found: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in entries:
            file.create_group(name)
    with pytest.raises(ValueError, match=rf"unknown layout: found {found} at its top, expected 'exprs'"):
        read(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"obs_names": _bytes(["a", "b"])}, "obs_names has 2 entries, the matrix needs 4"),
        ({"var_names": _bytes(CELLS)}, "var_names has 4 entries, the matrix needs 3"),
        ({"obs__cell_type1": _bytes(["T", "B"])}, "obs/cell_type1 has 2 entries, the matrix needs 4"),
        ({"obs_names": np.array([b"\xff\xfe", b"b", b"c", b"d"])}, "can't decode byte"),
    ],
)
def test_sctag_layout_that_contradicts_itself(tmp_path: Path, entries: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=f"could not be read as HDF5 of the scTAG layout.*{match}"):
        read(_write_sctag(tmp_path / "data.h5", **entries))


@pytest.mark.parametrize("labels", [[1, 2, 3], np.eye(4)], ids=["short", "one-hot"])
def test_x_y_layout_that_contradicts_itself(tmp_path: Path, labels: object) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["X"] = COUNTS
        file["Y"] = labels
    with pytest.raises(ValueError, match=r"Y has (3|16) entries, the matrix needs 4"):
        read(tmp_path / "data.h5")


@pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 2, 2)])
def test_dense_matrix_of_wrong_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["X"] = np.ones(shape)
    with pytest.raises(ValueError, match="must be cells x genes, but its shape is"):
        read(tmp_path / "data.h5")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("indices", np.array([0, 2, 2, 0, 1, 99], dtype=np.int32)),
        ("indptr", np.array([0, 2, 3, 5], dtype=np.int32)),
        ("data", np.ones(3, dtype=np.float32)),
        ("shape", None),
    ],
)
def test_damaged_csr(tmp_path: Path, part: str, value: np.ndarray | None) -> None:
    path = _write_sctag(tmp_path / "data.h5")
    with h5py.File(path, "r+") as file:
        del file[f"exprs/{part}"]
        if value is not None:
            file[f"exprs/{part}"] = value
    with pytest.raises(ValueError, match="may be damaged or incomplete") as caught:
        read(path)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("kind", ["h5ad", "10x", "sctag"])
def test_truncated_hdf5(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.h5"
    write = {"h5ad": _example().write_h5ad, "10x": lambda p: _write_10x_h5(p, version=3), "sctag": _write_sctag}
    write[kind](path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="damaged or incomplete HDF5 file") as caught:
        read(path)
    assert isinstance(caught.value.__cause__, OSError)


def test_10x_folder_without_barcodes(tmp_path: Path) -> None:
    path = _write_10x_mtx(tmp_path / "filtered", version=3)
    (path / "barcodes.tsv.gz").unlink()
    with pytest.raises(ValueError, match=r"could not be read as 10x mtx folder.*barcodes"):
        read(path)


def test_10x_h5_without_barcodes(tmp_path: Path) -> None:
    path = _write_10x_h5(tmp_path / "a.h5", version=3)
    with h5py.File(path, "r+") as file:
        del file["matrix/barcodes"]
    with pytest.raises(ValueError, match="could not be read as 10x h5"):
        read(path)


def test_damaged_zip(tmp_path: Path) -> None:
    (tmp_path / "a.zarr.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="could not be read as zarr"):
        read(tmp_path / "a.zarr.zip")


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    pd.DataFrame(COUNTS, index=CELLS, columns=GENES).to_csv(path)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ValueError, match="could not be read as csv, tsv or txt table"):
        read(path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "holds no table"),
        ("c0,1,2\nc1,3,4\n", "must hold the gene names, but it ends with the number 2"),
        (",0,1\nc0,1,2\n", "must hold the gene names, but it ends with the number 1"),
        (",g0,g1\nc0,1,many\n", "many"),
        (",g0,g1\nc0,1,2\nc1,1\n", "Length of first line"),
        (",g0\n", "could not be read"),
    ],
)
def test_unusable_tables(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=match):
        read(tmp_path / "a.csv")


def test_module_is_cheap_to_import() -> None:
    code = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('r', sys.argv[1]); "
        "spec.loader.exec_module(importlib.util.module_from_spec(spec)); "
        "print([name for name in ('scanpy', 'anndata', 'h5py', 'numpy', 'torch') if name in sys.modules])"
    )
    source = Path(sctag_tools.__file__).parent / "_read.py"
    done = subprocess.run([sys.executable, "-c", code, str(source)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_pollen_in_the_original_layout() -> None:
    original, reference = SHARED / "pollen_original_layout.h5", SHARED / "Pollen.h5ad"
    if not (original.exists() and reference.exists()):
        pytest.skip("the shared data folder is not beside the checkout")
    adata, expected = read(original), anndata.read_h5ad(reference)
    assert _is_csr_float32(adata)
    assert (adata.X != expected.X).nnz == 0
    assert list(adata.obs_names) == list(expected.obs_names)
    assert list(adata.var_names) == list(expected.var_names)
    assert list(adata.obs["cell_type1"]) == list(expected.obs["cell_type"])
    assert adata.uns["dataset_name"] == "Pollen"
