"""``sctag.tl.sctag``: the whole method on an AnnData."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from scipy import sparse

from .. import _logging as logg
from .._adata import (
    DEFAULT,
    batch_numbers,
    find_counts,
    require_anndata,
    require_in_memory,
    require_own_key,
    select_genes,
    working_copy,
    writing,
)
from .._checks import check_choice, check_flag, check_integer, check_name, check_number, check_seed
from .._core.config import Config
from .._published_recipe import N_TOP_GENES
from .._types import Accelerator, Likelihood, Precision, Preset
from ._preset import check_preset, fit_preset

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from .._adata import Default
    from .._core.fit import Fit

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
    n_top_genes: int = N_TOP_GENES,
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
    random_state: int = 0,
    progress_bar: bool = True,
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
        Number of clusters; by default as many as most partitions tell apart and the latents show a gap between
        (:func:`sctag_tools.pl.n_clusters` draws the evidence). Labels are never used.
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
        Of the presets ``"reference"`` and ``"paper"`` alone: highly variable genes that they choose themselves.
    resolution
        When the number of clusters is chosen: above 1 for finer clusters, below 1 for coarser ones. A split needs to
        be kept together by less than ``resolution / (1 + resolution)`` of the partitions.
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
        seeds give equal results whatever their number, up to rounding.
    precision
        Of training: ``"32-true"``, or ``"bf16-mixed"`` for a GPU with bfloat16; the latent and the assignment are
        always computed in float32.
    random_state
        Seed of every random draw. Equal seeds give equal labels on one machine; on a GPU up to the order of its sums.
    progress_bar
        Show a bar for each phase, unless ``sc.settings.verbosity`` is 0.
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
        and ``seconds`` by stage, ``device``, ``versions``.

    A UMAP and colours that belonged to an earlier result of this name are removed.

    Raises
    ------
    KeyError
        If the layer, the batch column or the graph does not exist.
    ValueError
        If the counts are no counts, a cell has none, or an option is out of range.
    TypeError
        If an option has the wrong type.
    NotImplementedError
        If ``adata`` is backed or holds dask arrays.
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
    require_in_memory(adata, _FUNCTION)
    config = Config(
        n_networks=n_networks,
        n_hops=n_hops,
        n_hidden=n_hidden,
        n_latent=n_latent,
        likelihood=likelihood,
        mask_rate=mask_rate,
        count_weight=count_weight,
        graph_weight=graph_weight,
        cluster_weight=cluster_weight,
        learning_rate=learning_rate,
        batch_size=batch_size,
        pretrain_epochs=pretrain_epochs,
        cluster_epochs=cluster_epochs,
    )
    check_choice("preset", preset, get_args(Preset))
    if preset != "default":
        check_preset(preset, config, n_clusters, n_top_genes, mask_var, batch_key, devices, precision)
    _check_options(n_clusters, adata.n_obs, accelerator, random_state, key_added, neighbors_key)
    _check_devices(devices, precision, config, adata.n_obs)
    check_number("resolution", resolution, low=1e-3, high=1e3)
    for name, flag in {"check_values": check_values, "progress_bar": progress_bar, "copy": copy}.items():
        check_flag(name, flag)
    require_own_key(adata, key_added)
    published = preset != "default"
    weights = _graph_of(adata, neighbors_key, "distances" if published else "connectivities")
    genes, mask_name = (None, "recipe_published") if published else select_genes(adata, mask_var)
    batches = batch_numbers(adata, batch_key)
    counts, source = find_counts(adata, layer, check_values=check_values)
    totals = _totals(counts, genes)
    adata = working_copy(adata, copy=copy)

    start = logg.info("clustering with scTAG")
    training: dict[str, Any] = {
        "random_state": random_state,
        "accelerator": accelerator,
        "progress": progress_bar and logg.verbosity() > 0,
    }
    if genes is None:
        n_neighbors = adata.uns[neighbors_key].get("params", {}).get("n_neighbors")
        result, genes = fit_preset(counts, weights, n_neighbors, n_clusters, preset, config, n_top_genes, **training)
    else:
        training |= {"resolution": resolution, "batches": batches, "precision": precision}
        result = _fit(int(devices), counts[:, genes], totals, weights, n_clusters, config, **training)
    found = result.proba.shape[1]
    if n_clusters is not None and found < n_clusters:
        msg = f"n_clusters={n_clusters} were asked for, but only {found} hold a cell; the others are left out."
        warnings.warn(msg, UserWarning, stacklevel=2)
    params = {
        "preset": preset,
        "n_clusters": found,
        "n_clusters_given": n_clusters is not None,
        "counts": source,
        "mask_var": mask_name,
        "n_genes": int(genes.sum()),
        "neighbors_key": neighbors_key,
        **({} if batch_key is None else {"batch_key": batch_key}),
        "random_state": int(random_state),
        "accelerator": accelerator,
        **({} if published else {"resolution": float(resolution), "devices": int(devices), "precision": precision}),
        **({} if published else {name: value for name, value in asdict(config).items() if value is not None}),
    }
    _write(adata, key_added, result, params)
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    logg.info(
        f"    finished: {found} clusters",
        time=start,
        deep=f"added\n    'X_{key_added}', latent (adata.obsm)\n    {key_added!r}, clusters (adata.obs, categorical)\n"
        f"    '{key_added}_proba', soft assignment (adata.obsm)\n    '{key_added}_confidence' (adata.obs)\n"
        f"    {key_added!r}, parameters and history (adata.uns)\n    stages: {stages}",
    )
    return adata if copy else None


def _check_options(
    n_clusters: int | None, n_obs: int, accelerator: str, random_state: int, key_added: str, neighbors_key: str
) -> None:
    if n_obs < 2:
        msg = f"Clustering needs at least 2 cells, adata has {n_obs}."
        raise ValueError(msg)
    if n_clusters is not None:
        check_integer("n_clusters", n_clusters, low=1)
        if n_clusters > n_obs:
            msg = f"n_clusters={n_clusters} exceeds the {n_obs} cells."
            raise ValueError(msg)
    check_choice("accelerator", accelerator, get_args(Accelerator))
    check_seed(random_state)
    check_name("key_added", key_added)
    check_name("neighbors_key", neighbors_key)
    if key_added == neighbors_key:
        msg = f"key_added={key_added!r} is the name of the graph; choose another one for the results."
        raise ValueError(msg)


def _check_devices(devices: int, precision: str, config: Config, n_obs: int) -> None:
    check_integer("devices", devices, low=1)
    check_choice("precision", precision, get_args(Precision))
    if devices > min(config.batch_size, n_obs):
        msg = f"devices={devices} cannot share batches of {min(config.batch_size, n_obs)} cells; use fewer."
        raise ValueError(msg)
    if devices > 1 and config.graph_weight > 0:
        msg = "The graph is decoded among all cells of a batch; with graph_weight above 0 use devices=1."
        raise ValueError(msg)


def _fit(devices: int, *args: Any, **options: Any) -> Fit:
    if devices == 1:
        from .._core.fit import fit  # torch and PyG load here

        return fit(*args, **options)
    from .._core.launch import fit_in_processes

    return fit_in_processes(devices, *args, **options)


def _graph_of(adata: AnnData, neighbors_key: str, what: str) -> sparse.csr_matrix:
    """The (n_obs, n_obs) connectivities or distances that ``neighbors_key`` names."""
    name = adata.uns.get(neighbors_key, {}).get(f"{what}_key")
    if name not in adata.obsp:
        msg = (
            f"There is no graph adata.uns[{neighbors_key!r}]. Run `sctag.pp.build_graph(adata)` first, or name one "
            "with `neighbors_key=` (scanpy's own is 'neighbors')."
        )
        raise KeyError(msg)
    weights = sparse.csr_matrix(adata.obsp[name])
    if not np.isfinite(weights.data).all() or (weights.data < 0).any():
        msg = f"The graph {neighbors_key!r} has negative or non-finite weights; rebuild it."
        raise ValueError(msg)
    return weights


def _totals(counts: sparse.csr_matrix, genes: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Total count of each cell over all genes; cells without any cannot be placed."""
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    empty = np.flatnonzero(totals <= 0)
    if len(empty):
        msg = (
            f"{len(empty)} cells have no counts (the first is row {empty[0]}); "
            "run `sc.pp.filter_cells(adata, min_counts=1)` on the raw counts first."
        )
        raise ValueError(msg)
    if genes is None:
        return totals
    unseen = np.flatnonzero(np.asarray(counts[:, genes].sum(axis=1)).ravel() <= 0)
    if len(unseen):
        msg = f"{len(unseen)} cells have no counts in the chosen genes; their place rests on their neighbours alone."
        warnings.warn(msg, UserWarning, stacklevel=3)
    return totals


def _write(adata: AnnData, key: str, result: Fit, params: dict[str, Any]) -> None:
    """All results at once, and nothing of an earlier result of this name left behind."""
    import pandas as pd

    clusters = pd.Categorical.from_codes(result.labels, categories=[str(i) for i in range(result.proba.shape[1])])
    with writing():
        adata.obs[key] = clusters
        adata.obs[f"{key}_confidence"] = result.confidence
        adata.obsm[f"X_{key}"] = result.latent
        adata.obsm[f"{key}_proba"] = result.proba
        adata.uns[key] = _record(result, params)
        adata.uns.pop(f"{key}_colors", None)
        adata.obsm.pop(f"X_{key}_umap", None)


def _record(result: Fit, params: dict[str, Any]) -> dict[str, Any]:
    """What ``uns`` keeps: only what h5ad and zarr can hold."""
    record: dict[str, Any] = {
        "params": params,
        "history": result.history,
        "stop": result.stops,
        "seconds": result.seconds,
        "device": result.device,
        "versions": {name: version(name) for name in ("sctag-tools", "torch", "torch-geometric")},
    }
    if result.n_clusters_curve is not None:
        record["n_clusters_curve"] = result.n_clusters_curve
    return record
