"""``sctag.tl.sctag``: the whole method on an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from .. import _logging as logg
from .._adata import (
    DEFAULT,
    clusters_of,
    forget_earlier,
    require_anndata,
    require_own_key,
    require_place,
    working_copy,
    writing,
)
from .._checks import check_choice, check_flag, check_name
from .._core.config import Config
from .._model import ScTAG, check_model_folder
from .._types import Accelerator, Likelihood, Precision, Preset
from ._preset import PresetRun

if TYPE_CHECKING:
    import os

    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray

    from .._adata import Default
    from .._core.fit import Fit
    from .._core.fitted import Reference

_FUNCTION = "sctag.tl.sctag"


def sctag(
    adata: AnnData,
    n_clusters: int | None = None,
    *,
    preset: Preset = "default",
    layer: str | None = None,
    mask_var: NDArray[np.bool_] | str | Default | None = DEFAULT,
    neighbors_key: str = "sctag_neighbors",
    batch_key: str | None = None,
    n_top_genes: int | None = None,
    resolution: float = 1.0,
    n_networks: int = Config.n_networks,
    n_hops: int = Config.n_hops,
    n_hidden: int = Config.n_hidden,
    n_latent: int = Config.n_latent,
    likelihood: Likelihood = Config.likelihood,
    mask_rate: float = Config.mask_rate,
    count_weight: float = Config.count_weight,
    graph_weight: float = Config.graph_weight,
    cluster_weight: float = Config.cluster_weight,
    learning_rate: float = Config.learning_rate,
    batch_size: int = Config.batch_size,
    pretrain_epochs: int | None = None,
    cluster_epochs: int | None = None,
    check_values: bool = True,
    accelerator: Accelerator = "auto",
    devices: int = 1,
    precision: Precision = "32-true",
    random_state: int | None = 0,
    progress_bar: bool = True,
    store_model: bool = True,
    save: str | os.PathLike[str] | None = None,
    key_added: str = "sctag",
    copy: bool = False,
) -> AnnData | None:
    """Learn a latent and clusters of cells with TAG-convolution autoencoders (after scTAG, Yu et al. 2022).

    An encoder of topology-adaptive graph convolutions (Du et al. 2017) reads each cell's scaled log-expression and
    that of its graph neighbours up to ``n_hops`` away, most genes hidden; a decoder rebuilds the raw counts. Several
    such networks are trained side by side. What k-means partitions of all their latents agree on is a tree of cells
    (evidence accumulation, Fred & Jain 2005), which chooses the number of clusters and starts the self-training of
    Student-t assignments against their own sharpened mean (DEC, Xie et al. 2016). The method page lists every
    departure from the published code.

    Parameters
    ----------
    adata
        Annotated data with raw counts and a cell graph (:func:`sctag_tools.pp.build_graph`).
    n_clusters
        Number of clusters, at most 300; by default as many as most partitions tell apart and lie far enough apart in
        the latents (:func:`sctag_tools.pl.n_clusters` draws the evidence). Labels are never used.
    preset
        ``"default"``; ``"reference"``, the published code as it really runs; or ``"paper"``, the same method without
        the code's defects. The latter two train on all cells at once, take the edges of the graph's ``distances``,
        need ``n_clusters``, and fix every option but the epochs (1000 and 300). Their graph is built on
        :func:`sctag_tools.pp.recipe_published`.
    layer
        Layer with the raw counts, (n_obs, n_vars), dense or sparse. By default X if it holds counts, else
        ``layers["counts"]`` if that does.
    mask_var
        Genes to use: a boolean column of ``adata.var`` or an array (n_vars,). By default ``"highly_variable"`` if
        there is such a column, else all; ``None`` takes all. Size factors are over all genes in any case.
    neighbors_key
        Which graph of ``adata.uns`` to convolve over; its ``connectivities`` are used. Any graph in scanpy's layout
        will do.
    batch_key
        Column of ``adata.obs`` with the experimental batch. Genes are then centred within each batch, and the decoder
        adds each batch's own effect, so that the latent need not hold it. Build the graph with ``batch_key`` too.
    n_top_genes
        Of the presets ``"reference"`` and ``"paper"`` alone: highly variable genes that they choose themselves, 500 by
        default. Else choose them with :func:`scanpy.pp.highly_variable_genes`.
    resolution
        When the number of clusters is chosen: above 1 for finer clusters, below 1 for coarser ones. A split needs to
        be kept together by less than ``resolution / (1 + resolution)`` of the partitions. Not used if ``n_clusters`` is
        given.
    n_networks
        Networks that are trained; more cost more time and agree better between seeds.
    n_hops
        Largest distance in the graph that the encoder reads (the paper's K); 0 ignores the graph.
    n_hidden, n_latent
        Width of the hidden layers, and dimensions of the latent.
    likelihood
        Of the counts: ``"multinomial"`` (the shares of the genes, given the cell's total), or ``"zinb"`` (zero-inflated
        negative binomial with size factors, as published).
    mask_rate
        Share of genes hidden from the encoder, anew for each cell and step, in [0, 0.99].
    count_weight, graph_weight, cluster_weight
        Weights of the three terms of the loss. Without ``graph_weight`` the graph is not decoded.
    learning_rate, batch_size
        Of Adam, the largest of pretraining; cells in a step (if the graph is decoded, half of them are neighbours of
        the other half).
    pretrain_epochs, cluster_epochs
        Epochs of the two phases. Given, exactly so many are run; by default 250 steps of pretraining, or one
        epoch if that is more, and clustering until labels settle (at most 60 steps).
    check_values
        Whether to check that the counts are counts.
    accelerator
        ``"auto"`` (a CUDA device if there is one, else the CPU), ``"cpu"``, ``"gpu"``, ``"cuda"`` or ``"mps"``.
    devices
        Processes that share each batch, on one machine: one a GPU, or that many on the CPU. Each holds all cells. Equal
        seeds give equal results whatever their number, up to rounding; one and two on the CPU, with as many threads
        each, to the bit.
    precision
        Of training: ``"32-true"``, or ``"bf16-mixed"`` for a GPU with bfloat16; the latent and the assignment are
        always computed in float32.
    random_state
        Seed of every random draw; None draws one, which the record holds. Equal seeds give equal labels on one machine;
        on a GPU up to the order of its sums.
    progress_bar
        Show a bar for each phase, unless ``sc.settings.verbosity`` is 0.
    store_model
        Keep the trained networks in ``adata.uns`` (10 MB for 2,000 genes, and 2 MB for every 1,000 cells), so that
        :func:`sctag_tools.tl.map_query` and :func:`sctag_tools.tl.denoise` work on ``adata`` alone, also after it was
        written and read.
    save
        New or empty folder to write the model into (:meth:`sctag_tools.ScTAG.save`), once the results are in ``adata``.
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
        (n_obs,), how sure the place of each cell is: an estimate of the share of runs that would put it into the same
        cluster, from clusterings by a few partitions of one network each and from the soft assignment. Of the
        published presets, the largest soft assignment.
    `adata.uns['sctag' | key_added]` : :class:`dict`
        ``params``, ``history`` (loss terms of each step), ``n_clusters_curve`` (if the number was chosen), ``stop``
        and ``seconds`` by stage, ``device``, ``versions``, and ``model`` (unless ``store_model=False``, and not of the
        published presets).

    A UMAP and colours that belonged to an earlier result of this name are removed.

    Raises
    ------
    KeyError
        If the layer, the batch column or the graph does not exist.
    FileExistsError
        If the folder ``save`` holds anything.
    ValueError
        If the counts are no counts, a cell has none, an option is out of range, or a name is taken.
    TypeError
        If an option has the wrong type.
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
    check_choice("preset", preset, get_args(Preset))
    for name, flag in {"progress_bar": progress_bar, "store_model": store_model, "copy": copy}.items():
        check_flag(name, flag)
    require_place(adata, copy=copy)
    check_name("key_added", key_added)
    if key_added == neighbors_key:
        msg = f"key_added={key_added!r} is the name of the graph; choose another one for the results."
        raise ValueError(msg)
    require_own_key(adata, key_added)
    of_model: dict[str, Any] = {
        "layer": layer,
        "mask_var": mask_var,
        "neighbors_key": neighbors_key,
        "batch_key": batch_key,
        "resolution": resolution,
        "n_networks": n_networks,
        "n_hops": n_hops,
        "n_hidden": n_hidden,
        "n_latent": n_latent,
        "likelihood": likelihood,
        "mask_rate": mask_rate,
        "count_weight": count_weight,
        "graph_weight": graph_weight,
        "cluster_weight": cluster_weight,
        "check_values": check_values,
    }
    of_training: dict[str, Any] = {
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "pretrain_epochs": pretrain_epochs,
        "cluster_epochs": cluster_epochs,
        "accelerator": accelerator,
        "devices": devices,
        "precision": precision,
        "random_state": random_state,
        "progress_bar": progress_bar,
    }
    found: Fit | Reference
    if preset == "default":
        if n_top_genes is not None:
            msg = "n_top_genes is of the published presets alone; `sc.pp.highly_variable_genes` chooses genes."
            raise ValueError(msg)
        model = ScTAG(adata, n_clusters, **of_model)
        if save is not None:
            check_model_folder(save)
        adata, start = working_copy(adata, copy=copy), logg.info("clustering with scTAG")
        model.train(**of_training)
        found, record = model.trained.fitted.reference, dict(model.trained.run)
        if store_model:
            record["model"] = model.trained.for_uns()
    else:
        run = PresetRun(adata, preset, n_clusters, n_top_genes, save, {**of_model, **of_training})
        adata, start = working_copy(adata, copy=copy), logg.info("clustering with scTAG")
        found, record = run()
    _write(adata, key_added, found, record)
    if save is not None:  # last, so that a full disk costs the folder alone
        model.save(save)
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in record["seconds"].items())
    logg.info(
        f"    finished: {found.proba.shape[1]} clusters",
        time=start,
        deep=f"added\n    'X_{key_added}', latent (adata.obsm)\n    {key_added!r}, clusters (adata.obs, categorical)\n"
        f"    '{key_added}_proba', soft assignment (adata.obsm)\n    '{key_added}_confidence' (adata.obs)\n"
        f"    {key_added!r}, parameters, history and model (adata.uns)\n    stages: {stages}",
    )
    return adata if copy else None


def _write(adata: AnnData, key: str, found: Fit | Reference, record: dict[str, Any]) -> None:
    """All results at once, and nothing of an earlier result of this name left behind.

    They are copies: what a user does to them must not reach the model in ``uns``.
    """
    with writing():
        forget_earlier(adata, key, found.proba.shape[1])
        adata.obs[key] = clusters_of(found.proba)
        adata.obs[f"{key}_confidence"] = found.confidence.copy()
        adata.obsm[f"X_{key}"] = found.latent.copy()
        adata.obsm[f"{key}_proba"] = found.proba.copy()
        adata.uns[key] = record
