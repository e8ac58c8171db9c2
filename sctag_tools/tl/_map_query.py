"""``sctag.tl.map_query``: new cells placed into the clusters of a reference."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from .. import _logging as logg
from .._anndata.access import require_writable, silent_writing, working_copy
from .._anndata.cells import agreement_of, annotate, read_annotations
from .._anndata.clusters import colors_by_name
from .._checks import check_name
from .._keys import ResultKeys
from .._model import ScTAG

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from anndata import AnnData


def map_query(
    adata: AnnData,
    reference: AnnData | ScTAG | str | os.PathLike[str],
    *,
    key: str = "sctag",
    layer: str | None = None,
    use_rep: str | None = None,
    obs: Sequence[str] | str | None = None,
    check_values: bool = True,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Place new cells into the clusters of a reference, without training and without changing the reference.

    Each cell is joined to its nearest reference cells. The messages that these send to the first layer of the encoder
    were stored when the model was trained, so the latent and the soft assignment follow at once (the inductive use of
    graph convolutions, Hamilton et al. 2017; the stored messages are our own). Cells are placed one by one: neither
    their order nor the other cells of the query matter. Only whether the totals of the query are over as many genes as
    those of the reference is judged from all of its cells, and a warning says so if not.

    Parameters
    ----------
    adata
        The query: annotated data with raw counts of **all** its genes, cells in rows. Genes are matched by name.
    reference
        An AnnData that :func:`sctag_tools.tl.sctag` was run on, a :class:`sctag_tools.ScTAG`, or the folder of a saved
        model.
    key
        Name of the result in the reference AnnData.
    layer
        Layer with the raw counts; by default the one that the reference was trained on if the query has it, else
        found as in :func:`sctag_tools.tl.sctag`.
    use_rep
        Key in ``adata.obsm`` of the query's coordinates in the representation that the reference's graph was built
        on, if that was another than the genes' own (scVI, Harmony); by default the same key. It must have been made
        by the model that made the reference's.
    obs
        Columns of the reference's ``obs`` to carry over once the cells are placed, on which they have no influence. Of
        words, each cell gets the one that most of its reference neighbors have; of numbers, their mean. The reference
        must be an AnnData.
    check_values
        Whether to check that the counts are counts.
    key_added
        Name of the results; ``key`` by default.
    copy
        Return a changed copy instead of writing to ``adata``.

    Returns
    -------
    ``None``, or the copy if ``copy=True``. Writes:

    `adata.obsm['X_sctag' | 'X_{key_added}']` : :class:`numpy.ndarray` (float32)
        (n_obs, n_latent), in the latent space of the reference.
    `adata.obs['sctag' | key_added]` : :class:`pandas.Series` (categorical of strings)
        (n_obs,), clusters of the reference, with the names that they have there; all of them are categories, also those
        without a cell here.
    `adata.obsm['sctag_proba' | '{key_added}_proba']` : :class:`numpy.ndarray` (float32)
        (n_obs, n_clusters), soft assignment, rows sum to one.
    `adata.obs['sctag_confidence' | '{key_added}_confidence']` : :class:`pandas.Series` (float32)
        (n_obs,), in [0, 1]: share of the reference neighbors that are in the same cluster, each counted by its own
        confidence.
    `adata.obs['sctag_novelty' | '{key_added}_novelty']` : :class:`pandas.Series` (float32)
        (n_obs,), how unlike anything in the reference a cell is; 1 is the 99th percentile of the reference's own
        cells, so that most of what lies above is something else.
    `adata.uns['sctag' | key_added]` : :class:`dict`
        ``params``, ``mapped_to`` (parameters of the reference), ``missing_genes``, ``versions``.
    `adata.obs[column]` : :class:`pandas.Series` (categorical of strings)
        (n_obs,), for each column of ``obs``; float64 if it holds numbers. A cell whose neighbors have no value gets
        none.
    `adata.obs['{column}_agreement']` : :class:`pandas.Series` (float32)
        (n_obs,), in [0, 1]: share of the reference neighbors that have this value. Not for numbers.

    The colors of the clusters are taken over from the reference, too.

    Raises
    ------
    KeyError
        If the reference holds no such result or no model, or the representation or a column of ``obs`` is missing.
    ValueError
        If fewer than half of the genes are found, the counts are no counts, a cell has none, ``adata`` holds a run of
        its own under this name, or a column of ``obs`` exists or cannot be carried over.
    FileNotFoundError
        If the folder holds no model.
    NotImplementedError
        For a copy or a view of backed data, which cannot hold results.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> reference, query = adata[:600].copy(), adata[600:].copy()
    >>> sctag.pp.build_graph(reference)
    >>> sctag.tl.sctag(reference, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> sctag.tl.map_query(query, reference)
    >>> query.obsm["X_sctag"].shape
    (100, 15)
    """
    require_writable(adata, "sctag.tl.map_query", copy=copy)
    check_name("key", key)
    key_added = key if key_added is None else key_added
    check_name("key_added", key_added)
    keys = ResultKeys(key_added)
    keys.require_free(adata)
    model = ScTAG.from_reference(reference, key)
    if "history" in adata.uns.get(key_added, {}):  # it took minutes, and holds a model
        msg = f"adata holds a run of its own under {key_added!r}; choose another name with `key_added=`."
        raise ValueError(msg)

    columns = [obs] if isinstance(obs, str) else list(obs or ())
    earlier = _require_free_columns(adata, columns, keys)
    annotations = read_annotations(reference, columns, model.registry.obs_names) if columns else []

    start = logg.info("mapping cells to a scTAG reference")
    placed, query = model.place(adata, layer=layer, use_rep=use_rep, check_values=check_values)
    carried = annotate(annotations, placed.neighbors)
    adata = working_copy(adata, copy=copy)
    genes = zip(model.registry.var_names, query.measured, strict=True)
    batch_key = model.registry.batch_key if model.registry.batch_key in adata.obs else None
    params = {"counts": query.source, "n_genes": int(query.measured.sum()), "n_clusters": len(model.clusters)}
    record = {
        "params": {
            **params,
            **({"obs": columns} if columns else {}),
            **({} if batch_key is None else {"batch_key": batch_key}),
        },
        "mapped_to": dict(model.params_),
        "missing_genes": [gene for gene, measured in genes if not measured],
        "versions": {"sctag-tools": version("sctag-tools")},
    }
    keys.write(adata, placed, record, model.clusters)
    with silent_writing():
        adata.obs = adata.obs.drop(columns=earlier).assign(**carried)
        colors = colors_by_name(reference, key)
        if colors.keys() >= set(model.clusters):
            adata.uns[keys.colors] = [colors[name] for name in model.clusters]
    logg.info(
        f"    finished: {adata.n_obs} cells, {int((placed.novelty > 1).sum())} of them unlike the reference",
        time=start,
        deep=f"added\n    {keys.latent!r}, latent (adata.obsm)\n"
        f"    {keys.clusters!r}, clusters (adata.obs, categorical)\n"
        f"    {keys.proba!r}, soft assignment (adata.obsm)\n    {keys.confidence!r}, {keys.novelty!r} (adata.obs)\n"
        f"    {keys.key!r}, parameters (adata.uns)",
    )
    return adata if copy else None


def _require_free_columns(adata: AnnData, columns: list[str], keys: ResultKeys) -> list[str]:
    """ValueError if annotations would overwrite anything; returns those of an earlier mapping of this name."""
    entry = adata.uns.get(keys.key, {})
    of_earlier = list(entry.get("params", {}).get("obs", ())) if "mapped_to" in entry else []
    earlier = {name for column in of_earlier for name in (column, agreement_of(column)) if name in adata.obs}
    names = [name for column in columns for name in (column, agreement_of(column))]
    own = {keys.clusters, keys.confidence, keys.novelty}
    taken = [name for name in names if (name in adata.obs and name not in earlier) or name in own]
    if taken or len(set(names)) < len(names):
        what = f"{taken} already" if taken else "one name for two columns"
        msg = f"adata.obs has, or would have, {what}; rename or delete them first, or leave them out of obs=."
        raise ValueError(msg)
    return sorted(earlier)
