"""Read counts from the usual single-cell files and from two HDF5 layouts of the clustering literature."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from .._checks import AdvisedError, check_flag

if TYPE_CHECKING:
    from anndata import AnnData

SCTAG_LAYOUT, X_Y_LAYOUT = "HDF5 of the scTAG layout", "HDF5 with X and Y"
_TABLE = "csv, tsv or txt table (also .gz)"
_READERS = {  # by format; what they need is loaded with them
    "h5ad": "anndata.io:read_h5ad",
    "zarr": f"{__name__}:_read_zarr",
    "loom": f"{__name__}:_read_loom",
    "10x h5": "scanpy:read_10x_h5",
    "10x mtx folder": f"{__package__}.mtx_folder:read_mtx_folder",
    _TABLE: f"{__package__}.tables:read_table",
    SCTAG_LAYOUT: f"{__package__}.hdf5_layouts:read_sctag_layout",
    X_Y_LAYOUT: f"{__package__}.hdf5_layouts:read_x_y_layout",
}
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"
_ZARR_MARKERS = (".zgroup", ".zattrs", ".zmetadata", "zarr.json")
_MTX_NAMES = ("matrix.mtx", "matrix.mtx.gz")
_MTX_COMPANIONS = ("barcodes.tsv", "features.tsv", "genes.tsv")
_MAX_ENTRIES_SHOWN = 5  # of a folder, in a message
_MAX_REASON = 500  # letters of what another library says, which may be a whole file


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
        gene names in the first row and cell names in the first column. Its fields are separated by commas, semicolons
        or tabs, or by spaces if there are none of these.
    transpose
        For tables only: genes are in rows and cells in columns, as in most tables of GEO and of R.

    Returns
    -------
    Cells x genes, with unique `var_names` and the values as they are in the file.
    The two extra layouts give `X` as CSR of float32.
    Of 10x files only the features of type "Gene Expression" are kept, as by :func:`scanpy.read_10x_h5`. Genes without
    a name are called by their id.

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
    check_flag("transpose", transpose)
    if not os.fspath(path):  # Path("") would be the current folder
        msg = "The path is empty; name a file or a folder."
        raise ValueError(msg)
    path = Path(path)
    if not path.exists():
        msg = f"{path} does not exist."
        raise FileNotFoundError(msg)
    if not (path.is_file() or path.is_dir()):
        msg = f"{path} is neither a file nor a folder, but a pipe or a device, which cannot be read twice."
        raise ValueError(msg)
    kind = recognize_format(path)
    if transpose and kind != _TABLE:
        problem = f"Only a table can be transposed on reading; {path} is {kind}, which knows its cells from its genes."
        raise AdvisedError(problem, "Leave out `transpose=True`.", "Leave out `--transpose`.")
    adata = _read_as(kind, path, **({"transpose": True} if transpose else {}))
    adata.var_names_make_unique()
    return adata


def _read_as(kind: str, path: Path, **options: bool) -> AnnData:
    """Run the reader of one format; whatever a damaged file makes it raise becomes a ValueError."""
    try:
        with warnings.catch_warnings():
            # `read` makes them unique right afterwards
            warnings.filterwarnings("ignore", message="Variable names are not unique", category=UserWarning)
            adata: AnnData = resolve_name(_READERS[kind])(path, **options)
            return adata
    except (AdvisedError, ImportError, MemoryError, PermissionError, Warning):
        raise
    except Exception as error:
        if "filter" in str(error) and ("registered" in str(error) or "plugin" in str(error)):
            msg = f"{path} needs a filter that h5py does not have: `pip install hdf5plugin`, then `import hdf5plugin`."
            raise ValueError(msg) from error
        msg = f"{path} could not be read as {kind}; it may be damaged or incomplete. {str(error)[:_MAX_REASON]}"
        raise ValueError(msg) from error


def recognize_format(path: Path) -> str:
    """The format of a file or folder, as it is named in messages; ValueError if it is none that can be read."""
    if path.is_dir():
        return _folder_format(path)
    with path.open("rb") as file:
        magic = file.read(len(_HDF5_MAGIC))
    if magic == _HDF5_MAGIC:
        from .hdf5_layouts import hdf5_format

        return hdf5_format(path)
    return "zarr" if magic.startswith(_ZIP_MAGIC) else _text_format(path)


def _folder_format(path: Path) -> str:
    if _holds_any(path, _ZARR_MARKERS):
        return "zarr"
    if _holds_any(path, _MTX_NAMES):
        return "10x mtx folder"
    entries = sorted(entry.name for entry in path.iterdir())
    found = ", ".join(map(repr, entries[:_MAX_ENTRIES_SHOWN])) + (", ..." if len(entries) > _MAX_ENTRIES_SHOWN else "")
    msg = (
        f"{path} is in none of the readable formats: a folder without {' or '.join(_MTX_NAMES)} of 10x, and no zarr "
        f"store. It holds {found or 'nothing'}; if one of these is meant, pass that."
    )
    raise ValueError(msg)


def _holds_any(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).exists() for name in names)


def _text_format(path: Path) -> str:
    from .tables import text_suffix

    name = path.name.removesuffix(".gz")
    if (name.endswith(".mtx") and _holds_any(path.parent, _MTX_NAMES)) or (
        name in _MTX_COMPANIONS and _holds_any(path.parent, _MTX_NAMES)
    ):
        msg = f"{path} is a part of a 10x matrix; pass the folder that holds it, {path.parent}."
        raise ValueError(msg)
    if name.endswith(".mtx"):
        msg = (
            f"{path} is a matrix without the names of its genes and cells. `scanpy.read_mtx` reads it; put the names, "
            "which the same tool wrote beside it, into `adata.var_names` and `adata.obs_names`."
        )
        raise ValueError(msg)
    if text_suffix(path) is None:
        msg = f"{path} is in none of the readable formats: {', '.join(_READERS)}."
        raise ValueError(msg)
    return _TABLE


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
    # a file without names gets running numbers
    warnings.filterwarnings("ignore", message="Transforming to str index", category=UserWarning)
    try:
        return read_loom(path, X_name="", obs_names=cells, var_names=genes)  # the default X_name takes "spliced" for X
    except ImportError as error:
        error.add_note("pip install loompy")
        raise
