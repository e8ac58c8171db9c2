"""The files of a command: the cells that it reads, the column with their labels, and the result that it writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData

_BUNDLED, _BUNDLED_LABELS = "pbmc68k_reduced", "bulk_labels"
_SCTAG_LABELS = "cell_type1"  # in the scTAG layout
_SUFFIXES = {".h5ad", ".h5", ".hdf5", ".loom", ".zarr", ".csv", ".tsv", ".txt", ".gz", ".zip"}


def read_cells(data: Path | None, *, transpose: bool) -> AnnData:
    """The cells of a file or folder, or the bundled ones if there is none."""
    from ..datasets import pbmc68k_reduced
    from ..io.read import read

    if data is None:
        if transpose:
            msg = "--transpose is for a table of yours; name one."
            raise ValueError(msg)
        return pbmc68k_reduced()
    return read(data, transpose=transpose)


def find_label_key(adata: AnnData, label_key: str | None, data: Path | None) -> str | None:
    """The column to score against: the one that was named, else the usual one of the data, if there is one."""
    from ..io.read import SCTAG_LAYOUT, recognize_format

    if label_key is None:
        is_original = data is not None and recognize_format(data) == SCTAG_LAYOUT
        usual = _BUNDLED_LABELS if data is None else _SCTAG_LABELS if is_original else None
        return usual if usual in adata.obs else None
    if label_key not in adata.obs:
        msg = f"--label-key {label_key!r} is no column of obs; there are {list(adata.obs.columns)}."
        raise KeyError(msg)
    return label_key


def target_file(data: Path | None, out: Path | None, suffix: str) -> Path:
    """The result file. If it could not be written after the work, it is refused here, before it."""
    if out is None:
        stem = Path(_BUNDLED if data is None else data.resolve().name)
        while stem.suffix in _SUFFIXES:
            stem = stem.with_suffix("")
        return Path(f"{stem}_{suffix}.h5ad")
    if out.suffix != ".h5ad":
        msg = f"--out must end in .h5ad, got {out}."
        raise ValueError(msg)
    if data is not None and out.resolve() == data.resolve():
        msg = f"--out is the input file {data}; choose another name."
        raise ValueError(msg)
    if not out.resolve().parent.is_dir():
        msg = f"The folder of --out does not exist: {out.resolve().parent}"
        raise FileNotFoundError(msg)
    if out.is_dir():
        msg = f"--out is a folder: {out}; name a file."
        raise IsADirectoryError(msg)
    return out


def check_result(adata: AnnData, target: Path) -> None:
    """Refuse before the work what could not be written after it: a folder that is closed, cells that no file takes."""
    from anndata import AnnData

    from .._atomic import require_writable_folder, unfinished_beside

    require_writable_folder(target, "--out")
    trial = unfinished_beside(target)
    # All of obs, and one cell of everything else: what is refused are names and types, whatever the number of cells.
    for part in (AnnData(obs=adata.obs), adata[:1].copy()):
        try:
            part.write_h5ad(trial)
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the cells
                raise
            problem = " ".join(str(error).split())
            msg = f"A result file could not hold what the input holds: {problem}. Rename or remove it in the input."
            raise ValueError(msg) from error
        finally:
            trial.unlink(missing_ok=True)


def write_result(adata: AnnData, target: Path) -> None:
    """Write the result; an earlier file of this name stays until the new one is complete."""
    from .._atomic import replacing

    with replacing(target) as unfinished:
        adata.write_h5ad(unfinished)
