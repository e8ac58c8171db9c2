"""The names of a result in an AnnData, and the one place that writes, checks and clears a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ._anndata.access import silent_writing

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray

    from .mapping.placement import Placement
    from .mapping.reference import ReferenceCells
    from .train.result import FitResult

GRAPH_KEY = "sctag_neighbors"  # in uns, where pp.build_graph writes by default
MODEL = "model"  # entry of uns[key] that holds the trained model


class ResultKeys:
    """Names of the slots of the result ``key``; ``uns[key]`` holds its parameters."""

    def __init__(self, key: str = "sctag") -> None:
        self.key = key
        self.clusters = key  # obs, categorical of strings
        self.confidence = f"{key}_confidence"  # obs, float32
        self.novelty = f"{key}_novelty"  # obs, float32, of mapped cells only
        self.latent = f"X_{key}"  # obsm, (n_obs, n_latent) float32
        self.proba = f"{key}_proba"  # obsm, (n_obs, n_clusters) float32
        self.umap = f"X_{key}_umap"  # obsm, (n_obs, 2) float32
        self.colors = f"{key}_colors"  # uns, written by scanpy's plots
        self.denoised = f"{key}_denoised"  # layer, (n_obs, n_vars) float32
        self.splits = f"{key}_splits"  # uns, ranking of the genes of splits
        self.explained = f"{key}_explained"  # uns, of tl.explain

    def write(
        self,
        adata: AnnData,
        found: FitResult | ReferenceCells | Placement,
        record: dict[str, Any],
        categories: Sequence[str] | None = None,
    ) -> None:
        """Write what was ``found``, and remove what was made of an earlier result of this name.

        ``categories`` are names of the clusters, by default their numbers. Arrays are copied, so that changes by the
        user do not reach the model in ``uns``.
        """
        n_clusters = found.proba.shape[1]
        with silent_writing():
            if len(adata.uns.get(self.colors, ())) != n_clusters:
                adata.uns.pop(self.colors, None)
            self._drop_derived(adata)
            for layer in (self.denoised, dropout_layer(self.denoised)):
                adata.layers.pop(layer, None)
            if self.novelty in adata.obs:
                del adata.obs[self.novelty]
            categories = categories or [str(number) for number in range(n_clusters)]
            adata.obs[self.clusters] = pd.Categorical.from_codes(found.proba.argmax(axis=1), categories=categories)
            adata.obs[self.confidence] = found.confidence.copy()
            if "mapped_to" in record:
                adata.obs[self.novelty] = found.novelty.copy()  # type: ignore[union-attr]
            adata.obsm[self.latent], adata.obsm[self.proba] = found.latent.copy(), found.proba.copy()
            adata.uns[self.key] = record

    def write_derived(
        self,
        adata: AnnData,
        clusters: pd.Categorical,
        confidence: NDArray[np.float32],
        obsm: Mapping[str, NDArray[np.float32]],
        record: dict[str, Any],
        colors: list[str] | None,
    ) -> None:
        """Write clusters that were made of those of another result, and what goes with them in ``obsm``."""
        with silent_writing():
            self._drop_derived(adata)
            adata.uns.pop(self.colors, None)
            adata.obs[self.clusters], adata.obs[self.confidence] = clusters, confidence
            for name, values in obsm.items():
                adata.obsm[name] = values
            adata.uns[self.key] = record
            if colors is not None:
                adata.uns[self.colors] = colors

    def _drop_derived(self, adata: AnnData) -> None:
        """Remove what was computed from the clusters that are about to be replaced."""
        adata.obsm.pop(self.umap, None)
        for name, is_ours in ((self.splits, is_ranking), (self.explained, is_explanation)):
            if is_ours(adata.uns.get(name)):
                del adata.uns[name]

    def require_result(self, adata: AnnData) -> None:
        """Raise KeyError unless ``adata`` holds this result; the error lists those that it holds."""
        if self.key not in adata.uns or self.latent not in adata.obsm:
            raise self.no_result(adata)

    def require_run(self, adata: AnnData) -> None:
        """The same, and ValueError if the result was mapped from a reference instead of trained on these cells."""
        self.require_result(adata)
        if "history" not in adata.uns[self.key]:
            msg = f"The result {self.key!r} was mapped from a reference; look at the training in the reference."
            raise ValueError(msg)

    def require_free(self, adata: AnnData) -> None:
        """Raise ValueError if writing this result would overwrite something that is no scTAG result."""
        if self.key in adata.uns:
            foreign = not (is_result(adata.uns[self.key]) or is_cut(adata.uns[self.key]))
        else:
            has_latent, has_proba = self.latent in adata.obsm, self.proba in adata.obsm
            has_column = any(column in adata.obs for column in (self.clusters, self.confidence))
            foreign = has_latent != has_proba or (has_column and not has_latent)
        if foreign:
            raise self._taken()

    def require_free_for_cut(self, adata: AnnData) -> None:
        """Raise ValueError if writing a cut would overwrite anything but a cut."""
        if not is_cut(adata.uns.get(self.key)):
            self._require_unused(adata, self.proba)

    def require_free_for_subclusters(self, adata: AnnData) -> None:
        """Raise ValueError if writing opened clusters would overwrite anything but such."""
        if not is_subclusters(adata.uns.get(self.key)):
            self._require_unused(adata, self.latent)

    def _require_unused(self, adata: AnnData, in_obsm: str) -> None:
        in_obs = self.clusters in adata.obs or self.confidence in adata.obs
        if self.key in adata.uns or in_obs or in_obsm in adata.obsm:
            raise self._taken()

    def _taken(self) -> ValueError:
        return ValueError(f"adata holds something else under {self.key!r}; choose another name with `key_added=`.")

    def no_result(self, adata: AnnData) -> KeyError:
        """The error for a result that is not there."""
        if is_cut(adata.uns.get(self.key)):
            whole = adata.uns[self.key]["params"]["cut_of"]
            return KeyError(f"{self.key!r} is a cut of the scTAG result {whole!r}; name that one with `key=`.")
        held = [name for name in adata.uns if is_result(adata.uns[name])]
        advice = f"There are {held}; name one with `key=`" if held else "Run `sctag.tl.sctag(adata)` first"
        return KeyError(f"There is no scTAG result {self.key!r} in adata. {advice}.")


def dropout_layer(denoised: str) -> str:
    """Name of the layer with dropout probabilities beside the layer ``denoised``."""
    return f"{denoised}_dropout"


def is_result(entry: object) -> bool:
    """Whether an entry of ``adata.uns`` was written by a run or a mapping."""
    return isinstance(entry, Mapping) and "params" in entry and not {"history", "mapped_to"}.isdisjoint(entry)


def is_cut(entry: object) -> bool:
    """Whether an entry of ``adata.uns`` was written by ``tl.cut``."""
    return isinstance(entry, Mapping) and isinstance(entry.get("params"), Mapping) and "cut_of" in entry["params"]


def is_subclusters(entry: object) -> bool:
    """Whether an entry of ``adata.uns`` was written by ``tl.subcluster``."""
    return is_result(entry) and isinstance(entry["params"], Mapping) and "sub_of" in entry["params"]  # type: ignore[index]


def is_ranking(entry: object) -> bool:
    """Whether an entry of ``adata.uns`` was written by ``tl.rank_genes_splits``."""
    return isinstance(entry, Mapping) and "comparisons" in entry


def is_explanation(entry: object) -> bool:
    """Whether an entry of ``adata.uns`` was written by ``tl.explain``."""
    return isinstance(entry, Mapping) and isinstance(entry.get("params"), Mapping) and "explained" in entry["params"]
