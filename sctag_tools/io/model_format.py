"""A trained model as plain arrays and a JSON record, and back; every name, length, type and range is checked."""

import json
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any, NoReturn, get_args

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from .._anndata.clusters import cluster_names
from .._keys import MODEL, ResultKeys, is_result
from .._types import Metric
from ..cluster.hierarchy import INTEGERS
from ..mapping.reference import ReferenceCells, ReferenceModel
from ..nn.joint_latent import JointLatent
from ..train.config import Config
from ..train.preprocessing import GeneScaler

Arrays = dict[str, NDArray[Any]]

FORMAT = 2
# The axes of each array that is not a parameter of the networks. Axes of one name are equally long.
_AXES = {
    "scaler.std": "genes", "scaler.means": "batches_and_all genes", "gene_proportions": "genes", "scales": "networks",
    "centroid_index": "clusters", "joint_latent.means": "networks latent", "joint_latent.scales": "networks",
    "joint_latent.loadings": "all_latents latent", "cells.confidence": "cells",
    "cells.representation": "cells components", "cells.messages": "cells networks hidden",
    "cells.latents": "cells networks latent", "cells.latent": "cells latent", "cells.proba": "cells clusters",
    "cells.n_counts": "cells", "cells.deviance": "cells", "cells.batch_index": "cells",
    "pca_loadings": "genes components",
}  # fmt: skip
_INTEGERS = {"centroid_index", "cells.batch_index"}
_MAY_BE_INFINITE = "scaler.std"  # of a constant gene
_NAMES = ("var_names", "obs_names", "batch_categories")
_SERIES = ("history", "n_clusters_curve", "cluster_confidence", "tree")  # arrays; JSON has no number for their gaps

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


@dataclass(frozen=True)
class Registry:
    """Names in the order of the arrays of a :class:`.ReferenceModel`, and the record of its run."""

    var_names: list[str]
    obs_names: list[str]
    batch_categories: list[str]  # one empty name if there is a single batch
    batch_key: str | None
    use_rep: str | None  # representation that neighbors are found in; None: PCA of the genes
    run: dict[str, Any]  # as ``uns`` has it: params, history, ...
    cluster_names: list[str] | None = None  # that a user gave; None: their numbers


def pack(model: ReferenceModel, registry: Registry) -> tuple[Arrays, dict[str, Any]]:
    """Arrays by name, and what JSON can hold."""
    arrays: Arrays = {f"state.{name}": array for name, array in model.state.items()}
    arrays |= {name: array for name in _AXES if (array := attrgetter(name)(model)) is not None}
    run = registry.run
    series = {part: {name: _listed(array) for name, array in run[part].items()} for part in _SERIES if part in run}
    record = {
        "format": FORMAT,
        "config": model.config.record(),
        **{name: getattr(model, name) for name in ("mean_degree", "n_neighbors", "metric")},
        **{name: getattr(registry, name) for name in (*_NAMES, "batch_key", "use_rep")},
        "run": {**run, **series},
    }
    if registry.cluster_names is not None:
        record["cluster_names"] = registry.cluster_names
    return arrays, record


def unpack(arrays: Arrays, record: dict[str, Any]) -> tuple[ReferenceModel, Registry]:
    """The inverse of :func:`pack`, also for models of version 0.1; ValueError for anything it could not have made."""
    arrays, record = _current(arrays, record)
    config, n_neighbors = _config(record), int(_number(record, "n_neighbors", low=1))
    _check_arrays(arrays, config, n_neighbors)
    metric: Any = record.get("metric")
    _require(isinstance(metric, str) and metric in get_args(Metric), f"metric is {metric!r}")

    def part(kind: type[Any], name: str) -> Any:
        return kind(**{field.name: arrays[f"{name}.{field.name}"] for field in fields(kind)})

    model = ReferenceModel(
        config=config,
        state={name.removeprefix("state."): arrays[name] for name in arrays if name.startswith("state.")},
        scales=arrays["scales"],
        centroid_index=arrays["centroid_index"],
        scaler=part(GeneScaler, "scaler"),
        joint_latent=part(JointLatent, "joint_latent"),
        pca_loadings=arrays.get("pca_loadings"),
        mean_degree=_number(record, "mean_degree", low=0),
        gene_proportions=arrays["gene_proportions"],
        n_neighbors=n_neighbors,
        metric=metric,
        cells=part(ReferenceCells, "cells"),
    )
    _check_networks(model)
    return model, _registry(record, model)


