"""``sctag.tl.sctag``: the whole method on an AnnData."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from .. import _logging as logg
from .._anndata.access import require_anndata, require_writable, working_copy
from .._anndata.batches import find_batches
from .._anndata.genes import DEFAULT
from .._atomic import require_writable_folder
from .._checks import check_choice, check_flag, check_integer, check_name
from .._keys import GRAPH_KEY, MODEL, ResultKeys
from .._model import ScTAG
from .._options import takes_options
from .._types import Preset
from ..train.config import Config

if TYPE_CHECKING:
    import os
    from datetime import datetime

    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray

    from .._anndata.genes import Default
    from ..mapping.reference import ReferenceCells
    from ..train.config import Group
    from ..train.result import FitResult

_FUNCTION = "sctag.tl.sctag"
_GROUPS: tuple[Group, ...] = ("clustering", "model", "training", "runtime")


@takes_options(*_GROUPS, before="store_model")
def sctag(
    adata: AnnData,
    n_clusters: int | None = None,
    *,
    preset: Preset = "default",
    layer: str | None = None,
    mask_var: NDArray[np.bool_] | str | Default | None = DEFAULT,
    neighbors_key: str = GRAPH_KEY,
    batch_key: str | None = None,
    n_top_genes: int | None = None,
    check_values: bool = True,
    store_model: bool = True,
    save: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    key_added: str = "sctag",
    copy: bool = False,
    **options: Any,
) -> AnnData | None:
    """Learn a latent and clusters of cells with TAG-convolution autoencoders (after scTAG, Yu et al. 2022).

    An encoder of topology-adaptive graph convolutions (Du et al. 2017) reads the scaled log-expression of each cell and
    of its graph neighbors, with most genes hidden; a decoder rebuilds the raw counts. Several such networks are trained
    side by side. What k-means partitions of all their latents agree on is a tree of cells (evidence accumulation, Fred
    & Jain 2005). The tree chooses the number of clusters and starts the self-training of Student-t assignments against
    their own sharpened mean (DEC, Xie et al. 2016). The method page lists every difference from the published code.

    Parameters
    ----------
    adata
        Annotated data with raw counts and a cell graph (:func:`sctag_tools.pp.build_graph`).
    {n_clusters}
    preset
        ``"default"``; ``"reference"``, the published code as it really runs; or ``"paper"``, the same method without
        the code's defects. The latter two train on all cells at once, take the edges of the graph's ``distances``,
        need ``n_clusters``, and fix every option but the epochs (1000 and 300). Their graph is built on
        :func:`sctag_tools.pp.recipe_published`.
    layer
        Layer with the raw counts, (n_obs, n_vars), dense or sparse. By default X if it holds counts, else
        ``layers["counts"]`` if there is one, else X as corrected counts, with a warning.
    mask_var
        Genes to use: a boolean column of ``adata.var`` or an array (n_vars,). By default ``"highly_variable"`` if
        there is such a column, else all; ``None`` takes all. Size factors are over all genes in any case.
    neighbors_key
        Which graph of ``adata.uns`` to convolve over; its ``connectivities`` are used. Any graph in scanpy's layout
        will do.
    batch_key
        Column of ``adata.obs`` with the experimental batch. Genes are then centered within each batch, and the decoder
        adds each batch's own effect, so that the latent need not hold it. Build the graph with ``batch_key`` too.
    n_top_genes
        For the presets ``"reference"`` and ``"paper"`` only: highly variable genes that they choose themselves, 500 by
        default. Otherwise choose them with :func:`scanpy.pp.highly_variable_genes`.
    check_values
        Whether to check that the values are raw counts.
    {options}
    store_model
        Keep the trained networks in ``adata.uns`` (10 MB for 2,000 genes, and 2 MB for every 1,000 cells), so that
        :func:`sctag_tools.tl.map_query` and :func:`sctag_tools.tl.denoise` work on ``adata`` alone, also after it was
        written and read.
    save
        New or empty folder to write the model into (:meth:`sctag_tools.ScTAG.save`), once the results are in ``adata``.
    checkpoint
        Folder in which the state of the pretraining is saved every 100 steps. If the run is ended, the same call (with
        the same data, options and seed) goes on from there and finds the same. Removed when the results are written.
        Not for the published presets.
    key_added
        Name of the results; a second run under another name leaves the first as it is.
    copy
        Return a changed copy instead of writing to ``adata``.

    Returns
    -------
    ``None``, or the copy if ``copy=True``. Nothing is written unless the run succeeds; then:

    `adata.obsm['X_sctag' | 'X_{key_added}']` : :class:`numpy.ndarray` (float32)
        (n_obs, n_latent), the latent: principal components of those of all networks.
    `adata.obs['sctag' | key_added]` : :class:`pandas.Series` (categorical of strings)
        (n_obs,), the clusters; ``"0"`` is the largest.
    `adata.obsm['sctag_proba' | '{key_added}_proba']` : :class:`numpy.ndarray` (float32)
        (n_obs, n_clusters), soft assignment, columns in the order of the categories; rows sum to one.
    `adata.obs['sctag_confidence' | '{key_added}_confidence']` : :class:`pandas.Series` (float32)
        (n_obs,), an estimate of the share of runs that would put the cell into the same cluster, from clusterings by a
        few partitions of one network each and from the soft assignment. Of the published presets, the largest soft
        assignment.
    `adata.uns['sctag' | key_added]` : :class:`dict`
        ``params``, ``history`` (loss terms of each step), ``n_clusters_curve`` (if the number was chosen), ``stop``
        and ``seconds`` by stage, ``device``, ``versions``, and ``model`` (unless ``store_model=False``, and not of the
        published presets). ``cluster_confidence`` (not of the published presets) has arrays (n_clusters,), in the order
        of the categories: ``confidence``, how much of the cluster as a whole comes back in clusterings by a few
        partitions (mean of the largest Jaccard index), and the shares of these in which it is ``merged`` with another,
        ``split``, or ``dissolved``. ``tree`` (not of the published presets) holds what the clusters are a cut of, for
        :func:`sctag_tools.tl.cut`. Node i of the tree is leaf i, or splits into ``children[i - n_leaves]``; the last is
        the root. Integers: ``leaf`` (n_obs,), a leaf of the cell's cluster; ``consensus_leaf`` (n_obs,), the one before
        self-training; ``children`` (n_leaves - 1, 2); ``n_cells`` (2 n_leaves - 1,), cells below each node;
        ``split_order`` (n_leaves - 1,), the nodes that growing numbers of clusters split, in turn. Floats
        (n_leaves - 1,), one a split: ``coassociation`` and ``relative_coassociation``, share of partitions that keep
        the two sides together, and that over cells of one side; ``dprime``, lower bound of the distance of the sides,
        and ``null_dprime``, its limit, NaN if not tested. The confidence is from 21 trees of few partitions:
        ``replicate_children`` (21, n_leaves - 1, 2) and ``replicate_coassociation`` (21, n_leaves - 1).

    What was made of an earlier result of this name is removed: its UMAP, its denoised layers, its novelty, the ranking
    of :func:`sctag_tools.tl.rank_genes_splits`, what :func:`sctag_tools.tl.explain` wrote, and its colors if the number
    of clusters has changed.

    Raises
    ------
    KeyError
        If the layer, the batch column or the graph does not exist.
    FileExistsError
        If the folder ``save`` holds anything, or ``checkpoint`` is a file.
    ValueError
        If the values are not counts, a cell has none, an option is out of range, a name is taken, or the checkpoint is
        of another run.
    TypeError
        If an option has the wrong type, or is unknown.
    NotImplementedError
        For a copy or a view of backed data, which cannot hold results, or a published preset of data that is not in
        memory.
    RuntimeError
        If the loss becomes non-finite, or one of several processes dies.

    Examples
    --------
    >>> import scanpy as sc, sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> adata.obsm["X_sctag"].shape
    (700, 15)
    """
    require_anndata(adata, _FUNCTION)
    config = Config.from_options(_FUNCTION, _GROUPS, {"n_clusters": n_clusters, **options})
    check_flag("store_model", store_model)
    check_call(
        adata, config, preset=preset, neighbors_key=neighbors_key, batch_key=batch_key, mask_var=mask_var,
        n_top_genes=n_top_genes, save=save, key_added=key_added, copy=copy, checkpoint=checkpoint,
    )  # fmt: skip
    inputs: dict[str, Any] = {"layer": layer, "neighbors_key": neighbors_key, "check_values": check_values}
    keys = ResultKeys(key_added)
    found: ReferenceCells | FitResult
    if preset == "default":
        model = ScTAG(adata, config.n_clusters, mask_var=mask_var, batch_key=batch_key, **inputs)
        adata, start = working_copy(adata, copy=copy), logg.info("clustering with scTAG")
        model.train_with_config(config, None if checkpoint is None else Path(checkpoint))
        found, record = model.reference.cells, dict(model.registry.run)
        if store_model:
            record[MODEL] = model.to_uns()
    else:
        from ..published.preset import prepare_run

        run = prepare_run(adata, preset, config, n_top_genes=n_top_genes, **inputs)
        adata, start = working_copy(adata, copy=copy), logg.info("clustering with scTAG")
        result, params = run()
        logg.warn_of_fewer_clusters(n_clusters, result.n_clusters)
        found, record = result, result.record(params)
    keys.write(adata, found, record)
    if checkpoint is not None:
        from ..train.checkpoint import remove_checkpoint

        remove_checkpoint(Path(checkpoint))
    if save is not None:  # last, so that a full disk costs only the folder
        model.save(save)
    _log_finish(keys, record, found.proba.shape[1], start)
    return adata if copy else None


def _log_finish(keys: ResultKeys, record: dict[str, Any], n_clusters: int, start: datetime) -> None:
    held = "parameters, history and model" if MODEL in record else "parameters and history"
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in record["seconds"].items())
    logg.info(
        f"    finished: {n_clusters} clusters",
        time=start,
        deep=f"added\n    {keys.latent!r}, latent (adata.obsm)\n"
        f"    {keys.clusters!r}, clusters (adata.obs, categorical)\n"
        f"    {keys.proba!r}, soft assignment (adata.obsm)\n    {keys.confidence!r} (adata.obs)\n"
        f"    {keys.key!r}, {held} (adata.uns)\n    stages: {stages}",
    )


def check_call(
    adata: AnnData,
    config: Config,
    *,
    preset: str,
    batch_key: str | None,
    save: str | os.PathLike[str] | None,
    key_added: str,
    neighbors_key: str = GRAPH_KEY,
    mask_var: object = DEFAULT,
    n_top_genes: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    copy: bool = False,
) -> None:
    """Raise what :func:`sctag` would raise before it reads the counts; the command line asks this first."""
    check_choice("preset", preset, get_args(Preset))
    require_writable(adata, _FUNCTION, copy=copy)
    check_name("key_added", key_added)
    check_name("neighbors_key", neighbors_key)
    if key_added == neighbors_key:
        msg = f"key_added={key_added!r} is the name of the graph; choose another one for the results."
        raise ValueError(msg)
    ResultKeys(key_added).require_free(adata)
    config.check_cells(adata.n_obs)
    if checkpoint is not None:
        _check_checkpoint(checkpoint, preset)
    if preset == "default":
        find_batches(adata, batch_key)
        if n_top_genes is not None:
            msg = "n_top_genes is for the published presets only; choose genes with `sc.pp.highly_variable_genes`."
            raise ValueError(msg)
    else:
        from ..published.preset import check_preset

        check_preset(preset, config, mask_var=mask_var, batch_key=batch_key, save=save)
        if n_top_genes is not None:
            check_integer("n_top_genes", n_top_genes, low=2)
    if save is not None:
        from ..io.model_folder import check_model_folder

        check_model_folder(save)


def _check_checkpoint(checkpoint: str | os.PathLike[str], preset: str) -> None:
    if preset != "default":
        msg = "checkpoint= is not for the published presets."
        raise ValueError(msg)
    if Path(checkpoint).is_file():
        msg = f"checkpoint={str(checkpoint)!r} is a file; name a folder."
        raise FileExistsError(msg)
    Path(checkpoint).mkdir(parents=True, exist_ok=True)
    require_writable_folder(Path(checkpoint) / "state", "checkpoint")
