"""A trained model as plain arrays and a JSON record, and back; every name, length, type and range is checked."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import numpy as np

from .._types import Metric
from ..mapping.reference import ReferenceCells, ReferenceModel
from ..nn.joint_latent import JointLatent
from ..train.config import Config
from ..train.preprocessing import GeneScaler
from .registry import Registry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]

FORMAT = 2
_PARTS: dict[str, type[GeneScaler | JointLatent | ReferenceCells]] = {
    "scaler": GeneScaler,
    "joint_latent": JointLatent,
    "cells": ReferenceCells,
}
_MODEL_ARRAYS = ("scales", "centroid_index", "gene_proportions")
_INTEGERS = {"centroid_index", "cells.batch_index"}
_MAY_BE_INFINITE = "scaler.std"  # of a constant gene
_NAMES = ("var_names", "obs_names", "batch_categories")
_SERIES = ("history", "n_clusters_curve")  # arrays by name; JSON has no number for their gaps

# Names of version 0.1 (format 1) that have changed since.
_FORMAT_1_ARRAYS = {
    "spreads": "scales", "columns": "centroid_index", "gene_shares": "gene_proportions", "loadings": "pca_loadings",
    "scaling.means": "scaler.means", "scaling.spread": "scaler.std", "joint.means": "joint_latent.means",
    "joint.scales": "joint_latent.scales", "joint.loadings": "joint_latent.loadings",
    "reference.position": "cells.representation", "reference.context": "cells.messages",
    "reference.latents": "cells.latents", "reference.latent": "cells.latent", "reference.proba": "cells.proba",
    "reference.confidence": "cells.confidence", "reference.depth": "cells.n_counts",
    "reference.unexplained": "cells.deviance", "reference.batches": "cells.batch_index",
}  # fmt: skip
_FORMAT_1_RECORD = {"gain": "mean_degree", "genes": "var_names", "cells": "obs_names", "batches": "batch_categories"}


def pack(model: ReferenceModel, registry: Registry) -> tuple[Arrays, dict[str, Any]]:
    """Arrays by name, and what JSON can hold."""
    arrays: Arrays = {f"state.{name}": array for name, array in model.state.items()}
    for part, kind in _PARTS.items():
        arrays |= {f"{part}.{field.name}": getattr(getattr(model, part), field.name) for field in fields(kind)}
    arrays |= {name: getattr(model, name) for name in _MODEL_ARRAYS}
    if model.pca_loadings is not None:
        arrays["pca_loadings"] = model.pca_loadings
    series = {part: {name: _listed(array) for name, array in registry.run.get(part, {}).items()} for part in _SERIES}
    record = {
        "format": FORMAT,
        "config": model.config.record(),
        "mean_degree": model.mean_degree,
        "n_neighbors": model.n_neighbors,
        "metric": model.metric,
        **{name: getattr(registry, name) for name in (*_NAMES, "batch_key", "use_rep")},
        "run": {**registry.run, **{part: found for part, found in series.items() if found}},
    }
    return arrays, record


def unpack(arrays: Arrays, record: dict[str, Any]) -> tuple[ReferenceModel, Registry]:
    """The inverse of :func:`pack`, also for models of version 0.1; ValueError for anything it could not have made."""
    arrays, record = _current(arrays, record)
    for name, array in arrays.items():
        _check_array(name, array)
    try:
        parts: dict[str, Any] = {
            part: kind(**{field.name: arrays[f"{part}.{field.name}"] for field in fields(kind)})
            for part, kind in _PARTS.items()
        }
        parts |= {name: arrays[name] for name in _MODEL_ARRAYS}
    except KeyError as error:
        refuse(f"the array {error} is missing")
    model = ReferenceModel(
        config=_config(record),
        state={name.removeprefix("state."): arrays[name] for name in arrays if name.startswith("state.")},
        pca_loadings=arrays.get("pca_loadings"),
        mean_degree=float(_number(record, "mean_degree", low=0.0)),
        n_neighbors=int(_number(record, "n_neighbors", low=1)),
        metric=_choice(record, "metric", get_args(Metric)),
        **parts,
    )
    _check_shapes(model)
    return model, _registry(record, model)


def refuse(why: str) -> NoReturn:
    """Raise the ValueError for a model that cannot be what was saved."""
    msg = f"The model is damaged: {why}. Save it again from the AnnData that it was trained on."
    raise ValueError(msg)


def _current(arrays: Arrays, record: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """The same in the names of this version. Records of version 0.1 have no format number."""
    version = record.get("format", 1)
    if type(version) is not int or version < 1:
        refuse(f"its format is {version!r}")
    if version > FORMAT:
        msg = f"The model was saved by a newer version (format {version}, this one reads {FORMAT}); update sctag-tools."
        raise ValueError(msg)
    if version == FORMAT:
        return arrays, record
    renamed = {
        f"state.{name.removeprefix('weights.')}" if name.startswith("weights.") else _FORMAT_1_ARRAYS.get(name, name)
        : array for name, array in arrays.items()
    }  # fmt: skip
    return renamed, {_FORMAT_1_RECORD.get(name, name): value for name, value in record.items()}


def _config(record: dict[str, Any]) -> Config:
    options = record.get("config")
    if not isinstance(options, dict) or not options.keys() <= {field.name for field in fields(Config)}:
        refuse("its options are not those of this version")
    try:
        return Config(**options)
    except (TypeError, ValueError) as error:
        refuse(str(error))


def _registry(record: dict[str, Any], model: ReferenceModel) -> Registry:
    lengths = (model.n_genes, len(model.cells), model.n_batches)
    names = {part: _list_of_names(record, part, length) for part, length in zip(_NAMES, lengths, strict=True)}
    for option in ("batch_key", "use_rep"):
        if option not in record or not isinstance(record[option], str | None):
            refuse(f"{option} is no name")
    run = record.get("run")
    if not isinstance(run, dict) or not isinstance(run.get("params"), dict):
        refuse("the record of its run is missing")
    for part in _SERIES:
        if not isinstance(run.get(part, {}), dict):
            refuse(f"its {part} is no table")
    series = {part: {name: _array(values) for name, values in run[part].items()} for part in _SERIES if run.get(part)}
    return Registry(**names, batch_key=record["batch_key"], use_rep=record["use_rep"], run={**run, **series})


def _listed(array: NDArray[np.float64]) -> Any:
    if np.ndim(array) == 0:
        return float(array)
    return [value if math.isfinite(value) else None for value in np.asarray(array, dtype=float).tolist()]


def _array(values: Any) -> NDArray[np.float64]:
    try:
        return np.array(values, dtype=np.float64)  # None becomes nan
    except (TypeError, ValueError, OverflowError):
        refuse("a series of its run holds something else than numbers")


def _number(record: dict[str, Any], name: str, *, low: float) -> float:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < 1e9:
        refuse(f"{name} is {value!r}")
    return value


def _choice(record: dict[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    value = record.get(name)
    if not isinstance(value, str) or value not in allowed:
        refuse(f"{name} is {value!r}")
    return value


def _list_of_names(record: dict[str, Any], part: str, length: int) -> list[str]:
    names = record.get(part)
    if not isinstance(names, list) or len(names) != length or not all(isinstance(name, str) for name in names):
        refuse(f"its {part} are not {length} names")
    return names


def _check_array(name: str, array: Any) -> None:
    dtype = np.int64 if name in _INTEGERS else np.float32
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        refuse(f"the array {name!r} is not of type {dtype.__name__}")
    if np.isnan(array).any() or (name != _MAY_BE_INFINITE and not np.isfinite(array).all()):
        refuse(f"the array {name!r} holds impossible values")


def _check_shapes(model: ReferenceModel) -> None:
    """Check that lengths agree. The networks come last, when their sizes are known to be those of arrays."""
    config, cells, joint = model.config, model.cells, model.joint_latent
    n_genes, n_cells = model.scaler.std.size, cells.confidence.size
    n_networks, n_hidden, n_latent = config.n_networks, config.n_hidden, config.n_latent
    n_clusters, n_batches = model.centroid_index.size, len(np.atleast_1d(model.scaler.means)) - 1
    n_components = cells.representation.shape[-1] if cells.representation.ndim else 0
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
        "scaler.means": (model.scaler.means, (n_batches + 1, n_genes)),
        "scaler.std": (model.scaler.std, (n_genes,)),
        "gene_proportions": (model.gene_proportions, (n_genes,)),
        "scales": (model.scales, (n_networks,)),
        "centroid_index": (model.centroid_index, (n_clusters,)),
        "joint_latent.means": (joint.means, (n_networks, n_latent)),
        "joint_latent.scales": (joint.scales, (n_networks,)),
        "joint_latent.loadings": (joint.loadings, (n_networks * n_latent, n_latent)),
        "cells.representation": (cells.representation, (n_cells, n_components)),
        "cells.messages": (cells.messages, (n_cells, n_networks, n_hidden)),
        "cells.latents": (cells.latents, (n_cells, n_networks, n_latent)),
        "cells.latent": (cells.latent, (n_cells, n_latent)),
        "cells.proba": (cells.proba, (n_cells, n_clusters)),
        "cells.confidence": (cells.confidence, (n_cells,)),
        "cells.n_counts": (cells.n_counts, (n_cells,)),
        "cells.deviance": (cells.deviance, (n_cells,)),
        "cells.batch_index": (cells.batch_index, (n_cells,)),
    }
    if model.pca_loadings is not None:
        shapes["pca_loadings"] = (model.pca_loadings, (n_genes, n_components))
    for name, (array, shape) in shapes.items():
        if array.shape != shape:
            refuse(f"the array {name!r} has shape {array.shape}, not {shape}")
    if not (n_genes and n_batches >= 1 and n_cells >= model.n_neighbors and n_clusters and n_components):
        refuse("an array is too short")
    if (cells.batch_index < 0).any() or (cells.batch_index >= n_batches).any():
        refuse("a batch number is out of range")
    if not (cells.deviance >= 0).any():
        refuse("no cell is left to compare new ones with")
    _check_networks(model)


def _check_networks(model: ReferenceModel) -> None:
    import torch

    # As many networks and hops as there are arrays: a number alone must not make anything large.
    n_hops = sum(name.startswith("networks.0.encoder.hidden.lins.") for name in model.state) - 1
    if model.config.n_hops != n_hops or "networks.0.centroids" not in model.state:
        refuse("the weights are not those of its options")
    try:
        state = model.networks.state_dict()
    except (RuntimeError, TypeError, OverflowError, ValueError) as error:
        refuse(f"the weights are not those of its options ({str(error).splitlines()[0]})")
    if any(array.dtype != torch.float32 for array in state.values()):
        refuse("the weights are not of type float32")
    index, n_centroids = model.centroid_index, len(model.state["networks.0.centroids"])
    if (index < 0).any() or (index >= n_centroids).any() or len(np.unique(index)) != len(index):
        refuse("its clusters are numbered wrongly")
