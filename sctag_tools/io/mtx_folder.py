"""Folders with a matrix in Matrix Market format, its genes and its cells, as Cell Ranger and STARsolo write them.

scanpy's reader expects the files of Cell Ranger exactly: compressed or not by version, two or three columns of text. It
also takes a gene that is called nan (as one of the fly is) for a missing name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import io, sparse

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

_GENES = ("features.tsv", "genes.tsv")
_GENE_TYPE = "Gene Expression"


def read_mtx_folder(path: Path) -> AnnData:
    """Cells x genes, CSR float32. Genes without a name are called by their id."""
    from anndata import AnnData

    genes, cells = _table(path, _GENES), _table(path, ("barcodes.tsv",))
    x = sparse.csr_matrix(io.mmread(_find(path, ("matrix.mtx",))).T, dtype=np.float32)
    if x.shape != (len(cells), len(genes)):
        msg = (
            f"The matrix has {x.shape[1]} rows and {x.shape[0]} columns for {len(genes)} genes and {len(cells)} cells."
        )
        raise ValueError(msg)
    ids = genes[0]
    names = genes[1].where(genes[1] != "", ids) if 1 in genes else ids
    var = pd.DataFrame(index=pd.Index(names.to_numpy(), name=None))
    if 1 in genes:
        var["gene_ids"] = ids.to_numpy()
    if 2 in genes:
        var["feature_types"] = genes[2].to_numpy()
    adata = AnnData(x, obs=pd.DataFrame(index=cells[0].to_numpy()), var=var)
    if 2 in genes and (genes[2] == _GENE_TYPE).any():
        adata = adata[:, (genes[2] == _GENE_TYPE).to_numpy()].copy()
    return adata


def _find(path: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        for file in (path / f"{name}.gz", path / name):
            if file.exists():
                return file
    msg = f"{' or '.join(names)} (or .gz) is missing."
    raise FileNotFoundError(msg)


def _table(path: Path, names: tuple[str, ...]) -> pd.DataFrame:
    """Columns of text, numbered from 0."""
    text = {"dtype": str, "keep_default_na": False, "quoting": 3}
    return pd.read_csv(_find(path, names), sep="\t", header=None, **text)
