"""``sctag.ScTAG``: the model behind ``sctag.tl.sctag``, which can be saved, loaded and asked about new cells."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from . import _logging as logg
from ._anndata.access import require_anndata
from ._anndata.cells import rows_in_run
from ._anndata.genes import DEFAULT
from ._anndata.query import Query
from ._anndata.training_inputs import TrainingInputs
from ._keys import GRAPH_KEY
from ._options import takes_options
from .train.config import Config

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from ._anndata.genes import Default
    from .io.model_format import Registry
    from .mapping.placement import Placement
    from .mapping.reference import ReferenceModel

_CLASS = "sctag.ScTAG"


@takes_options("clustering", "model")
class ScTAG:
    """Learns a latent and clusters of cells, keeps what it learned, and places new cells.

    :func:`sctag_tools.tl.sctag` is this class in one call. Options mean the same. The vocabulary is scvi-tools'.

    Parameters
    ----------
    adata
        Annotated data with raw counts and a cell graph (:func:`sctag_tools.pp.build_graph`). It is read, not changed.
    {n_clusters}
    layer, mask_var, neighbors_key, batch_key, check_values
        As in :func:`sctag_tools.tl.sctag`.
    {options}

    Raises
    ------
    KeyError, TypeError, ValueError, NotImplementedError
        As :func:`sctag_tools.tl.sctag` does, before anything is computed.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> model = sctag.ScTAG(adata, n_clusters=8)
    >>> model.train(pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> model.get_latent_representation().shape
    (700, 15)
    """

    def __init__(
        self,
        adata: AnnData,
        n_clusters: int | None = None,
        *,
        layer: str | None = None,
        mask_var: NDArray[np.bool_] | str | Default | None = DEFAULT,
        neighbors_key: str = GRAPH_KEY,
        batch_key: str | None = None,
        check_values: bool = True,
        **options: Any,
    ) -> None:
        require_anndata(adata, _CLASS)
        self._config = Config.from_options(_CLASS, ("clustering", "model"), {"n_clusters": n_clusters, **options})
        self._config.check_cells(adata.n_obs)
        self.adata: AnnData | None = adata
        self._inputs: TrainingInputs | None = TrainingInputs.from_anndata(
            adata, layer=layer, mask_var=mask_var, neighbors_key=neighbors_key, batch_key=batch_key,
            check_values=check_values,
        )  # fmt: skip
        self._trained: tuple[ReferenceModel, Registry] | None = None
        self._obs_names: pd.Index | None = None

    def __repr__(self) -> str:
        if self._trained is None and self._inputs is not None:
            return "ScTAG, not trained: {} cells, {} genes".format(*self._inputs.counts.shape)
        model = self.reference
        return f"ScTAG: {model.n_clusters} clusters of {len(model.cells)} cells, {model.n_genes} genes"

    @takes_options("training", "runtime")
    def train(self, *, max_epochs: int | None = None, **options: Any) -> None:
        """Train the networks and find the clusters.

        Training again starts over; a run that fails leaves what an earlier one found.

        Parameters
        ----------
        max_epochs
            The name that scvi-tools has for ``pretrain_epochs``.
        {options}

        Raises
        ------
        RuntimeError
            If the loss becomes non-finite, one of several processes dies, or the model was loaded from a folder.
        TypeError, ValueError
            If an option has the wrong type or is out of range.
        """
        if max_epochs is not None:
            if options.get("pretrain_epochs") is not None:
                msg = "max_epochs and pretrain_epochs are two names of one option; give one of them."
                raise TypeError(msg)
            options["pretrain_epochs"] = max_epochs
        config = Config.from_options(f"{_CLASS}.train", ("training", "runtime"), options, base=self._config)
        self.train_with_config(config)

    def train_with_config(self, config: Config, checkpoint: Path | None = None) -> None:
        """The same with the options in one object, those of the model included, and a folder for checkpoints."""
        inputs = self._inputs
        if inputs is None:
            msg = "A loaded model holds no counts to train on; build a new one from the AnnData: `ScTAG(adata)`."
            raise RuntimeError(msg)
        config.check_cells(len(inputs.totals))
        from .train.launch import fit_alone_or_in_processes  # torch and PyG load in there

        arrays = {name: getattr(inputs, name) for name in ("counts", "totals", "connectivities", "batch_index")}
        arrays |= {"checkpoint": checkpoint, "neighbor_settings": inputs.neighbor_settings()}
        result = fit_alone_or_in_processes(config, **arrays, progress=config.progress_bar and logg.verbosity() > 0)
        logg.warn_of_fewer_clusters(config.n_clusters, result.n_clusters)
        logg.warn_of_one_cluster(result.n_clusters_curve, len(inputs.totals))
        if result.reference is not None:  # there is one wherever neighbor settings are given
            self._trained = result.reference, inputs.registry(config, result)

    @property
    def is_trained_(self) -> bool:
        """Whether :meth:`train` has succeeded."""
        return self._trained is not None

    @property
    def history(self) -> dict[str, NDArray[np.float64]]:
        """Loss terms of each step, (n_steps,) float64 each, NaN where a phase has none; also ``history_``."""
        return cast("dict[str, NDArray[np.float64]]", self.registry.run["history"])

    history_ = history

    @property
    def params_(self) -> dict[str, Any]:
        """Options of the run, as in ``adata.uns["sctag"]["params"]``."""
        return cast("dict[str, Any]", self.registry.run["params"])

    @property
    def reference(self) -> ReferenceModel:
        """Trained networks and training cells, as arrays; RuntimeError before training."""
        return self._require_trained()[0]

    @property
    def registry(self) -> Registry:
        """Names of genes, cells and batches, and the record of the run; RuntimeError before training."""
        return self._require_trained()[1]

    @property
    def clusters(self) -> list[str]:
        """Names of the clusters, by falling size: those that the user gave in ``adata.obs``, else their numbers."""
        return self.registry.cluster_names or [str(number) for number in range(self.reference.n_clusters)]

    def _require_trained(self) -> tuple[ReferenceModel, Registry]:
        if self._trained is None:
            msg = "The model is not trained yet; call `model.train()` first."
            raise RuntimeError(msg)
        return self._trained

    def _rows(self) -> NDArray[np.int64]:
        """Training cells in the order of the AnnData that the model is from, which may hold some of them."""
        names = self.registry.obs_names
        return np.arange(len(names)) if self._obs_names is None else rows_in_run(self._obs_names, names)

    def get_latent_representation(self, adata: AnnData | None = None, **options: Any) -> NDArray[np.float32]:
        """(n_obs, n_latent) latent of the training cells (in the order of the AnnData it is from), or of new cells.

        New cells are placed each on its own, as :func:`sctag_tools.tl.map_query` does; ``options`` are its ``layer``,
        ``use_rep`` and ``check_values``.
        """
        return self.reference.cells.latent[self._rows()] if adata is None else self.place(adata, **options)[0].latent

    def predict_proba(self, adata: AnnData | None = None, **options: Any) -> pd.DataFrame:
        """(n_obs, n_clusters) soft assignment of the training cells or of new ones, float32; rows sum to one."""
        import pandas as pd

        if adata is None:
            rows = self._rows()
            proba, cells = self.reference.cells.proba[rows], [self.registry.obs_names[row] for row in rows]
        else:
            proba, cells = self.place(adata, **options)[0].proba, adata.obs_names.tolist()
        return pd.DataFrame(proba, index=cells, columns=self.clusters)

    def predict(self, adata: AnnData | None = None, **options: Any) -> NDArray[np.str_]:
        """(n_obs,) name of the cluster of the training cells or of new ones."""
        proba = self.predict_proba(adata, **options)
        return np.asarray(np.array(self.clusters)[proba.to_numpy().argmax(axis=1)])

    def place(
        self, adata: AnnData, *, layer: str | None = None, use_rep: str | None = None, check_values: bool = True
    ) -> tuple[Placement, Query]:
        """What :func:`sctag_tools.tl.map_query` writes, as arrays, and how the query was read."""
        model, registry = self._require_trained()
        from .mapping.placement import place_cells

        require_anndata(adata, _CLASS)
        query = Query.from_anndata(adata, model, registry, layer=layer, use_rep=use_rep, check_values=check_values)
        arrays = query.counts, query.totals, query.measured, query.batch_index, query.representation
        return place_cells(model, *arrays), query

    def save(self, dir_path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the model into a folder: ``model.safetensors`` and ``model.json``, which hold no code.

        They hold what mapping and denoising need (weights, gene names, scaling, latent and first-layer messages of the
        training cells), not the counts.

        Raises
        ------
        FileExistsError
            If the folder holds anything; ``overwrite=True`` replaces an earlier model in it and nothing else.
        RuntimeError
            If the model is not trained.
        """
        trained = self._require_trained()
        from .io import model_folder, model_format

        folder = model_folder.check_model_folder(dir_path, overwrite=overwrite)
        model_folder.write(folder, *model_format.pack(*trained))

    def to_uns(self) -> dict[str, Any]:
        """What ``adata.uns["sctag"]["model"]`` holds, for :meth:`from_anndata`."""
        from .io.model_format import to_uns

        return to_uns(*self._require_trained())

    @classmethod
    def load(cls, dir_path: str | os.PathLike[str], adata: AnnData | None = None) -> ScTAG:
        """The model that :meth:`save` wrote; nothing in the files is executed.

        Parameters
        ----------
        dir_path
            The folder.
        adata
            The cells that it was trained on, if they are at hand; held as ``model.adata``.

        Raises
        ------
        FileNotFoundError
            If the folder holds no model.
        ValueError
            If the files are damaged or of a newer version, or ``adata`` holds other cells.
        """
        from .io import model_folder, model_format

        trained = model_format.unpack(*model_folder.read(Path(dir_path)))
        if adata is not None:
            require_anndata(adata, f"{_CLASS}.load")
            if adata.obs_names.astype(str).tolist() != trained[1].obs_names:
                msg = "adata does not hold the cells that the model was trained on; leave it out to load the model."
                raise ValueError(msg)
        return cls._from_trained(trained, adata)

    @classmethod
    def from_anndata(cls, adata: AnnData, key: str = "sctag") -> ScTAG:
        """The model that :func:`sctag_tools.tl.sctag` kept in ``adata.uns[key]["model"]``.

        Raises
        ------
        KeyError
            If there is no such result, or it was run without keeping its model.
        ValueError
            If what is kept is damaged.
        """
        from .io.model_format import from_uns

        require_anndata(adata, f"{_CLASS}.from_anndata")
        return cls._from_trained(from_uns(adata, key), obs_names=adata.obs_names)

    @classmethod
    def from_reference(cls, reference: AnnData | ScTAG | str | os.PathLike[str], key: str = "sctag") -> ScTAG:
        """The trained model that ``reference`` is, holds as result ``key``, or names the folder of."""
        if isinstance(reference, ScTAG):
            return reference
        return cls.load(reference) if isinstance(reference, (str, os.PathLike)) else cls.from_anndata(reference, key)

    @classmethod
    def _from_trained(
        cls, trained: tuple[ReferenceModel, Registry], adata: AnnData | None = None, obs_names: pd.Index | None = None
    ) -> ScTAG:
        model = cls.__new__(cls)
        model.adata, model._inputs, model._obs_names = adata, None, obs_names
        model._trained, model._config = trained, trained[0].config
        return model
