"""``sctag.tl.explain``: which genes and which neighbors put cells into their cluster."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _logging as logg
from .._anndata.access import require_writable, silent_writing, working_copy
from .._anndata.blocks import columns_and_totals
from .._anndata.counts import find_counts
from .._anndata.graph import get_graph
from .._checks import check_integer, check_name
from .._keys import ResultKeys, is_explanation
from .._model import ScTAG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from ..mapping.explanation import Explanation, TrainingCells

_MAX_CELLS = 2_000  # n_cells x n_genes floats are kept
_N_NEIGHBORS_KEPT = 5
_MAX_CHANGE = 0.05  # of a soft assignment that is computed again


def explain(
    adata: AnnData,
    cells: Sequence[str] | NDArray[np.bool_] | str,
    *,
    versus: str | None = None,
    key: str = "sctag",
    n_steps: int = 50,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Say why cells lie in their cluster and not in the next likely one: genes, graph and neighbors.

    The networks give each cell the log odds of its cluster against the runner-up. What these are above those of the
    average cell of the runner-up is divided up among the genes of the cell and of its graph neighbors, by integrated
    gradients (Sundararajan et al. 2017; the package captum). Genes with large positive parts hold the cell where it is:
    with the values that they have in the runner-up, it would move there. Genes with negative parts pull it towards the
    runner-up. This explains the model, not the biology: of two genes that go together, either may get the credit.

    Parameters
    ----------
    adata
        Annotated data with a result of :func:`sctag_tools.tl.sctag` that kept its model, with all cells of the run,
        their counts and their graph.
    cells
        Names of cells (one or several), or a boolean mask (n_obs,), such as ``adata.obs["sctag"] == "3"``. At most
        2,000.
    versus
        Cluster to compare with; by default the runner-up of each cell, its second largest soft assignment.
    key
        Name of the result.
    n_steps
        Points on the path from the average cell to the cell.
    key_added
        Name of what is written, by default ``"{key}_explained"``.
    copy
        Return a changed copy instead of writing to ``adata``.

    Returns
    -------
    ``None``, or the copy if ``copy=True``. Writes:

    `adata.uns['sctag_explained' | key_added]` : :class:`dict`
        ``genes`` (:class:`pandas.DataFrame`, one row a gene of the model, most helpful first): ``attribution``, mean
        part over the cells in log odds (nats), of that ``own`` through the expression of the cell itself and ``graph``
        through its neighbors, and ``difference``, its expression above that of the average cell of the runner-up, in
        standard deviations. ``cells`` (one row a cell): ``cluster``, ``versus``, ``log_odds``, ``own`` and
        ``graph`` (sums over genes). ``neighbors`` (up to five rows a cell, largest first): ``cell``, ``neighbor``, its
        ``cluster``, and the ``attribution`` that comes through it. ``attributions`` (n_cells, n_genes) float32, rows as
        in ``cells``, columns in the order of ``genes``. ``params`` has what was given.

    Raises
    ------
    ImportError
        If captum is not installed.
    KeyError
        If there is no such result, it has no model, or cells, genes, counts or graph of the run are missing.
    ValueError
        If there is one cluster only, ``versus`` names none, no cell or too many are given, cells, counts or graph have
        changed since the run, or ``key_added`` is taken.
    TypeError
        If an option has the wrong type.
    NotImplementedError
        For a copy or a view of backed data, which cannot hold results.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> sctag.tl.explain(adata, adata.obs_names[:3])
    >>> list(adata.uns["sctag_explained"]["genes"].columns)
    ['attribution', 'own', 'graph', 'difference']
    """
    require_writable(adata, "sctag.tl.explain", copy=copy)
    check_name("key", key)
    key_added = ResultKeys(key).explained if key_added is None else key_added
    check_name("key_added", key_added)
    check_integer("n_steps", n_steps, low=1)
    if key_added in adata.uns and not is_explanation(adata.uns[key_added]):
        msg = f"adata.uns[{key_added!r}] holds something else; choose another name with `key_added=`."
        raise ValueError(msg)
    _require_captum()
    rows = _rows(adata, cells)
    model = ScTAG.from_anndata(adata, key)
    names = np.array(model.clusters, dtype=object)
    run = _training_cells(adata, model, key)
    cluster, other = _pairs(run.found.proba[rows], names, versus)

    start = logg.info(f"explaining {len(rows)} cells")
    from ..mapping.explanation import explain_cells

    _require_unchanged(run, model, key)
    found = explain_cells(model.reference, run, rows, cluster, other, n_steps)
    if np.abs(found.proba - run.found.proba[rows]).max() > _MAX_CHANGE:
        msg = f"The counts or the graph of adata have changed since the run {key!r}; run `sctag.tl.sctag` again."
        raise ValueError(msg)
    labels = run.found.proba.argmax(axis=1)
    record = {
        "params": {"explained": key, "n_steps": int(n_steps), **({} if versus is None else {"versus": versus})},
        **_tables(found, model.registry.var_names, adata.obs_names.astype(str), rows, names[labels]),
    }
    record["cells"].insert(0, "cluster", names[cluster])
    record["cells"].insert(1, "versus", names[other])
    adata = working_copy(adata, copy=copy)
    with silent_writing():
        adata.uns[key_added] = record
    logg.info("    finished", time=start, deep=f"added\n    {key_added!r}, genes, cells and neighbors (adata.uns)")
    return adata if copy else None


def _require_captum() -> None:
    if find_spec("captum") is None:
        msg = "sctag.tl.explain needs captum; install it with `pip install 'sctag-tools[explain]'`."
        raise ImportError(msg)


