"""What an AnnData must allow before it is read or written."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .. import _logging as logg
from .._checks import check_flag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData


def require_anndata(adata: object, function: str) -> None:
    """Raise TypeError unless ``adata`` is an AnnData."""
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        msg = f"{function} needs an AnnData, got {type(adata).__name__}; a MuData's modality is `mdata['rna']`."
        raise TypeError(msg)


def require_writable(adata: AnnData, function: str, *, copy: bool) -> None:
    """The same, TypeError if ``copy`` is no flag, and NotImplementedError for copies and views of backed data."""
    require_anndata(adata, function)
    check_flag("copy", copy)
    if adata.isbacked and (copy or adata.is_view):
        what = "A copy" if copy else "A view"
        msg = f"{what} of a backed AnnData cannot hold results; call `adata = adata.to_memory()` first."
        raise NotImplementedError(msg)


def working_copy(adata: AnnData, *, copy: bool) -> AnnData:
    """The object that results are written to: a copy, or ``adata`` itself (said if it is a view)."""
    if copy:
        return adata.copy()
    if adata.is_view:
        logg.warn("Received a view of an AnnData; it becomes an actual copy when the results are written.")
    return adata


@contextmanager
def silent_writing() -> Iterator[None]:
    """Silence anndata's warning that a view becomes a copy: :func:`working_copy` has said so."""
    from anndata import ImplicitModificationWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        yield