def to_uns(model: ReferenceModel, registry: Registry) -> dict[str, Any]:
    """The entry of ``uns[key]`` that holds the model; the record of the run lies beside it."""
    arrays, record = pack(model, registry)
    del record["run"]
    return {"arrays": arrays, "record": json.dumps(record)}


def from_uns(adata: AnnData, key: str) -> tuple[ReferenceModel, Registry]:
    """The model in ``adata.uns[key]``; KeyError where there is none, ValueError if it is damaged."""
    entry = adata.uns.get(key)
    if not is_result(entry):
        raise ResultKeys(key).no_result(adata)
    if MODEL not in entry and "sub_of" in entry["params"]:
        msg = (
            f"The result {key!r} was made by `sctag.tl.subcluster`, which keeps no model; name the result that it was "
            f"opened from, {entry['params']['sub_of']!r}. `sctag.tl.map_query(query, adata, obs=[{key!r}])` carries "
            "its clusters over."
        )
        raise KeyError(msg)
    if MODEL not in entry:
        msg = (
            f"The result {key!r} was made without its model (a published preset, a mapped query, or "
            "`store_model=False`). Run `sctag.tl.sctag(adata)` again, or give the folder that it was saved in."
        )
        raise KeyError(msg)
    try:
        arrays = {name: np.asarray(array) for name, array in entry[MODEL]["arrays"].items()}
        run = {name: _plain(part) for name, part in entry.items() if name != MODEL}
        record = {**json.loads(str(entry[MODEL]["record"])), "run": run}
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        msg = f"adata.uns[{key!r}][{MODEL!r}] is damaged ({error}); run `sctag.tl.sctag(adata)` again."
        raise ValueError(msg) from error
    model, registry = unpack(arrays, record)
    return model, replace(registry, cluster_names=cluster_names(adata, key, model.n_clusters))


def refuse(why: str) -> NoReturn:
    """Raise the ValueError for a model that cannot be what was saved."""
    msg = f"The model is damaged: {why}. Save it again from the AnnData that it was trained on."
    raise ValueError(msg)


def _require(holds: object, why: str) -> None:
    if not holds:
        refuse(why)


def check_format(number: Any) -> None:
    """Raise ValueError unless this version reads the format of this number."""
    _require(type(number) is int and number >= 1, f"its format is {number!r}")
    if number > FORMAT:
        msg = f"The model was saved by a newer version (format {number}, this one reads {FORMAT}); update sctag-tools."
        raise ValueError(msg)