def _rows(adata: AnnData, cells: Sequence[str] | NDArray[np.bool_] | str) -> NDArray[np.int64]:
    """Numbers of the cells that are named or marked."""
    chosen = np.atleast_1d(np.asarray(cells))
    if chosen.dtype == bool:
        if chosen.shape != (adata.n_obs,):
            msg = f"The mask of cells has shape {chosen.shape}, but adata has {adata.n_obs} cells."
            raise ValueError(msg)
        rows = np.flatnonzero(chosen)
    else:
        if not adata.obs_names.is_unique:
            msg = "Some names in adata.obs_names occur twice; give the cells as a boolean mask."
            raise ValueError(msg)
        rows = adata.obs_names.get_indexer(pd.Index(chosen))
        if (rows < 0).any():
            msg = f"{str(chosen[rows < 0][0])!r} is no name in adata.obs_names; give names of cells or a boolean mask."
            raise KeyError(msg)
    if not 0 < len(rows) <= _MAX_CELLS:
        msg = f"cells must be 1 to {_MAX_CELLS} cells, got {len(rows)}; draw some of them, for example with rng.choice."
        raise ValueError(msg)
    return np.asarray(rows, dtype=np.int64)


def _pairs(
    proba: NDArray[np.float32], names: NDArray[np.object_], versus: str | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cluster of each cell, and the one to compare it with."""
    if len(names) < 2:
        msg = "The run has one cluster only, so there is nothing to compare it with; run it with `n_clusters=2`."
        raise ValueError(msg)
    by_proba = proba.argsort(axis=1)
    cluster, other = by_proba[:, -1], by_proba[:, -2]
    if versus is not None:
        if versus not in names:
            msg = f"versus={versus!r} is no cluster; there are {list(names)}."
            raise ValueError(msg)
        other = np.full(len(proba), list(names).index(versus))
        if (cluster == other).any():
            msg = (
                f"{int((cluster == other).sum())} of the cells are in {versus!r} themselves; leave them or versus out."
            )
            raise ValueError(msg)
    return cluster, other


def _training_cells(adata: AnnData, model: ScTAG, key: str) -> TrainingCells:
    """Counts and graph of the cells of the run, in the order of ``adata``; KeyError or ValueError if any is missing."""
    from ..mapping.explanation import TrainingCells

    registry, params = model.registry, model.params_
    of_run, names = pd.Index(registry.obs_names), adata.obs_names.astype(str)
    is_whole = len(of_run) == adata.n_obs and (of_run.equals(names) or of_run.is_unique)
    order = np.arange(adata.n_obs) if of_run.equals(names) else of_run.get_indexer(names)
    if not is_whole or (order < 0).any():
        msg = f"adata does not hold the cells of the run {key!r}, all of them; explain in the object of the run."
        raise ValueError(msg)
    genes = adata.var_names.astype(str).get_indexer(registry.var_names) if adata.var_names.is_unique else np.array([-1])
    if (genes < 0).any():
        msg = f"Genes of the run {key!r} are missing in adata.var_names, or names in it occur twice."
        raise KeyError(msg)
    layer = str(params["counts"])
    matrix, _ = find_counts(adata, None if layer == "X" else layer, check_values=False)
    counts, totals = columns_and_totals(matrix, genes)
    graph = get_graph(adata, str(params["neighbors_key"]), "connectivities")
    return TrainingCells(counts, totals, graph, model.reference.cells.take(order))


def _require_unchanged(run: TrainingCells, model: ScTAG, key: str) -> None:
    """ValueError if counts or graph are not those that the model was trained on, as far as it remembers them."""
    from ..nn.tag import normalize_adjacency

    n_counts = np.asarray(run.counts.sum(axis=1, dtype=np.float64)).ravel()
    degree = float(normalize_adjacency(run.connectivities).sum() / len(n_counts))
    same_counts = np.allclose(n_counts, run.found.n_counts, rtol=1e-4)
    if not (same_counts and np.isclose(degree, model.reference.mean_degree, rtol=1e-4)):
        what = "graph" if same_counts else "counts"
        msg = f"The {what} of adata have changed since the run {key!r}; put them back, or run `sctag.tl.sctag` again."
        raise ValueError(msg)


def _tables(
    found: Explanation, genes: list[str], cells: pd.Index, rows: NDArray[np.int64], clusters: NDArray[np.object_]
) -> dict[str, Any]:
    """Genes, cells and neighbors; ``clusters`` (n_obs,) are those of all cells."""
    parts = found.own + found.graph
    order = parts.mean(axis=0).argsort()[::-1]
    by_gene = {"attribution": parts, "own": found.own, "graph": found.graph, "difference": found.difference}
    by_cell: dict[str, Any] = {
        "log_odds": found.log_odds,
        "own": found.own.sum(axis=1),
        "graph": found.graph.sum(axis=1),
    }
    edges = []
    for number, row in enumerate(rows):
        through = found.by_neighbor[[number]]
        largest = through.data.argsort()[::-1][:_N_NEIGHBORS_KEPT]
        edges += [
            (cells[row], cells[other], clusters[other], part)
            for other, part in zip(through.indices[largest], through.data[largest], strict=True)
        ]
    return {
        "genes": pd.DataFrame(
            {name: values.mean(axis=0)[order] for name, values in by_gene.items()}, index=np.array(genes)[order]
        ),
        "cells": pd.DataFrame(by_cell, index=cells[rows]),
        "neighbors": pd.DataFrame(edges, columns=["cell", "neighbor", "cluster", "attribution"]).astype(
            {"cell": str, "neighbor": str, "cluster": str, "attribution": np.float32}
        ),
        "attributions": np.ascontiguousarray(parts[:, order]),
    }
