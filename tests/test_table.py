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


# --- which way round ---


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz"])
def test_transposed(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    _table(BARCODES, GENES).T.to_csv(path, sep=SEPARATORS[suffix.removesuffix(".gz")])
    _check(sctag.read(path, transpose=True), BARCODES, GENES)


def test_transposed_as_r_writes_it(tmp_path):
    """One name fewer in the first row than there are columns, and no tab before it."""
    rows = ["\t".join(map(str, [name, *values])) for name, values in zip(GENES, COUNTS.T, strict=True)]
    (tmp_path / "a.txt").write_text("\n".join(["\t".join(BARCODES), *rows]))
    _check(sctag.read(tmp_path / "a.txt", transpose=True), BARCODES, GENES)


def test_transposed_genes_become_unique(tmp_path):
    _table(genes=["g", "h", "g", "i", "j"]).T.to_csv(tmp_path / "a.csv")
    _check(sctag.read(tmp_path / "a.csv", transpose=True), genes=["g", "h", "g-1", "i", "j"])


@pytest.mark.parametrize("transpose", [False, True])
def test_cells_of_the_same_name_are_said(tmp_path, transpose):
    table = _table(["c", "d", "c", "e"])
    (table.T if transpose else table).to_csv(tmp_path / "a.csv", index_label="name")
    with pytest.warns(UserWarning, match=r"Some cells have the same name.*obs_names_make_unique") as caught:
        _check(sctag.read(tmp_path / "a.csv", transpose=transpose), ["c", "d", "c", "e"])
    assert [w.filename for w in caught] == [__file__]


@pytest.mark.parametrize(("verbosity", "said"), [("warning", ""), ("info", "read a.csv: 4 cells x 5 genes\n")])
def test_what_was_read_is_logged(tmp_path, verbosity, said):
    _table().T.to_csv(tmp_path / "a.csv")
    sc.settings.verbosity, sc.settings.logfile = verbosity, io.StringIO()
    sctag.read(tmp_path / "a.csv", transpose=True)
    assert sc.settings.logfile.getvalue() == said


ENSEMBL = [f"ENSMUSG{i:011d}.2" for i in range(5)]
MOUSE = ["Cd3e", "mt-Co1", "Rps27a", "Cd19", "Malat1"]


@pytest.mark.parametrize(
    ("cells", "genes", "seen"),
    [
        (CELLS, GENES, "rows are named like 'MT-CO1', its columns like 'c0'"),
        (CELLS, MOUSE, "rows are named like 'mt-Co1'"),
        (CELLS, ENSEMBL, "rows are named like 'ENSMUSG00000000000.2'"),
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
    assert "is h5ad, which knows its cells from its genes. Leave out `transpose=True`" in _refusal(
        tmp_path / "a.h5ad", transpose=True
    )
    with pytest.raises(TypeError, match="transpose must be True or False"):
        sctag.read(tmp_path / "a.h5ad", transpose="yes")


# --- the first column ---


@pytest.mark.parametrize("separator", [",", " "])
def test_a_table_without_names_of_rows_is_refused(tmp_path, separator):
    _table().to_csv(tmp_path / "a.txt", index=False, sep=separator)
    said = _refusal(tmp_path / "a.txt")
    assert "The first column, 'g0', looks like counts (numbers that repeat); row names are expected" in said
    assert "`index=False`" in said


def test_numbers_are_names_where_each_occurs_once(tmp_path):
    _table(["4", "5", "6", "7"]).to_csv(tmp_path / "a.csv", index_label="cell")
    _check(sctag.read(tmp_path / "a.csv"), ["4", "5", "6", "7"])


@pytest.mark.parametrize("header", [",g0,g1", "g0,g1"], ids=["untitled", "R"])
def test_numbers_that_repeat_are_names_in_a_column_without_title(tmp_path, header):
    (tmp_path / "a.csv").write_text(f"{header}\n1,5,0\n1,0,2\n")
    with pytest.warns(UserWarning, match="Some cells have the same name"):
        assert list(sctag.read(tmp_path / "a.csv").var_names) == ["g0", "g1"]


# --- separators, and text among the counts ---


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
def test_the_separator_is_found(tmp_path, suffix, separator):
    _table().to_csv(tmp_path / f"a{suffix}", sep=separator)
    _check(sctag.read(tmp_path / f"a{suffix}"))


@pytest.mark.parametrize(("name", "other"), [("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", ","), ("a.txt", ",")])
def test_the_usual_separator_goes_before_others_in_a_name(tmp_path, name, other):
    genes = [f"{gene}{other}1" for gene in PLAIN]
    _table(genes=genes).to_csv(tmp_path / name, sep=SEPARATORS[Path(name).suffix])
    _check(sctag.read(tmp_path / name), genes=genes)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        ({"cell_type": list("TTBB")}, "('T') under 'cell_type'."),
        ({"cell_type": list("TTBB"), "donor": list("xyxy")}, "('T') under 'cell_type', 'donor'."),
        ({name: list("TTBB") for name in "ABCD"}, "('T') under 'A', 'B', 'C' and others."),
    ],
)
@pytest.mark.parametrize("where", ["first", "last"])
def test_columns_of_text_are_named(tmp_path, columns, shown, where):
    labels = pd.DataFrame(columns, index=CELLS)
    parts = [labels, _table()] if where == "first" else [_table(), labels]
    pd.concat(parts, axis=1).to_csv(tmp_path / "a.csv")
    said = _refusal(tmp_path / "a.csv")
    assert f"row 'c0' holds text instead of a count {shown}" in said
    assert "put labels into `adata.obs`" in said


def test_the_row_of_a_single_word_is_named(tmp_path):
    table = _table().astype(object)
    table.loc["c2", "g3"] = "many"
    table.to_csv(tmp_path / "a.csv")
    assert "row 'c2' holds text instead of a count ('many') under 'g3'." in _refusal(tmp_path / "a.csv")


def test_one_column_alone(tmp_path):
    (tmp_path / "a.csv").write_text("cell\nc0\nc1\n")
    assert "has one column alone" in _refusal(tmp_path / "a.csv")


# --- paths that are nearly right ---


@pytest.fixture
def tenx(tmp_path) -> Path:
    folder = tmp_path / "filtered"
    folder.mkdir()
    for name in ("matrix.mtx.gz", "barcodes.tsv.gz", "features.tsv.gz"):
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize("name", ["matrix.mtx.gz", "barcodes.tsv.gz", "features.tsv.gz"])
def test_a_file_of_a_10x_folder(tenx, name):
    assert _refusal(tenx / name).endswith(f"pass the folder that holds it, {tenx}.")


def test_a_table_of_that_name_elsewhere_is_read(tmp_path):
    _table().to_csv(tmp_path / "genes.tsv", sep="\t")
    _check(sctag.read(tmp_path / "genes.tsv"))


def test_a_folder_above_that_of_10x(tenx):
    (tenx.parent / "web_summary.html").write_text("")
    said = _refusal(tenx.parent)
    assert "a folder without matrix.mtx or matrix.mtx.gz of 10x, and no zarr store" in said
    assert "It holds 'filtered', 'web_summary.html'; if one of these is meant, pass that." in said


def test_a_folder_of_many_or_no_files(tmp_path):
    assert "It holds nothing;" in _refusal(tmp_path)
    for i in range(7):
        (tmp_path / f"f{i}").write_text("")
    assert "'f3', 'f4', ...; if" in _refusal(tmp_path)


def test_the_empty_path():
    with pytest.raises(ValueError, match="The path is empty"):
        sctag.read("")
