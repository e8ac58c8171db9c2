"""Folders of Cell Ranger, STARsolo and their kin: compressed or not, one to three columns, odd names."""

import gzip
import os
import subprocess
import sys

import numpy as np
import pytest
import scanpy as sc
from scipy import io, sparse

import sctag_tools as sctag

COUNTS = np.random.default_rng(0).poisson(1, (6, 4))
CELLS = [f"ACGT{i}-1" for i in range(6)]


@pytest.fixture
def folder(tmp_path):
    def write(features, *, name="features.tsv", compressed=()):
        io.mmwrite(tmp_path / "matrix.mtx", sparse.coo_matrix(COUNTS.T), field="integer")
        (tmp_path / name).write_text("".join(f"{line}\n" for line in features))
        (tmp_path / "barcodes.tsv").write_text("".join(f"{cell}\n" for cell in CELLS))
        for file in ("matrix.mtx", name, "barcodes.tsv") if compressed == "all" else compressed:
            (tmp_path / f"{file}.gz").write_bytes(gzip.compress((tmp_path / file).read_bytes()))
            (tmp_path / file).unlink()
        return tmp_path

    return write


def check(adata, names):
    assert sparse.isspmatrix_csr(adata.X)
    assert adata.X.dtype == np.float32
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    assert adata.obs_names.tolist() == CELLS
    assert adata.var_names.tolist() == names


@pytest.mark.parametrize("compressed", ["all", (), ("matrix.mtx",)])
@pytest.mark.parametrize("name", ["features.tsv", "genes.tsv"])
@pytest.mark.parametrize("n_columns", [1, 2, 3])
def test_whatever_is_compressed_and_however_many_columns(folder, compressed, name, n_columns):
    rows = [("ENSG1", "CD3E"), ("ENSG2", "CD8A"), ("ENSG3", "MS4A1"), ("ENSG4", "LYZ")]
    rows = ["\t".join((*row, "Gene Expression")[:n_columns]) for row in rows]
    adata = sctag.read(folder(rows, name=name, compressed=compressed))
    check(adata, ["ENSG1", "ENSG2", "ENSG3", "ENSG4"] if n_columns == 1 else ["CD3E", "CD8A", "MS4A1", "LYZ"])
    assert ("gene_ids" in adata.var) == (n_columns > 1)


def test_it_is_what_scanpy_reads(folder):
    path = folder([f"ENSG{i}\tg{i}\t{kind}" for i, kind in enumerate(["Gene Expression"] * 3 + ["Antibody Capture"])],
                  compressed="all")  # fmt: skip
    ours, theirs = sctag.read(path), sc.read_10x_mtx(path)
    np.testing.assert_array_equal(ours.X.toarray(), theirs.X.toarray())
    assert ours.var_names.tolist() == theirs.var_names.tolist() == ["g0", "g1", "g2"]
    for column in ("gene_ids", "feature_types"):
        assert ours.var[column].tolist() == theirs.var[column].tolist()


def test_names_stay_text_and_a_gene_without_one_has_its_id(folder):
    """Flies have a gene called nan; numbers and quotes are names, too."""
    adata = sctag.read(folder(["FBgn1\tnan", "FBgn2\t", "3\t007", "FBgn4\t'NA\""]))
    check(adata, ["nan", "FBgn2", "007", "'NA\""])


@pytest.mark.parametrize(
    ("change", "said"), [("barcodes", "barcodes.tsv"), ("features", "features.tsv or genes.tsv"), ("short", "4 rows")]
)
def test_what_is_missing_or_does_not_fit_is_said(folder, change, said):
    path = folder(["g1", "g2", "g3", *([] if change == "short" else ["g4"])])
    if change != "short":
        (path / f"{change}.tsv").unlink()
    with pytest.raises(ValueError, match=rf"could not be read as 10x mtx folder.*{said}"):
        sctag.read(path)


def test_a_matrix_alone_is_told_apart_from_a_part_of_a_folder(folder, tmp_path):
    path = folder(["g1", "g2", "g3", "g4"])
    with pytest.raises(ValueError, match="pass the folder that holds it"):
        sctag.read(path / "matrix.mtx")
    other = tmp_path / "parse"
    other.mkdir()
    (path / "matrix.mtx").rename(other / "count_matrix.mtx")
    with pytest.raises(ValueError, match="a matrix without the names of its genes and cells"):
        sctag.read(other / "count_matrix.mtx")


def test_a_file_that_another_program_writes_is_not_called_damaged(blobs, tmp_path):
    blobs.write_h5ad(tmp_path / "open.h5ad")
    writer = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", writer, tmp_path / "open.h5ad"], stdin=-1, stdout=-1) as process:
        process.stdout.readline()
        with pytest.raises(ValueError, match="is open for writing in another program"):
            sctag.read(tmp_path / "open.h5ad")
        process.stdin.close()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5ad")
    with pytest.raises(ValueError, match="is neither a file nor a folder"):
        sctag.read(tmp_path / "pipe.h5ad")
