"""Tables of counts as text: what separates their fields, which way round they are, and what is wrong with them."""

import gzip
import re
import warnings
from collections.abc import Iterable, Iterator
from itertools import dropwhile
from pathlib import Path

from anndata import AnnData
from anndata.io import read_text

from .. import _logging as logg
from .._checks import AdvisedError

_USUAL_DELIMITER = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_DELIMITERS = ",;\t"
_MAX_NAMES_SHOWN = 3

# Names that hardly any cell has, while nearly every table of all genes holds a hundred of them: mitochondrial and
# ribosomal genes, a few that are always expressed, Ensembl's numbers, and the running names of public data sets.
_GENE = re.compile(
    r"MT-(ND|CO|CYTB|CYB|ATP)\w*|RP[LS]P?\d+[A-Z]*\d*|ACTB|GAPDH|B2M|MALAT1|ENS[A-Z]*G\d{11}\S*|gene[_.-]?\d+",
    re.IGNORECASE,
)
# A run of bases as long as the shortest barcode in use; no gene has such a name.
_BARCODE = re.compile(r".*[ACGT]{12}.*")
_MIN_GENES, _MIN_GENE_SHARE, _MIN_BARCODE_SHARE = 3, 0.002, 0.5


def text_suffix(path: Path) -> str | None:
    """The suffix of a table below ``.gz``, None if the name is not that of a table."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in _USUAL_DELIMITER if name.endswith(suffix)), None)


def read_table(path: Path, *, transpose: bool = False) -> AnnData:
    """Cells x genes of a table with names in its first row and first column; ``transpose`` if genes are in rows."""
    header = next(_lines(path), "")
    # Where numbers have decimal commas, programs separate the fields of a csv by semicolons; None stands for spaces.
    possible = _USUAL_DELIMITER[text_suffix(path) or ".txt"] + _DELIMITERS
    delimiter = next((delimiter for delimiter in possible if delimiter in header), None)
    columns = [name.strip('"') for name in header.split(delimiter)]
    if not columns:
        msg = f"{path}: The file holds no table."
        raise AdvisedError(msg)
    if _is_number(columns[-1]):  # anndata would take such a row for a cell
        msg = f"{path}: The first row must hold the gene names, but it ends with the number {columns[-1]}."
        raise AdvisedError(msg)
    with warnings.catch_warnings():
        # anndata warns before it is known whether rows are cells, and `read` makes the names of genes unique
        warnings.filterwarnings("ignore", message="(Observation|Variable) names are not unique", category=UserWarning)
        table = _parse(path, delimiter, columns)
        adata = table.T if transpose else table
    _check_first_column(path, table, columns)
    _check_direction(path, adata, transpose=transpose)
    if not adata.obs_names.is_unique:
        logg.warn("Some cells have the same name; call `adata.obs_names_make_unique()` if names matter to you.")
    logg.info(f"read {path.name}: {adata.n_obs} cells x {adata.n_vars} genes")
    return adata


def _lines(path: Path) -> Iterator[str]:
    """Lines from the header on, as anndata counts them: neither empty ones nor the comments above it."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        yield from dropwhile(lambda line: line.startswith("#"), filter(None, (line.rstrip("\n") for line in file)))


def _parse(path: Path, delimiter: str | None, columns: list[str]) -> AnnData:
    try:
        table = read_text(path, delimiter, first_column_names=True)
    except ValueError as error:
        _raise_if_text(path, delimiter, columns, error)
        raise
    if table.n_vars == 0:
        msg = f"{path} has one column alone; a comma, semicolon or tab separates the names of a table from its counts."
        raise AdvisedError(msg)
    return table


def _raise_if_text(path: Path, delimiter: str | None, columns: list[str], cause: ValueError) -> None:
    """Raise an error that names the first row and the columns with text among the counts, if there is any."""
    lines = _lines(path)
    next(lines)
    for line in lines:
        row, *fields = line.split(delimiter)
        texts = {
            name: text for name, text in zip(columns[-len(fields) :], fields, strict=False) if not _is_number(text)
        }
        if texts:
            shown = ", ".join(map(repr, [*texts][:_MAX_NAMES_SHOWN]))
            others = " and others" if len(texts) > _MAX_NAMES_SHOWN else ""
            text = next(iter(texts.values()))
            problem = f"{path}: row {row!r} holds text instead of a count ({text!r}) under {shown}{others}."
            command = "Write the table without what is no gene."
            python = "Write the table without what is no gene, and put labels into `adata.obs` once it is read."
            raise AdvisedError(problem, python, command) from cause


def _check_first_column(path: Path, table: AnnData, columns: list[str]) -> None:
    """Refuse counts where names belong: without a column of names, anndata takes the first gene's counts for them."""
    title = columns[0] if len(columns) > table.n_vars else ""
    names = table.obs_names
    if title and not names.is_unique and all(map(_is_number, names)):
        problem = (
            f"{path}: The first column, {title!r}, looks like counts (numbers that repeat); row names are expected."
        )
        advice = "Write the table with its row names; pandas does so unless told `index=False`."
        raise AdvisedError(problem, advice)


def _check_direction(path: Path, adata: AnnData, *, transpose: bool) -> None:
    """Refuse a table that holds genes where cells are expected: all that follows would take minutes for nothing.

    Gene names must occur in rows and not in columns, so that tables pass whose cells are named after knocked-out genes
    (Perturb-seq). For a table that it mistakes, the other ``transpose`` and ``.T`` help.
    """
    rows, columns = adata.obs_names, adata.var_names
    genes, barcodes = _matching(_GENE, rows), _matching(_BARCODE, columns)
    many_genes = len(genes) >= max(_MIN_GENES, _MIN_GENE_SHARE * len(rows)) and not _matching(_GENE, columns)
    many_barcodes = len(barcodes) > _MIN_BARCODE_SHARE * len(columns) and not _matching(_BARCODE, rows)
    if not (many_genes or many_barcodes):
        return
    row, column = (genes or rows)[0], (barcodes or columns)[0]
    turned = ", turned by `transpose`," if transpose else ""
    problem = (
        f"{path}{turned} seems to have genes in rows: its rows are named like {row!r}, its columns like {column!r}."
    )
    if transpose:
        raise AdvisedError(problem, "Leave out `transpose=True`.", "Leave out `--transpose`.")
    raise AdvisedError(problem, f"Turn it: `sctag.read({str(path)!r}, transpose=True)`.", "Turn it: `--transpose`.")


def _matching(pattern: re.Pattern[str], names: Iterable[str]) -> list[str]:
    return [name for name in names if pattern.fullmatch(name)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
