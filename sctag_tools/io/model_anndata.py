"""A trained model in ``adata.uns``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from .._keys import MODEL, ResultKeys, is_result
from .model_format import pack, unpack

if TYPE_CHECKING:
    from anndata import AnnData

    from ..mapping.reference import ReferenceModel
    from .registry import Registry


def to_uns(model: ReferenceModel, registry: Registry) -> dict[str, Any]:
    """The entry of ``uns[key]`` that holds the model; the record of the run lies beside it."""
    arrays, record = pack(model, registry)
    del record["run"]
    return {"arrays": arrays, "record": json.dumps(record)}


def from_anndata(adata: AnnData, key: str) -> tuple[ReferenceModel, Registry]:
    """The model in ``adata.uns[key]``; KeyError where there is none, ValueError if it is damaged."""
    entry = adata.uns.get(key)
    if not is_result(entry):
        raise ResultKeys(key).no_result(adata)
    if MODEL not in entry:
        msg = (
            f"The result {key!r} was made without its model (a published preset, a mapped query, or "
            "`store_model=False`). Run `sctag.tl.sctag(adata)` again, or give the folder that it was saved in."
        )
        raise KeyError(msg)
    try:
        arrays = {name: np.asarray(array) for name, array in entry[MODEL]["arrays"].items()}
        run = {name: _plain(part) for name, part in entry.items() if name != MODEL}
        record = {**json.loads(str(entry[MODEL]["record"])), "run": run}
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        msg = f"adata.uns[{key!r}][{MODEL!r}] is damaged ({error}); run `sctag.tl.sctag(adata)` again."
        raise ValueError(msg) from error
    return unpack(arrays, record)


def _plain(value: Any) -> Any:
    """Python's own numbers: anndata before 0.12 reads numpy's from files, and JSON takes none of these."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value.item() if isinstance(value, np.generic) else value
