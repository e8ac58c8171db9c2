"""Read counts from the usual single-cell files and from two HDF5 layouts of the clustering literature."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import h5py
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

ORIGINAL_LAYOUT = "HDF5 of the scTAG layout"
_TABLE = "csv, tsv or txt table (also .gz)"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"
_ZARR_MARKERS = (".zgroup", ".zattrs", ".zmetadata", "zarr.json")
_MTX_NAMES = ("matrix.mtx", "matrix.mtx.gz")
_MTX_COMPANIONS = ("barcodes.tsv", "features.tsv", "genes.tsv")
_SHOWN = 5  # entries of a folder that a message names
_BLOCK_VALUES = 1 << 24


def read(path: str | os.PathLike[str], *, transpose: bool = False) -> AnnData:
    r"""Read a file or folder of counts, whatever its format.

    HDF5 files are told apart by what they hold, not by their suffix.
    Besides the formats that scanpy and anndata read (h5ad, zarr, loom, 10x HDF5, 10x matrix folder, text),
    two more HDF5 layouts are known:

    - that of the original scTAG and scziDesk data: `exprs` (cells x genes, dense or CSR), and optionally
      `obs_names`, `var_names` and the groups `obs`, `var` and `uns`. One-dimensional entries of `obs` and `var`
      become columns (strings in `obs` become categories); entries of one element are skipped.
    - a plain matrix `X` (cells x genes) with optional labels `Y`, which become the categorical `obs["Y"]`.

    Labels are never needed.

    Parameters
    ----------
    path
        An `.h5ad` or other HDF5 file, a `.loom` file, a zarr folder or `.zarr.zip`, a folder of 10x `matrix.mtx`,
        or a `.csv`, `.tsv` or `.txt` table (also `.gz`) with cells in rows, genes in columns,
        gene names in the first row and cell names in the first column. Commas, semicolons, tabs or, without any of
        these, spaces separate its fields.
    transpose
        Whether the table has genes in rows and cells in columns, as those of GEO and of R usually do. Of tables alone.

    Returns
    -------
    Cells x genes, with unique `var_names` and the values as they are in the file.
    The two extra layouts give `X` as CSR of float32.
    Of 10x files only the features of type "Gene Expression" are kept, as by :func:`scanpy.read_10x_h5`.

    Raises
    ------
    FileNotFoundError
        `path` does not exist.
    ValueError
        The format is not one of the above, the file is damaged or contradicts itself, or a table holds something else
        than counts or seems to have genes where cells are expected.
    ImportError
        A loom file is given and loompy is not installed.

    See Also
    --------
    sctag_tools.datasets.pbmc68k_reduced : a small data set that needs no file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sctag_tools import read
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Path(folder) / "counts.csv"
    ...     _ = table.write_text("cell,CD3E,CD19\na,2,0\nb,0,1\n")
    ...     adata = read(table)
    >>> adata.to_df()
       CD3E  CD19
    a   2.0   0.0
    b   0.0   1.0
    """
    from ._checks import check_flag

    check_flag("transpose", transpose)
    if not os.fspath(path):  # else it would be the folder that Python runs in
        msg = "The path is empty; name a file or a folder."
        raise ValueError(msg)
    path = Path(path)
    if not path.exists():
        msg = f"{path} does not exist."
        raise FileNotFoundError(msg)
    kind = recognise(path)
    if transpose:
        _check_transposable(kind, path)
    adata = _read_as(kind, path, **({"transpose": True} if transpose else {}))
    adata.var_names_make_unique()
    return adata


def _check_transposable(kind: str, path: Path) -> None:
    from ._errors import AdvisedError

    if kind != _TABLE:
        problem = f"Only a table can be transposed on reading; {path} is {kind}, which knows its cells from its genes."
        raise AdvisedError(problem, "Leave out `transpose=True`.", "Leave out `--transpose`.")


def _read_as(kind: str, path: Path, **options: bool) -> AnnData:
    """Run the reader of one format; whatever a damaged file makes it raise becomes a ValueError."""
    from ._errors import AdvisedError

    try:
        with warnings.catch_warnings():
            # `read` makes them unique right afterwards
            warnings.filterwarnings("ignore", message="Variable names are not unique", category=UserWarning)
            return _READERS[kind](path, **options)
    except (AdvisedError, ImportError, MemoryError, PermissionError, Warning):
        raise
    except Exception as error:
        msg = f"{path} could not be read as {kind}; it may be damaged or incomplete. {error}"
        raise ValueError(msg) from error


def recognise(path: Path) -> str:
    """Key of `_READERS` for a file or folder."""
    if path.is_dir():
        return _folder_kind(path)
    with path.open("rb") as file:
        magic = file.read(len(_HDF5_MAGIC))
    return _hdf5_kind(path) if magic == _HDF5_MAGIC else _plain_kind(path, magic)


def _folder_kind(path: Path) -> str:
    if any((path / marker).exists() for marker in _ZARR_MARKERS):
        return "zarr"
    if _holds_mtx(path):
        return "10x mtx folder"
    entries = sorted(entry.name for entry in path.iterdir())
    found = ", ".join(map(repr, entries[:_SHOWN])) + (", ..." if len(entries) > _SHOWN else "")
    msg = (
        f"{path} is in none of the readable formats: a folder without {' or '.join(_MTX_NAMES)} of 10x, and no zarr "
        f"store. It holds {found or 'nothing'}; if one of these is meant, pass that."
    )
    raise ValueError(msg)


def _holds_mtx(folder: Path) -> bool:
    return any((folder / name).exists() for name in _MTX_NAMES)


def _plain_kind(path: Path, magic: bytes) -> str:
    from ._table import text_suffix

    if magic.startswith(_ZIP_MAGIC):
        return "zarr"
    name = path.name.removesuffix(".gz")
    if name.endswith(".mtx") or (name in _MTX_COMPANIONS and _holds_mtx(path.parent)):
        msg = f"{path} is a part of a 10x matrix; pass the folder that holds it, {path.parent}."
        raise ValueError(msg)
    if text_suffix(path) is None:
        msg = f"{path} is in none of the readable formats: {', '.join(_READERS)}."
        raise ValueError(msg)
    return _TABLE


def _hdf5_kind(path: Path) -> str:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            kind = _hdf5_layout(file)
            found = ", ".join(repr(key) for key in file) or "nothing"
    except PermissionError:
        raise
    except OSError as error:
        msg = f"{path} is a damaged or incomplete HDF5 file. {error}"
        raise ValueError(msg) from error
    if kind is None:
        msg = (
            f"{path} is an HDF5 file of an unknown layout: found {found} at its top, expected 'exprs' (scTAG), "
            "'X' (and optionally 'Y'), or the entries of an h5ad, loom or 10x file."
        )
        raise ValueError(msg)
    return kind


def _hdf5_layout(file: h5py.File) -> str | None:
    import h5py

    # files of anndata < 0.7 carry no encoding-type
    if file.attrs.get("encoding-type") == "anndata" or {"X", "obs", "var"} <= file.keys():
        return "h5ad"
    if "exprs" in file:
        return ORIGINAL_LAYOUT
    if {"matrix", "row_attrs", "col_attrs"} <= file.keys():
        return "loom"
    if isinstance(file.get("matrix"), h5py.Group) or _is_10x_v2(file):
        return "10x h5"
    return "HDF5 with X and Y" if "X" in file else None


def _is_10x_v2(file: h5py.File) -> bool:
    """Whether every entry at the top is the matrix of one genome, as Cell Ranger 2 writes it."""
    import h5py

    expected = {"barcodes", "genes", "gene_names", "data", "indices", "indptr", "shape"}
    return len(file) > 0 and all(isinstance(node, h5py.Group) and expected <= node.keys() for node in file.values())


def _read_h5ad(path: Path) -> AnnData:
    from anndata.io import read_h5ad

    return read_h5ad(path)


def _read_zarr(path: Path) -> AnnData:
    import zarr
    from anndata.io import read_zarr

    if path.is_dir():
        return read_zarr(path)
    with zarr.storage.ZipStore(path, mode="r") as store:
        return read_zarr(zarr.open_group(store, mode="r"))


def _read_loom(path: Path) -> AnnData:
    import h5py
    from anndata.io import read_loom

    with h5py.File(path, "r") as file:
        # the second of each pair is what anndata itself writes
        cells = "CellID" if "CellID" in file["col_attrs"] else "obs_names"
        genes = "Gene" if "Gene" in file["row_attrs"] else "var_names"
    try:
        # a file without names gets running numbers, which is no news; the default X_name prefers a layer "spliced"
        warnings.filterwarnings("ignore", message="Transforming to str index", category=UserWarning)
        return read_loom(path, X_name="", obs_names=cells, var_names=genes)
    except ImportError as error:
        error.add_note("pip install loompy")
        raise


def _read_10x_h5(path: Path) -> AnnData:
    import scanpy as sc

    return sc.read_10x_h5(path)


def _read_10x_mtx(path: Path) -> AnnData:
    import scanpy as sc

    return sc.read_10x_mtx(path)


def _read_text(path: Path, *, transpose: bool = False) -> AnnData:
    from ._table import read_table

    return read_table(path, transpose=transpose)


def _read_sctag_layout(path: Path) -> AnnData:
    import h5py
    from anndata import AnnData

    with h5py.File(path, "r") as file:
        counts = _counts(file["exprs"])
        obs, var = (_annotation(file, axis, length) for axis, length in zip(("obs", "var"), counts.shape, strict=True))
        return AnnData(counts, obs=obs, var=var, uns=_unstructured(file["uns"]) if "uns" in file else None)


def _read_x_y_layout(path: Path) -> AnnData:
    import h5py
    from anndata import AnnData

    with h5py.File(path, "r") as file:
        adata = AnnData(_counts(file["X"]))
        if "Y" in file:
            adata.obs["Y"] = _label_categories(_checked("Y", _values(file["Y"]).ravel(), adata.n_obs))
    return adata


def _counts(node: h5py.Dataset | h5py.Group) -> csr_matrix:
    """Cells x genes as CSR of float32, from a dense dataset or from the parts of a CSR matrix."""
    import h5py
    import numpy as np
    from scipy.sparse import csr_matrix

    if isinstance(node, h5py.Dataset):
        return _dense_counts(node)
    parts = tuple(node[name][()] for name in ("data", "indices", "indptr"))
    matrix = csr_matrix(parts, shape=tuple(int(size) for size in node["shape"][()]), dtype=np.float32)
    # an index out of range would crash the interpreter later
    matrix.check_format(full_check=True)
    return matrix


def _dense_counts(dataset: h5py.Dataset) -> csr_matrix:
    import numpy as np
    from scipy.sparse import csr_matrix, vstack

    if dataset.ndim != 2 or 0 in dataset.shape:
        msg = f"The matrix {dataset.name} must be cells x genes, but its shape is {dataset.shape}."
        raise ValueError(msg)
    step = max(1, _BLOCK_VALUES // dataset.shape[1])
    blocks = (dataset[start : start + step] for start in range(0, dataset.shape[0], step))
    return vstack([csr_matrix(block, dtype=np.float32) for block in blocks], format="csr")


def _annotation(file: h5py.File, axis: str, length: int) -> pd.DataFrame:
    """Names and columns of one axis, "obs" or "var"."""
    import h5py
    import pandas as pd

    name = f"{axis}_names"
    index = _checked(name, _values(file[name]), length) if name in file else range(length)
    frame = pd.DataFrame(index=pd.Index(index).astype(str))
    group = file.get(axis)
    for column, node in group.items() if isinstance(group, h5py.Group) else ():
        # arrays of one element are scalars about the whole file, as in `uns`
        if isinstance(node, h5py.Dataset) and node.ndim == 1 and (node.size > 1 or length == node.size):
            values = _checked(f"{axis}/{column}", _values(node), length)
            frame[column] = pd.Categorical(values) if axis == "obs" and values.dtype == object else values
    return frame


def _unstructured(group: h5py.Group) -> dict[str, Any]:
    """Content of `uns`, with arrays of one element as scalars."""
    import h5py

    content: dict[str, Any] = {}
    for key, node in group.items():
        if isinstance(node, h5py.Group):
            content[key] = _unstructured(node)
        else:
            values = _values(node)
            content[key] = values.item() if values.size == 1 else values
    return content


def _values(dataset: h5py.Dataset) -> np.ndarray[Any, Any]:
    """Values of a dataset, strings (of fixed or variable length) as an object array of `str`."""
    import h5py
    import numpy as np

    if h5py.check_string_dtype(dataset.dtype) is not None:
        return np.asarray(dataset.asstr("utf-8")[()], dtype=object)
    return np.asarray(dataset[()])


def _checked(name: str, values: np.ndarray[Any, Any], length: int) -> np.ndarray[Any, Any]:
    if len(values) != length:
        msg = f"{name} has {len(values)} entries, the matrix needs {length}."
        raise ValueError(msg)
    return values


def _label_categories(labels: np.ndarray[Any, Any]) -> pd.Categorical:
    """Categories of strings; numbers keep their order, and those without a fraction are written without it."""
    import pandas as pd

    categorical = pd.Categorical(labels)
    if labels.dtype.kind == "f":
        return categorical.rename_categories([f"{label:.15g}" for label in categorical.categories])
    return categorical.rename_categories([str(label) for label in categorical.categories])


_READERS: dict[str, Callable[..., AnnData]] = {
    "h5ad": _read_h5ad,
    "zarr": _read_zarr,
    "loom": _read_loom,
    "10x h5": _read_10x_h5,
    "10x mtx folder": _read_10x_mtx,
    _TABLE: _read_text,
    ORIGINAL_LAYOUT: _read_sctag_layout,
    "HDF5 with X and Y": _read_x_y_layout,
}
