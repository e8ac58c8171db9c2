"""``sctag.ScTAG``: the model behind ``sctag.tl.sctag``, which can be saved, loaded and asked about new cells."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from . import _logging as logg
from ._adata import DEFAULT, require_anndata
from ._checks import check_choice, check_flag, check_integer, seed_of
from ._core.config import MOST_CLUSTERS, Config
from ._inputs import TrainingInputs, check_run_options
from ._query import prepare_query
from ._trained import Trained
from ._types import Accelerator, Likelihood, Precision

if TYPE_CHECKING:
    import os

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from ._adata import Default
    from ._core.fit import Fit
    from ._core.fitted import Fitted, Placed
    from ._query import Query

_CLASS = "sctag.ScTAG"


class ScTAG:
    """Learns a latent and clusters of cells, keeps what it learnt, and places cells that come later.

    :func:`sctag_tools.tl.sctag` is this class in one call and writes what it finds into the AnnData; options mean the
    same here and there. The vocabulary is that of scvi-tools.

    Parameters
    ----------
    adata
        Annotated data with raw counts and a cell graph (:func:`sctag_tools.pp.build_graph`). It is read, not changed.
    n_clusters
        Number of clusters; chosen if None.
    layer, mask_var, neighbors_key, batch_key, resolution, check_values
        As in :func:`sctag_tools.tl.sctag`.
    n_networks, n_hops, n_hidden, n_latent, likelihood, mask_rate, count_weight, graph_weight, cluster_weight
        As in :func:`sctag_tools.tl.sctag`.

    Attributes
    ----------
    adata
        The annotated data, None for a model that was loaded without.

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
        neighbors_key: str = "sctag_neighbors",
        batch_key: str | None = None,
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
        check_values: bool = True,
    ) -> None:
        require_anndata(adata, _CLASS)
        self._config = Config(
            n_networks=n_networks,
            n_hops=n_hops,
            n_hidden=n_hidden,
            n_latent=n_latent,
            likelihood=likelihood,
            mask_rate=mask_rate,
            count_weight=count_weight,
            graph_weight=graph_weight,
            cluster_weight=cluster_weight,
        )
        check_run_options(n_clusters, adata.n_obs, neighbors_key, resolution, most=MOST_CLUSTERS)
        check_flag("check_values", check_values)
        self.adata: AnnData | None = adata
        self._n_clusters, self._resolution = n_clusters, float(resolution)
        self._inputs: TrainingInputs | None = TrainingInputs.of(
            adata,
            layer=layer,
            mask_var=mask_var,
            neighbors_key=neighbors_key,
            batch_key=batch_key,
            check_values=check_values,
        )
        self._trained: Trained | None = None

    def __repr__(self) -> str:
        if self._trained is not None:
            fitted = self._trained.fitted
            return f"ScTAG: {fitted.n_clusters} clusters of {len(fitted.reference)} cells, {fitted.n_genes} genes"
        shape = (0, 0) if self._inputs is None else self._inputs.counts.shape
        return f"ScTAG, not trained: {shape[0]} cells, {shape[1]} genes"

    def train(
        self,
        *,
        learning_rate: float = Config.learning_rate,
        batch_size: int = Config.batch_size,
        pretrain_epochs: int | None = None,
        cluster_epochs: int | None = None,
        accelerator: Accelerator = "auto",
        devices: int = 1,
        precision: Precision = "32-true",
        random_state: int | None = 0,
        progress_bar: bool = True,
    ) -> None:
        """Train the networks and find the clusters; options as in :func:`sctag_tools.tl.sctag`.

        Training again starts anew; a run that fails leaves what an earlier one found.

        Raises
        ------
        RuntimeError
            If the loss becomes non-finite, one of several processes dies, or the model was loaded from a folder.
        TypeError, ValueError
            If an option has the wrong type or is out of range.
        """
        config = replace(
            self._config,
            learning_rate=learning_rate,
            batch_size=batch_size,
            pretrain_epochs=pretrain_epochs,
            cluster_epochs=cluster_epochs,
        )
        check_choice("accelerator", accelerator, get_args(Accelerator))
        random_state = seed_of(random_state)
        check_flag("progress_bar", progress_bar)
        inputs, n_clusters = self._inputs, self._n_clusters
        if inputs is None:
            msg = "A loaded model holds no counts to train on; build a new one from the AnnData: `ScTAG(adata)`."
            raise RuntimeError(msg)
        check_devices(devices, precision, config, len(inputs.totals))
        training = {"random_state": random_state, "accelerator": accelerator, "precision": precision}
        result = _fit(
            int(devices),
            inputs.counts,
            inputs.totals,
            inputs.weights,
            n_clusters,
            config,
            **training,
            resolution=self._resolution,
            batches=inputs.batches,
            progress=progress_bar and logg.verbosity() > 0,
            neighborhood=inputs.neighborhood(),
        )
        warn_of_fewer(n_clusters, result)
        params = {
            "preset": "default",
            "n_clusters": result.proba.shape[1],
            "n_clusters_given": n_clusters is not None,
            **inputs.params,
            **training,
            "resolution": self._resolution,
            "devices": int(devices),
            **{name: value for name, value in asdict(config).items() if value is not None},
        }
        self._trained = Trained(
            fitted=cast("Fitted", result.fitted),  # there is one wherever a neighborhood was given
            genes=inputs.genes,
            cells=inputs.cells,
            batches=inputs.batch_names,
            batch_key=inputs.batch_key,
            use_rep=inputs.use_rep,
            run=record_of(result, params),
        )

    @property
    def is_trained_(self) -> bool:
        """Whether :meth:`train` has succeeded."""
        return self._trained is not None

    @property
    def history_(self) -> dict[str, NDArray[np.float64]]:
        """Loss terms of each step, (n_steps,) float64 each, NaN where a phase has none."""
        history: dict[str, NDArray[np.float64]] = self.trained.run["history"]
        return history

    @property
    def params_(self) -> dict[str, Any]:
        """Options of the run, as in ``adata.uns["sctag"]["params"]``."""
        params: dict[str, Any] = self.trained.run["params"]
        return params

    @property
    def trained(self) -> Trained:
        """What training left behind; raises RuntimeError before it."""
        if self._trained is None:
            msg = "The model is not trained yet; call `model.train()` first."
            raise RuntimeError(msg)
        return self._trained

    def get_latent_representation(self, adata: AnnData | None = None, **options: Any) -> NDArray[np.float32]:
        """(n_obs, n_latent) latent of the training cells, or of the new cells ``adata``.

        New cells are placed each on its own, as :func:`sctag_tools.tl.map_query` does; ``options`` are its ``layer``,
        ``use_rep`` and ``check_values``.
        """
        return self.trained.fitted.reference.latent.copy() if adata is None else self.place(adata, **options)[0].latent

    def predict_proba(self, adata: AnnData | None = None, **options: Any) -> pd.DataFrame:
        """(n_obs, n_clusters) soft assignment of the training cells or of new ones, float32; rows sum to one."""
        import pandas as pd

        if adata is None:
            proba, cells = self.trained.fitted.reference.proba.copy(), self.trained.cells
        else:
            proba, cells = self.place(adata, **options)[0].proba, adata.obs_names.tolist()
        return pd.DataFrame(proba, index=cells, columns=self.trained.clusters)

    def predict(self, adata: AnnData | None = None, **options: Any) -> NDArray[np.str_]:
        """(n_obs,) cluster of the training cells or of new ones; ``"0"`` is the largest of the training cells'."""
        proba = self.predict_proba(adata, **options)
        return np.asarray(np.array(self.trained.clusters)[proba.to_numpy().argmax(axis=1)])

    def place(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        use_rep: str | None = None,
        check_values: bool = True,
    ) -> tuple[Placed, Query]:
        """What :func:`sctag_tools.tl.map_query` writes, as arrays, and how the query was read."""
        trained = self.trained
        require_anndata(adata, _CLASS)
        query = prepare_query(adata, trained, layer=layer, use_rep=use_rep, check_values=check_values)
        return trained.fitted.place(query.counts, query.totals, query.known, query.batches, query.position), query

    def save(self, dir_path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the model into a folder: ``model.safetensors`` and ``model.json``, which hold no code.

        They hold what mapping and denoising need (weights, gene names, scaling, latent and first-layer contribution of
        the training cells), not the counts.

        Raises
        ------
        FileExistsError
            If the folder holds anything; ``overwrite=True`` replaces an earlier model in it and nothing else.
        RuntimeError
            If the model is not trained.
        """
        from ._core import store

        trained = self.trained
        folder = check_model_folder(dir_path, overwrite=overwrite)
        store.write(folder, *trained.pack())

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
        from ._core import store

        trained = Trained.unpack(*store.read(Path(dir_path)))
        if adata is not None:
            require_anndata(adata, f"{_CLASS}.load")
            if adata.obs_names.astype(str).tolist() != trained.cells:
                msg = "adata does not hold the cells that the model was trained on; leave it out to load the model."
                raise ValueError(msg)
        return cls._of(trained, adata)

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
        require_anndata(adata, f"{_CLASS}.from_anndata")
        return cls._of(Trained.of_anndata(adata, key), None)

    @classmethod
    def _of(cls, trained: Trained, adata: AnnData | None) -> ScTAG:
        model = cls.__new__(cls)
        model.adata, model._inputs, model._trained = adata, None, trained
        model._config, model._n_clusters, model._resolution = trained.fitted.config, None, 1.0
        return model


def check_model_folder(dir_path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """The folder; raises FileExistsError where writing a model could destroy something."""
    from ._core.store import ARRAYS, RECORD

    folder = Path(dir_path)
    if folder.exists() and not folder.is_dir():
        msg = f"{folder} is a file; name a folder for the model."
        raise FileExistsError(msg)
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if held and not (overwrite and held >= {ARRAYS, RECORD}):
        msg = f"{folder} is not empty; name another folder" + (
            ", or replace the model in it: `model.save(folder, overwrite=True)`." if held >= {ARRAYS, RECORD} else "."
        )
        raise FileExistsError(msg)
    return folder


def warn_of_fewer(n_clusters: int | None, result: Fit) -> None:
    """Warn if there are fewer clusters than were asked for."""
    found = result.proba.shape[1]
    if n_clusters is not None and found < n_clusters:
        logg.warn(f"n_clusters={n_clusters} were asked for, but only {found} hold a cell; the others are left out.")


def record_of(result: Fit, params: dict[str, Any]) -> dict[str, Any]:
    """What ``uns`` keeps of a run: only what h5ad and zarr can hold."""
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


def check_devices(devices: int, precision: str, config: Config, n_obs: int) -> None:
    """Raise TypeError or ValueError for processes that could not share the work."""
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
        from ._core.fit import fit  # torch and PyG load here

        return fit(*args, **options)
    from ._core.launch import fit_in_processes

    return fit_in_processes(devices, *args, **options)