def _current(arrays: Arrays, record: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """The same in the names of this version. Records of version 0.1 have no format number."""
    check_format(record.get("format", 1))
    if record.get("format") == FORMAT:
        return arrays, record
    renamed = {_FORMAT_1_ARRAYS.get(name, name.replace("weights.", "state.", 1)): arrays[name] for name in arrays}
    return renamed, {_FORMAT_1_RECORD.get(name, name): value for name, value in record.items()}


def _config(record: dict[str, Any]) -> Config:
    options: Any = record.get("config")
    known = {field.name for field in fields(Config)}
    _require(isinstance(options, dict) and options.keys() <= known, "its options are not those of this version")
    try:
        return Config(**options)
    except (TypeError, ValueError) as error:
        refuse(str(error))


def _registry(record: dict[str, Any], model: ReferenceModel) -> Registry:
    for part, length in zip(_NAMES, (model.n_genes, len(model.cells), model.n_batches), strict=True):
        names: Any = record.get(part)
        are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
        _require(are_names and len(names) == length, f"its {part} are not {length} names")
    for option in ("batch_key", "use_rep"):
        _require(isinstance(record.get(option, 0), str | None), f"{option} is no name")
    run: Any = record.get("run")
    _require(isinstance(run, dict) and isinstance(run.get("params"), dict), "the record of its run is missing")
    for part in _SERIES:
        _require(isinstance(run.get(part, {}), dict), f"its {part} is no table")
    series = {
        part: {name: _array(values, name) for name, values in run[part].items()} for part in _SERIES if part in run
    }
    names = record.get("cluster_names")
    are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    _require(names is None or (are_names and len({*names}) == model.n_clusters), "its clusters have other names")
    kept = {name: record[name] for name in (*_NAMES, "batch_key", "use_rep")}
    return Registry(**kept, run={**run, **series}, cluster_names=names)


def _listed(array: NDArray[Any]) -> Any:
    array = np.asarray(array, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.array(None)).tolist()


def _array(values: Any, name: str) -> NDArray[Any]:
    try:
        return np.array(values, dtype=INTEGERS.get(name, np.float64))  # None becomes nan
    except (TypeError, ValueError, OverflowError):
        refuse("a series of its run holds something else than numbers")


def _plain(value: Any) -> Any:
    """Python's own numbers: anndata before 0.12 reads numpy's from files, and JSON takes none of these."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _number(record: dict[str, Any], name: str, *, low: float) -> float:
    value: Any = record.get(name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    _require(is_number and low <= value < 1e9, f"{name} is {value!r}")
    return float(value)


def _check_arrays(arrays: Arrays, config: Config, n_neighbors: int) -> None:
    """Check types, shapes and values. Whatever the options say, the networks are then as large as the arrays."""
    for name, array in arrays.items():
        dtype = np.int64 if name in _INTEGERS else np.float32
        is_array = isinstance(array, np.ndarray) and array.dtype == dtype
        _require(is_array, f"the array {name!r} is not of type {dtype.__name__}")
        possible = ~np.isnan(array) if name == _MAY_BE_INFINITE else np.isfinite(array)
        _require(possible.all(), f"the array {name!r} holds impossible values")
    lengths = {"networks": config.n_networks, "hidden": config.n_hidden, "latent": config.n_latent}
    lengths["all_latents"] = config.n_networks * config.n_latent
    for name, axes in _AXES.items():
        if name == "pca_loadings" and name not in arrays:  # neighbors are found in another representation
            continue
        _require(name in arrays, f"the array {name!r} is missing")
        shape = arrays[name].shape
        for axis, length in zip(axes.split(), shape, strict=False):
            lengths.setdefault(axis, length)
        expected = tuple(lengths.get(axis) for axis in axes.split())
        _require(shape == expected, f"the array {name!r} has shape {shape}, not {expected}")
    n_batches = lengths["batches_and_all"] - 1
    _require(all(lengths.values()) and n_batches and lengths["cells"] >= n_neighbors, "an array is too short")
    for name in ("cells.proba", "cells.confidence"):
        _require(((arrays[name] >= 0) & (arrays[name] <= 1 + 1e-4)).all(), f"the array {name!r} is not within 0 and 1")
    for name in ("scales", "scaler.std", "joint_latent.scales"):
        _require((arrays[name] > 0).all(), f"the array {name!r} is not positive")
    batch_index = arrays["cells.batch_index"]
    _require(((batch_index >= 0) & (batch_index < n_batches)).all(), "a batch number is out of range")
    _require((arrays["cells.deviance"] >= 0).any(), "no cell is left to compare new ones with")


def _check_networks(model: ReferenceModel) -> None:
    # As many hops as there are arrays: a number alone must not make anything large.
    n_hops = sum(name.startswith("networks.0.encoder.hidden.lins.") for name in model.state) - 1
    wrong = "the weights are not those of its options"
    _require(model.config.n_hops == n_hops and "networks.0.centroids" in model.state, wrong)
    try:
        n_centroids = len(next(iter(model.networks)).centroids)
    except (RuntimeError, TypeError, OverflowError, ValueError) as error:
        refuse(f"{wrong} ({str(error).splitlines()[0]})")
    index = model.centroid_index
    are_distinct = len(np.unique(index)) == len(index)
    _require(are_distinct and index.min() >= 0 and index.max() < n_centroids, "its clusters are numbered wrongly")
