"""``sctag.tl.subcluster``: the cells of some clusters, clustered anew."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from .. import _logging as logg
from .._anndata.access import require_writable, working_copy
from .._anndata.blocks import whole
from .._anndata.clusters import inherited_colors
from .._anndata.counts import find_counts
from .._anndata.tree import run_of
from .._checks import check_integer, check_name
from .._keys import ResultKeys
from .._options import takes_options
from ..pp import build_graph
from ..pp._standard import prepare_counts
from ..train.config import Config
from ._sctag import sctag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from ..cluster.pieces import Pieces
    from ..train.config import Group

_FUNCTION = "sctag.tl.subcluster"
_GROUPS: tuple[Group, ...] = ("clustering", "model", "training", "runtime")
_OUTCOMES = ("confidence", "merged", "split", "dissolved")


@takes_options(*_GROUPS, before="copy")
def subcluster(
    adata: AnnData,
    groups: str | Sequence[str],
    n_clusters: int | None = None,
    *,
    key: str = "sctag",
    n_top_genes: int = 2000,
    n_neighbors: int = 15,
    check_values: bool = True,
    key_added: str | None = None,
    copy: bool = False,
    **options: Any,
) -> AnnData | None:
    """Cluster the cells of one or more clusters anew, with their own genes, graph and networks.

    Genes that vary among these cells, and principal components of these cells, show differences that the whole object
    hides (clustering in rounds, as Tasic et al. 2018). :func:`sctag_tools.tl.cut` is faster, but knows only what the
    networks of the whole object saw. The counts layer and the batches are those of the result ``key``, and a split must
    pass the same tests as there. If none does, the cells stay one cluster, and a warning names the best candidate.

    Parameters
    ----------
    adata
        Annotated data with a result of :func:`sctag_tools.tl.sctag`, :func:`sctag_tools.tl.cut` or
        :func:`sctag_tools.tl.map_query`, or of an earlier call of this function.
    groups
        Name of the cluster to open, or names of several whose cells are taken together.
    {n_clusters}
    key
        Name of the result.
    n_top_genes
        Highly variable genes to choose among these cells (:func:`scanpy.pp.highly_variable_genes` on log-normalized
        counts).
    n_neighbors
        Neighbors of a cell in their graph, as in :func:`sctag_tools.pp.build_graph`.
    check_values
        Whether to check that the counts are counts.
    key_added
        Name of the new clusters, by default ``"{key}_sub"``.
    {options}
    copy
        Return a changed copy instead of writing to ``adata``.

    Returns
    -------
    ``None``, or the copy if ``copy=True``. Nothing is written unless the run succeeds; then:

    `adata.obs['sctag_sub' | key_added]` : :class:`pandas.Series` (categorical of strings)
        (n_obs,), the clusters of all cells. Parts of ``"3"`` are ``"3,0"``, ``"3,1"``, ... by falling size, those of
        ``"1"`` and ``"5"`` together are ``"1+5,0"``, ... Other clusters keep their names.
    `adata.obs['sctag_sub_confidence' | '{key_added}_confidence']` : :class:`pandas.Series` (float32)
        (n_obs,), for cells of ``groups`` as the new run estimates it if they were split, for others as it was.
    `adata.obsm['X_sctag_sub' | 'X_{key_added}']` : :class:`numpy.ndarray` (float32)
        (n_obs, n_latent), the latent of the new run, NaN for other cells. :func:`sctag_tools.pl.embedding` draws it.
    `adata.uns['sctag_sub' | key_added]` : :class:`dict`
        What :func:`sctag_tools.tl.sctag` writes, but for the model and the tree. ``params`` has ``sub_of``, ``groups``,
        ``n_top_genes`` and ``n_neighbors``, too. ``cluster_confidence`` is of all clusters, NaN where ``key`` has none,
        or where ``groups`` were taken together and not split.

    If ``uns["{key}_colors"]`` exists, writes ``uns["{key_added}_colors"]``, too; the largest part inherits the color.

    Raises
    ------
    KeyError
        If there is no result of this name, or its clusters or its layer of counts are missing.
    ValueError
        If ``groups`` names no cluster or one twice, they hold fewer than 2 cells, an option is out of range, or
        ``key_added`` is the name of something else.
    TypeError
        If an option has the wrong type, or is unknown.
    NotImplementedError
        For a copy or a view of backed data, which cannot hold results.
    RuntimeError
        If the loss becomes non-finite, or one of several processes dies.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> short = {"pretrain_epochs": 5, "cluster_epochs": 2, "progress_bar": False}
    >>> sctag.tl.sctag(adata, n_clusters=3, **short)
    >>> sctag.tl.subcluster(adata, "1", n_clusters=2, **short)
    >>> list(adata.obs["sctag_sub"].cat.categories)
    ['0', '1,0', '1,1', '2']
    """
    require_writable(adata, _FUNCTION, copy=copy)
    check_name("key", key)
    found = ResultKeys(f"{key}_sub" if key_added is None else key_added)
    check_name("key_added", found.key)
    config = Config.from_options(_FUNCTION, _GROUPS, {"n_clusters": n_clusters, **options})
    check_integer("n_top_genes", n_top_genes, low=2)
    check_integer("n_neighbors", n_neighbors, low=2)
    found.require_free_for_subclusters(adata)
    run = adata.uns[run_of(adata, key)]["params"]
    old = _clusters(adata, key)
    opened = _opened(old, groups)
    cells = old.isin(opened).to_numpy()
    config.check_cells(int(cells.sum()))
    layer, batch_key = str(run["counts"]), run.get("batch_key")
    matrix, _ = find_counts(adata, None if layer == "X" else layer, check_values=check_values)

    start = logg.info(f"opening {'+'.join(opened)}: {int(cells.sum())} cells")
    part = _with_counts(adata, matrix, cells, batch_key)
    _cluster(part, config, n_top_genes, n_neighbors, batch_key)
    n_parts = part.obs["sctag"].nunique()

    adata = working_copy(adata, copy=copy)
    record = {name: entry for name, entry in part.uns["sctag"].items() if name != "tree"}
    record["params"] |= {"counts": layer, "sub_of": key, "groups": opened}
    record["params"] |= {"n_top_genes": int(n_top_genes), "n_neighbors": int(n_neighbors)}
    pieces, names, origin = _pieces(old, opened, cells, part.obs["sctag"])
    clusters = pieces.new[pieces.of_leaf]
    record["cluster_confidence"] = _cluster_confidence(
        adata.uns[key], record, old, cells, part.obs["sctag"], clusters, in_order=_is_in_order(adata, key, old)
    )
    confidence, latent = adata.obs[ResultKeys(key).confidence].to_numpy(np.float32, copy=True), part.obsm["X_sctag"]
    if n_parts > 1:  # of one cluster all cells are sure, which says nothing
        confidence[cells] = part.obs["sctag_confidence"]
    categories = pd.Categorical.from_codes(clusters, categories=pieces.names(names))
    heirs = [origin[heir] if heir >= 0 else -1 for heir in pieces.heirs()]
    colors = inherited_colors(adata.uns.get(ResultKeys(key).colors), heirs, len(old.cat.categories))
    found.write_derived(adata, categories, confidence, {found.latent: _with_nan(latent, cells)}, record, colors)
    logg.info(
        f"    finished: {n_parts} of them" if n_parts > 1 else "    finished: not split",
        time=start,
        deep=f"added\n    {found.clusters!r}, clusters of all cells (adata.obs, categorical)\n"
        f"    {found.confidence!r} (adata.obs)\n    {found.latent!r}, latent of these cells (adata.obsm)\n"
        f"    {found.key!r}, parameters and history (adata.uns)",
    )
    return adata if copy else None


def _clusters(adata: AnnData, key: str) -> pd.Series:
    """The clusters of a result, categorical of strings."""
    if key not in adata.obs:
        msg = f"adata.obs[{key!r}] is missing; it belongs to the result {key!r}."
        raise KeyError(msg)
    if (confidence := ResultKeys(key).confidence) not in adata.obs:
        msg = f"adata.obs[{confidence!r}] is missing; it belongs to the result {key!r}."
        raise KeyError(msg)
    column = adata.obs[key].astype("category")
    if column.isna().any():
        msg = f"adata.obs[{key!r}] has no cluster for {int(column.isna().sum())} cells; run `sctag.tl.sctag` again."
        raise ValueError(msg)
    return column.cat.rename_categories(str)


def _opened(clusters: pd.Series, groups: str | Sequence[str]) -> list[str]:
    """The named clusters, in the order of the categories."""
    categories = list(clusters.cat.categories)
    named = [groups] if np.isscalar(groups) else list(groups)
    if not all(isinstance(name, str) for name in named):
        msg = f"groups must be a name or a list of names, such as {categories[0]!r}, got {groups!r}."
        raise TypeError(msg)
    unknown = [name for name in named if name not in categories]
    if not named or unknown or len(set(named)) < len(named):
        problem = f"names {unknown}, which are no clusters" if unknown else "must name clusters, each once"
        msg = f"groups {problem}; there are {categories}."
        raise ValueError(msg)
    return [name for name in categories if name in named]


def _cluster(part: AnnData, config: Config, n_top_genes: int, n_neighbors: int, batch_key: str | None) -> None:
    """What a user would do with an object of these cells alone."""
    prepare_counts(part, n_top_genes, config.random_state)
    build_graph(part, n_neighbors, batch_key=batch_key, random_state=config.random_state)
    sctag(part, layer="counts", batch_key=batch_key, check_values=False, store_model=False, **asdict(config))


def _with_counts(adata: AnnData, matrix: Any, cells: NDArray[np.bool_], batch_key: str | None) -> AnnData:
    """A new AnnData of these cells, with their counts in X and in a layer."""
    from anndata import AnnData

    counts = sparse.csr_matrix(whole(matrix[cells]), dtype=np.float32)
    obs = adata.obs.loc[cells, [] if batch_key is None else [batch_key]]
    return AnnData(counts.copy(), obs=obs.copy(), var=adata.var[[]].copy(), layers={"counts": counts})


def _pieces(
    old: pd.Series, opened: list[str], cells: NDArray[np.bool_], parts: pd.Series
) -> tuple[Pieces, list[str], list[int]]:
    """The new clusters as parts of the old ones, those that were ``opened`` taken together.

    Names of the old clusters and the number of each among the categories, the largest one for those together.
    """
    from ..cluster.pieces import Pieces

    categories = list(old.cat.categories)
    origin = [number for number, name in enumerate(categories) if name not in opened[1:]]
    names = ["+".join(opened) if categories[number] == opened[0] else categories[number] for number in origin]
    together = origin.index(categories.index(opened[0]))
    number_of = np.full(len(categories), together)
    number_of[origin] = np.arange(len(origin))
    before = number_of[old.cat.codes]
    after = before.copy()
    after[cells] = len(origin) + parts.cat.codes
    sizes = old.value_counts()
    origin[together] = categories.index(max(opened, key=lambda name: sizes[name]))
    return Pieces.from_labels(before, after, np.ones(len(old), dtype=np.int64)), names, origin


def _cluster_confidence(
    entry: Mapping[str, Any], record: Mapping[str, Any], old: pd.Series, cells: NDArray[np.bool_], parts: pd.Series,
    clusters: NDArray[np.int64],
    *,
    in_order: bool,
) -> dict[str, NDArray[np.float64]]:  # fmt: skip
    """That of each new cluster, from the old result (NaN if it has none, or of other clusters) or from the new run."""
    _, first = np.unique(clusters, return_index=True)
    found, n_old, n_parts = {}, len(old.cat.categories), parts.nunique()
    entry = entry if in_order else {}
    is_same = n_parts == 1 and old[cells].nunique() == 1
    for name in _OUTCOMES:
        of_old = np.asarray(entry.get("cluster_confidence", {}).get(name, ()), dtype=np.float64)
        of_cell = (of_old if len(of_old) == n_old else np.full(n_old, np.nan))[old.cat.codes]
        if n_parts > 1:
            of_cell[cells] = record["cluster_confidence"][name][parts.cat.codes]
        elif not is_same:
            of_cell[cells] = np.nan
        found[name] = of_cell[first]
    return found


def _is_in_order(adata: AnnData, key: str, old: pd.Series) -> bool:
    """Whether the categories are the clusters of the result in their order, as far as it can be told."""
    proba = adata.obsm.get(ResultKeys(key).proba)
    if proba is None or (key in adata.uns and "cut_of" in adata.uns[key]["params"]):  # parts may lie nearer to others
        return True
    return proba.shape[1] == len(old.cat.categories) and bool((proba.argmax(axis=1) == old.cat.codes).all())


def _with_nan(latent: NDArray[np.float32], cells: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(n_obs, n_latent) with NaN for all other cells."""
    filled = np.full((len(cells), latent.shape[1]), np.nan, dtype=np.float32)
    filled[cells] = latent
    return filled
