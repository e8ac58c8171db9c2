"""HDF5 files told apart, and two layouts of the clustering literature: that of scTAG's data, and X with labels Y."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from .read import SCTAG_LAYOUT, X_Y_LAYOUT

_VALUES_PER_BLOCK = 1 << 24  # of a dense matrix, read at a time
_10X_V2_ENTRIES = {"barcodes", "genes", "gene_names", "data", "indices", "indptr", "shape"}


def hdf5_format(path: Path) -> str:
    """The format of an HDF5 file, as it is named in messages; ValueError if it is none that can be read."""
    try:
        with h5py.File(path, "r") as file:
            layout = _hdf5_layout(file)
            found = ", ".join(repr(key) for key in file) or "nothing"
    except PermissionError:
        raise
    except BlockingIOError as error:
        msg = f"{path} is open for writing in another program; close it there, or wait until it is written."
        raise ValueError(msg) from error
    except OSError as error:
        msg = f"{path} is a damaged or incomplete HDF5 file. {error}"
        raise ValueError(msg) from error
    if layout is None:
        msg = (
            f"{path} is an HDF5 file of an unknown layout: found {found} at its top, expected 'exprs' (scTAG), "
            "'X' (and optionally 'Y'), or the entries of an h5ad, loom or 10x file."
        )
        raise ValueError(msg)
    return layout


def _hdf5_layout(file: h5py.File) -> str | None:
    # files of anndata < 0.7 carry no encoding-type
    if file.attrs.get("encoding-type") == "anndata" or {"X", "obs", "var"} <= file.keys():
        return "h5ad"
    if "exprs" in file:
        return SCTAG_LAYOUT
    if {"matrix", "row_attrs", "col_attrs"} <= file.keys():
        return "loom"
    # Cell Ranger 2 wrote one group for each genome
    is_10x_v2 = len(file) > 0 and all(
        isinstance(node, h5py.Group) and node.keys() >= _10X_V2_ENTRIES for node in file.values()
    )
    if is_10x_v2 or isinstance(file.get("matrix"), h5py.Group):
        return "10x h5"
    return X_Y_LAYOUT if "X" in file else None


def read_sctag_layout(path: Path) -> AnnData:
    """Cells x genes of ``exprs``, with the names, columns and ``uns`` beside it."""
    with h5py.File(path, "r") as file:
        counts = _read_counts(file["exprs"])
        obs, var = (_read_axis(file, axis, length) for axis, length in zip(("obs", "var"), counts.shape, strict=True))
        return AnnData(counts, obs=obs, var=var, uns=_read_uns(file["uns"]) if "uns" in file else None)


def read_x_y_layout(path: Path) -> AnnData:
    """Cells x genes of ``X``; labels in ``Y`` become a categorical column."""
    with h5py.File(path, "r") as file:
        adata = AnnData(_read_counts(file["X"]))
        if "Y" in file:
            labels = _read_values(file["Y"]).ravel()
            _check_length("Y", labels, adata.n_obs)
            adata.obs["Y"] = _label_categories(labels)
    return adata


def _read_counts(node: h5py.Dataset | h5py.Group) -> csr_matrix:
    """Cells x genes as CSR of float32, from a dense dataset or from the parts of a CSR matrix."""
    if not isinstance(node, h5py.Dataset):
        parts = tuple(node[name][()] for name in ("data", "indices", "indptr"))
        matrix = csr_matrix(parts, shape=tuple(int(size) for size in node["shape"][()]), dtype=np.float32)
        matrix.check_format(full_check=True)  # an index out of range would crash the interpreter later
        return matrix
    if node.ndim != 2 or 0 in node.shape:
        msg = f"The matrix {node.name} must be cells x genes, but its shape is {node.shape}."
        raise ValueError(msg)
    step = max(1, _VALUES_PER_BLOCK // node.shape[1])
    blocks = (node[start : start + step] for start in range(0, node.shape[0], step))
    return vstack([csr_matrix(block, dtype=np.float32) for block in blocks], format="csr")


def _read_axis(file: h5py.File, axis: str, length: int) -> pd.DataFrame:
    """Names and columns of one axis, "obs" or "var"."""
    names = _read_values(file[f"{axis}_names"]) if f"{axis}_names" in file else np.arange(length)
    _check_length(f"{axis}_names", names, length)
    frame = pd.DataFrame(index=pd.Index(names).astype(str))
    group = file.get(axis)
    for column, node in group.items() if isinstance(group, h5py.Group) else ():
        # arrays of one element are scalars about the whole file, as in `uns`
        if isinstance(node, h5py.Dataset) and node.ndim == 1 and (node.size > 1 or length == node.size):
            values = _read_values(node)
            _check_length(f"{axis}/{column}", values, length)
            frame[column] = pd.Categorical(values) if axis == "obs" and values.dtype == object else values
    return frame


def _read_uns(group: h5py.Group) -> dict[str, Any]:
    """Content of ``uns``, with arrays of one element as scalars."""
    return {key: _read_uns(node) if isinstance(node, h5py.Group) else _scalar(node) for key, node in group.items()}


def _scalar(dataset: h5py.Dataset) -> Any:
    values = _read_values(dataset)
    return values.item() if values.size == 1 else values


def _read_values(dataset: h5py.Dataset) -> NDArray[Any]:
    """Values of a dataset, strings (of fixed or variable length) as an object array of ``str``."""
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return np.asarray(dataset.asstr("utf-8")[()], dtype=object)
    return np.asarray(dataset[()])


def _check_length(name: str, values: NDArray[Any], length: int) -> None:
    if len(values) != length:
        msg = f"{name} has {len(values)} entries, the matrix needs {length}."
        raise ValueError(msg)


def _label_categories(labels: NDArray[Any]) -> pd.Categorical:
    """Categories of strings; numbers keep their order, and those without a fraction are written without it."""
    categorical = pd.Categorical(labels)
    shown = "{:.15g}" if labels.dtype.kind == "f" else "{}"
    return categorical.rename_categories([shown.format(label) for label in categorical.categories])
