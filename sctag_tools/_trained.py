"""What training leaves behind, with its names; as it is kept in ``uns`` and in a folder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ._adata import is_result, no_result

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from ._core.fitted import Fitted

_NAMES = ("genes", "cells", "batches")
_SERIES = ("history", "n_clusters_curve")  # arrays by name, with gaps that JSON has no number for


@dataclass(frozen=True)
class Trained:
    """A fitted model and the names that its arrays know nothing of."""

    fitted: Fitted
    genes: list[str]  # of the model, in its order
    cells: list[str]  # that it was trained on
    batches: list[str]  # experimental batches, by number; one empty name if there is one
    batch_key: str | None
    use_rep: str | None  # representation that neighbours are sought in; None: of the genes
    run: dict[str, Any]  # as ``uns`` has it: params, history, ...

    @property
    def clusters(self) -> list[str]:
        """Names of the clusters, by falling size."""
        return [str(number) for number in range(self.fitted.n_clusters)]

    def pack(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays by name, and what JSON can hold."""
        from ._core import store

        arrays, record = store.pack(self.fitted)
        own = {name: getattr(self, name) for name in (*_NAMES, "batch_key", "use_rep")}
        series = {part: {name: _listed(array) for name, array in self.run.get(part, {}).items()} for part in _SERIES}
        return arrays, {
            **record,
            **own,
            "run": {**self.run, **{part: found for part, found in series.items() if found}},
        }

    @classmethod
    def unpack(cls, arrays: dict[str, NDArray[Any]], record: dict[str, Any]) -> Trained:
        """The inverse of :meth:`pack`; raises ValueError for anything that it could not have made."""
        from ._core import store

        fitted = store.unpack(arrays, record)
        lengths = (fitted.n_genes, len(fitted.reference), fitted.n_batches)
        names = {part: store.names_in(record, part, length) for part, length in zip(_NAMES, lengths, strict=True)}
        for option in ("batch_key", "use_rep"):
            if option not in record or not isinstance(record[option], str | None):
                store.refuse(f"{option} is no name")
        run = record.get("run")
        if not isinstance(run, dict) or not isinstance(run.get("params"), dict):
            store.refuse("the record of its run is missing")
        series = {part: {name: _array(values) for name, values in _dict(run, part).items()} for part in _SERIES}
        run = {**run, **{part: found for part, found in series.items() if found}}
        return cls(fitted, **names, batch_key=record["batch_key"], use_rep=record["use_rep"], run=run)

    def for_uns(self) -> dict[str, Any]:
        """What ``adata.uns`` holds beside the record of the run, in files too."""
        arrays, record = self.pack()
        del record["run"]
        return {"arrays": arrays, "record": json.dumps(record)}

    @classmethod
    def of_anndata(cls, adata: AnnData, key: str) -> Trained:
        """What ``adata.uns[key]`` holds; raises KeyError where there is none."""
        entry = adata.uns.get(key)
        if not is_result(entry):
            raise no_result(adata, key)
        if "model" not in entry:
            msg = (
                f"The result {key!r} was made without its model (a published preset, a mapped query, or "
                "`store_model=False`); run `sctag.tl.sctag(adata)` again, or give the folder that it was saved in."
            )
            raise KeyError(msg)
        kept = entry["model"]
        try:
            arrays = {name: np.asarray(array) for name, array in kept["arrays"].items()}
            run = {name: _plain(part) for name, part in entry.items() if name != "model"}
            record = {**json.loads(str(kept["record"])), "run": run}
        except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
            msg = f"adata.uns[{key!r}]['model'] is damaged ({error}); run `sctag.tl.sctag(adata)` again."
            raise ValueError(msg) from error
        return cls.unpack(arrays, record)


def _plain(value: Any) -> Any:
    """Python's own numbers: anndata before 0.12 reads numpy's from files, and JSON takes none of these."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _listed(array: NDArray[np.float64]) -> Any:
    if np.ndim(array) == 0:
        return float(array)
    return [value if math.isfinite(value) else None for value in np.asarray(array, dtype=float).tolist()]


def _array(values: Any) -> NDArray[np.float64]:
    from ._core import store

    try:
        return np.array(values, dtype=np.float64)  # None becomes nan
    except (TypeError, ValueError, OverflowError):
        store.refuse("a series of its run holds something else than numbers")


def _dict(record: dict[str, Any], part: str) -> dict[str, Any]:
    from ._core import store

    found = record.get(part, {})
    if not isinstance(found, dict):
        store.refuse(f"its {part} is no table")
    return found
