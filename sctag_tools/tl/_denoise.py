"""``sctag.tl.denoise``: the counts that the decoders expect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _logging as logg
from .._anndata.access import require_writable, silent_writing, working_copy
from .._anndata.cells import rows_in_run
from .._checks import check_flag, check_name, check_number
from .._keys import ResultKeys, dropout_layer
from .._model import ScTAG

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray


def denoise(
    adata: AnnData,
    reference: AnnData | ScTAG | str | os.PathLike[str] | None = None,
    *,
    key: str = "sctag",
    target_sum: float | None = None,
    genes: Sequence[str] | None = None,
    dropout: bool = False,
    layer: str | None = None,
    use_rep: str | None = None,
    check_values: bool = True,
    layer_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Write the counts that the decoders expect of each cell, as after :func:`sctag_tools.tl.sctag`.

    The networks give the expected share of each gene in the counts of a cell (for ``likelihood="zinb"`` that of the
    negative binomial mean, without dropout); their mean is brought to the cell's depth. Use it to look at genes. Do not
    test on it: differential expression on denoised values finds differences that the model made (Andrews & Hemberg
    2018).

    Parameters
    ----------
    adata
        Cells that the model was trained on, or any of them; with ``reference``, cells to be placed first.
    reference
        None for the model in ``adata`` itself; else an AnnData, a :class:`sctag_tools.ScTAG` or a folder, as in
        :func:`sctag_tools.tl.map_query`: each cell is then placed as there.
    key
        Name of the result that holds the model.
    target_sum
        Expected counts of every cell in the genes of the model; by default as many as the cell has.
    genes
        Names of the genes to compute; by default all genes of the model.
    dropout
        Also write the probability that the counts of a gene were lost; only models with ``likelihood="zinb"`` have one.
    layer, use_rep, check_values
        How the counts of a query are read, as in :func:`sctag_tools.tl.map_query`; only with ``reference``.
    layer_added
        Name of the layer; ``"{key}_denoised"`` by default.
    copy
        Return a changed copy instead of writing to ``adata``.

    Returns
    -------
    ``None``, or the copy if ``copy=True``. Writes:

    `adata.layers['sctag_denoised' | layer_added]` : :class:`numpy.ndarray` (float32)
        (n_obs, n_vars), expected counts; NaN in genes that were not computed.
    `adata.layers['sctag_denoised_dropout' | '{layer_added}_dropout']` : :class:`numpy.ndarray` (float32)
        Only with ``dropout``: (n_obs, n_vars), in [0, 1].

    Raises
    ------
    KeyError
        If there is no such result, it has no model, or a gene or cell is not in the model.
    ValueError
        If ``dropout`` is asked of a model that has none, an option is out of range, or a layer of that name exists.
    NotImplementedError
        For a copy or a view of backed data, which cannot hold results.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> sctag.tl.denoise(adata, genes=["CD3D", "NKG7"])
    >>> adata.layers["sctag_denoised"].shape
    (700, 765)
    """
    require_writable(adata, "sctag.tl.denoise", copy=copy)
    for name, flag in {"dropout": dropout, "check_values": check_values}.items():
        check_flag(name, flag)
    check_name("key", key)
    default_layer = ResultKeys(key).denoised
    layer_added = default_layer if layer_added is None else layer_added
    check_name("layer_added", layer_added)
    if layer_added != default_layer and layer_added in adata.layers:
        msg = f"adata.layers[{layer_added!r}] exists; choose another `layer_added=`, or delete it first."
        raise ValueError(msg)
    if target_sum is not None:
        check_number("target_sum", target_sum, low=1e-6)
    model = ScTAG.from_reference(adata if reference is None else reference, key)
    if dropout and model.reference.config.likelihood != "zinb":
        msg = "This model has no dropout probability; train one with `sctag.tl.sctag(adata, likelihood='zinb')`."
        raise ValueError(msg)
    chosen, columns = _columns(adata, model.registry.var_names, genes)

    start = logg.info("denoising")
    if reference is None:
        cells = model.reference.cells.take(rows_in_run(adata.obs_names, model.registry.obs_names))
        latents, batches, depth = cells.latents, cells.batch_index, cells.n_counts
    else:
        placed, query = model.place(adata, layer=layer, use_rep=use_rep, check_values=check_values)
        latents, batches = placed.latents, query.batch_index
        proportions = model.reference.gene_proportions
        measured_share = proportions[query.measured].sum() / proportions.sum()
        depth = np.asarray(query.counts.sum(axis=1)).ravel() / measured_share
    depth = depth if target_sum is None else np.full(adata.n_obs, target_sum)
    expected = model.reference.expected_proportions(latents, batches, chosen) * depth[:, None].astype(np.float32)
    written = {layer_added: _as_layer(adata, expected, columns)}
    if dropout:
        lost = model.reference.dropout_probability(latents, batches, chosen)
        written[dropout_layer(layer_added)] = _as_layer(adata, lost, columns)
    adata = working_copy(adata, copy=copy)
    with silent_writing():
        for name, values in written.items():
            adata.layers[name] = values
    names = "".join(f"\n    {name!r} (adata.layers)" for name in written)
    logg.info(f"    finished: {len(chosen)} genes", time=start, deep=f"added{names}")
    return adata if copy else None


def _columns(
    adata: AnnData, var_names: list[str], genes: Sequence[str] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the chosen genes in the model, and their columns in ``adata``."""
    if isinstance(genes, str):
        msg = f"genes must be a list of names, got the string {genes!r}."
        raise TypeError(msg)
    of_model, of_adata = pd.Index(var_names), adata.var_names.astype(str)
    if genes is None and var_names == of_adata.tolist():  # also where names occur twice
        return np.arange(len(of_model)), np.arange(len(of_model))
    names = pd.Index(var_names).intersection(of_adata, sort=False) if genes is None else pd.Index(list(genes))
    for where, index in {"the model": of_model, "adata.var_names": of_adata}.items():
        if not index.is_unique:
            msg = f"Genes are matched by name, but some names in {where} occur twice."
            raise ValueError(msg)
        absent = names[index.get_indexer(names) < 0]
        if len(absent):
            msg = f"{len(absent)} of the genes are not in {where}, the first is {absent[0]!r}."
            raise KeyError(msg)
    return of_model.get_indexer(names), of_adata.get_indexer(names)


def _as_layer(adata: AnnData, values: NDArray[np.floating], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n_obs, n_vars) with these columns filled, NaN elsewhere."""
    layer = np.full(adata.shape, np.nan, dtype=np.float32)
    layer[:, columns] = values
    return layer
