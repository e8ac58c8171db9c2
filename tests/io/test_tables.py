"""Tables as people have them: which way round, how separated, and what a message says of each that cannot be read."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import sctag_tools as sctag

COUNTS = np.array([[3, 0, 1, 0, 7], [0, 0, 2, 1, 0], [5, 1, 0, 0, 0], [3, 4, 0, 0, 2]])
CELLS = ["c0", "c1", "c2", "c3"]
BARCODES = ["AAACATACAACCAC-1", "AAACATTGAGCTAC-1", "AAACATTGATCAGC-1", "AAACCGTGCTTCCG-1"]
PLAIN = ["g0", "g1", "g2", "g3", "g4"]
GENES = ["CD3E", "MT-CO1", "RPL13A", "CD19", "ACTB"]
SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


def _table(cells: list[str] = CELLS, genes: list[str] = PLAIN) -> pd.DataFrame:
    return pd.DataFrame(COUNTS, index=cells, columns=genes)


def _check(adata, cells: list[str] = CELLS, genes: list[str] = PLAIN) -> None:
    np.testing.assert_array_equal(adata.X, COUNTS)
    assert list(adata.obs_names) == cells
    assert list(adata.var_names) == genes
    assert not adata.is_view


def _refusal(path: Path, **options: bool) -> str:
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        sctag.read(path, **options)
    assert "damaged" not in str(caught.value)
    return str(caught.value)


# --- separators and dialects ---


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".CSV"])
@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
def test_suffixes_and_separators(tmp_path, suffix, separator):
    path, table = tmp_path / f"a{suffix}", _table(BARCODES, GENES)
    table.to_csv(path, sep=separator)
    _check(sctag.read(path), BARCODES, GENES)
    table.T.to_csv(path, sep=separator)
    _check(sctag.read(path, transpose=True), BARCODES, GENES)


@pytest.mark.parametrize(
    ("name", "other"), [("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", ","), ("a.txt", ","), ("a.txt", " ")]
)
def test_the_usual_separator_goes_before_others_in_a_name(tmp_path, name, other):
    genes = [f"{gene}{other}1" for gene in PLAIN]
    _table(genes=genes).to_csv(tmp_path / name, sep=SEPARATORS[Path(name).suffix])
    _check(sctag.read(tmp_path / name), genes=genes)


@pytest.mark.parametrize(
    ("text", "transpose"),
    [
        ('"g0","g1"\n"c0",3,0\n"c1",1,2\n', False),
        ("c0\tc1\ng0\t3\t1\ng1\t0\t2\n", True),
        ("# from elsewhere\n\ncell,g0,g1\nc0,3,0\nc1,1,2", False),
        ("x,g0,g1\r\nc0,3,0\r\nc1,1,2\r\n", False),
        ("cell  g0 g1\nc0  3 0\nc1  1 2\n", False),
    ],
    ids=["R", "R transposed", "comment", "crlf", "spaces"],
)
def test_dialects(tmp_path, text, transpose):
    """Tables of R have one name fewer in the first row than there are columns."""
    (tmp_path / "a.txt").write_bytes(text.encode())
    table = sctag.read(tmp_path / "a.txt", transpose=transpose).to_df()
    assert table.to_dict("index") == {"c0": {"g0": 3, "g1": 0}, "c1": {"g0": 1, "g1": 2}}


def test_a_table_named_like_a_part_of_10x_is_read(tmp_path):
    _table().to_csv(tmp_path / "genes.tsv", sep="\t")
    _check(sctag.read(tmp_path / "genes.tsv"))


@pytest.mark.parametrize(("verbosity", "said"), [("warning", ""), ("info", "read a.csv: 4 cells x 5 genes\n")])
def test_what_was_read_is_logged(tmp_path, verbosity, said):
    _table().T.to_csv(tmp_path / "a.csv")
    sc.settings.verbosity, sc.settings.logfile = verbosity, io.StringIO()
    sctag.read(tmp_path / "a.csv", transpose=True)
    assert sc.settings.logfile.getvalue() == said


# --- which way round ---


@pytest.mark.parametrize("transpose", [False, True])
def test_names_that_occur_twice(tmp_path, transpose):
    """Those of genes are changed without a word; those of cells are kept, and the user is told."""
    table = _table(["c", "d", "c", "e"], ["g", "h", "g", "i", "j"])
    (table.T if transpose else table).to_csv(tmp_path / "a.csv", index_label="name")
    with pytest.warns(UserWarning, match=r"Some cells have the same name.*obs_names_make_unique") as caught:
        _check(sctag.read(tmp_path / "a.csv", transpose=transpose), ["c", "d", "c", "e"], ["g", "h", "g-1", "i", "j"])
    assert [w.filename for w in caught] == [__file__]


@pytest.mark.parametrize(
    ("cells", "genes", "seen"),
    [
        (CELLS, GENES, "rows are named like 'MT-CO1', its columns like 'c0'"),
        (CELLS, ["Cd3e", "mt-Co1", "Rps27a", "Cd19", "Malat1"], "rows are named like 'mt-Co1'"),
        (CELLS, [f"ENSMUSG{i:011d}.2" for i in range(5)], "rows are named like 'ENSMUSG00000000000.2'"),
        (["cell1", "cell2", "cell3", "cell4"], [f"gene{i}" for i in range(5)], "rows are named like 'gene0'"),
        (BARCODES, PLAIN, "rows are named like 'g0', its columns like 'AAACATACAACCAC-1'"),
        ([f"donor1_{name}" for name in BARCODES], GENES, "columns like 'donor1_AAACATACAACCAC-1'"),
    ],
    ids=["human", "mouse", "Ensembl", "running", "barcodes", "both"],
)
def test_genes_where_cells_belong_are_refused(tmp_path, cells, genes, seen):
    upright, lying = tmp_path / "upright.csv", tmp_path / "lying.csv"
    _table(cells, genes).to_csv(upright)
    _table(cells, genes).T.to_csv(lying)
    _check(sctag.read(upright), cells, genes)
    _check(sctag.read(lying, transpose=True), cells, genes)
    said = _refusal(lying)
    assert seen in said
    assert f"`sctag.read({str(lying)!r}, transpose=True)`" in said
    said = _refusal(upright, transpose=True)
    assert seen in said
    assert said.endswith("Leave out `transpose=True`.")


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (["ACTB", "RPL3", "GAPDH", "control"], GENES),  # knocked-out genes, beside genes
        (["ACTB", "RPL3", "c2", "c3"], PLAIN),  # too few to tell
        (["MT-1", "MT-2", "MT-3", "WT-1"], PLAIN),  # mutants
        (BARCODES, ["GATTACAGATTACA", *BARCODES]),  # barcodes both ways
        (CELLS, ["GATTACAGATTACA", "GATTACAGATTACC", "g2", "g3", "g4"]),  # the lesser half of the columns
    ],
)
def test_names_that_could_be_cells_are_not_refused(tmp_path, rows, columns):
    _table(rows, columns).to_csv(tmp_path / "a.csv")
    _check(sctag.read(tmp_path / "a.csv"), rows, columns)


def test_a_few_gene_names_among_many_cells_are_not_refused(tmp_path):
    cells = ["ACTB", "GAPDH", "B2M", *(f"c{i}" for i in range(1997))]
    pd.DataFrame(1, index=cells, columns=["g0", "g1"]).to_csv(tmp_path / "a.csv")
    assert sctag.read(tmp_path / "a.csv").shape == (2000, 2)


def test_only_tables_are_transposed(tmp_path, blobs):
    blobs.write_h5ad(tmp_path / "a.h5ad")
    said = _refusal(tmp_path / "a.h5ad", transpose=True)
    assert said.endswith("is h5ad, which knows its cells from its genes. Leave out `transpose=True`.")
    with pytest.raises(TypeError, match="transpose must be True or False"):
        sctag.read(tmp_path / "a.h5ad", transpose="yes")


# --- names of rows, and what is no table of counts ---


@pytest.mark.parametrize("label", ["cell", None])
def test_numbers_are_names_where_each_occurs_once(tmp_path, label):
    _table(["4", "5", "6", "7"]).to_csv(tmp_path / "a.csv", index_label=label)
    _check(sctag.read(tmp_path / "a.csv"), ["4", "5", "6", "7"])


@pytest.mark.parametrize("header", [",g0,g1", "g0,g1"], ids=["untitled", "R"])
def test_numbers_that_repeat_are_names_in_a_column_without_title(tmp_path, header):
    (tmp_path / "a.csv").write_text(f"{header}\n1,5,0\n1,0,2\n")
    with pytest.warns(UserWarning, match="Some cells have the same name"):
        assert list(sctag.read(tmp_path / "a.csv").var_names) == ["g0", "g1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "g0,g1\n3,0\n3,2\n",
            "The first column, 'g0', looks like counts (numbers that repeat); row names are expected.",
        ),
        (
            "g0 g1\n3 0\n3 2\n",
            "looks like counts (numbers that repeat); row names are expected. Write the table with its",
        ),
        (",type,g0\nc0,T,1\n", "row 'c0' holds text instead of a count ('T') under 'type'. Write the table without"),
        ('"g0","type","donor"\nc0,1,T,x\n', "('T') under 'type', 'donor'."),
        (",A,B,C,D,g0\nc0,T,T,T,T,0\n", "('T') under 'A', 'B', 'C' and others."),
        (",g0,g1\nc0,1,2\nc1,3,many\n", "row 'c1' holds text instead of a count ('many') under 'g1'."),
        ("", "The file holds no table"),
        ("cell\nc0\nc1\n", "has one column alone"),
        ("c0,1,2\nc1,3,4\n", "must hold the gene names, but it ends with the number 2"),
        (",0,1\nc0,1,2\n", "must hold the gene names, but it ends with the number 1"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, text, said):
    (tmp_path / "a.csv").write_text(text)
    assert said in _refusal(tmp_path / "a.csv")


def test_damaged_tables(tmp_path):
    for text, match in ((",g0,g1\nc0,1,2\nc1,1\n", "Length of first line"), (",g0\n", "could not be read as csv")):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(ValueError, match=match):
            sctag.read(tmp_path / "a.csv")
    path = tmp_path / "a.csv.gz"
    _table().to_csv(path)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ValueError, match="could not be read as csv, tsv or txt table"):
        sctag.read(path)
