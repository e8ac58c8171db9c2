"""Records and arrays that no model can have are refused although their hashes are right; old models still load."""

from __future__ import annotations

import gzip
import json
import struct
import tracemalloc
from dataclasses import fields
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sctag_tools as sctag
from sctag_tools.io.model_folder import ARRAYS, RECORD

OLD = Path(__file__).resolve().parents[1] / "data" / "0.1"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"var_names": ["x0"]}, "its var_names are not 8 names"),
        ({"var_names": [0] * 8}, "its var_names are not"),
        ({"obs_names": ["c0"] * 13}, "its obs_names are not 12 names"),
        ({"batch_categories": ["a"]}, "its batch_categories are not 2 names"),
        ({"batch_key": 1}, "batch_key is no name"),
        ({"use_rep": KeyError}, "use_rep is no name"),
        ({"mean_degree": "1"}, "mean_degree is '1'"),
        ({"mean_degree": True}, "mean_degree is True"),
        ({"mean_degree": float("nan")}, "mean_degree is nan"),
        ({"mean_degree": 10**400}, "mean_degree is"),
        ({"n_neighbors": 0}, "n_neighbors is 0"),
        ({"n_neighbors": 13}, "too short"),
        ({"n_neighbors": 10**18}, "n_neighbors is"),
        ({"metric": "precomputed"}, "metric is 'precomputed'"),
        ({"metric": ["euclidean"]}, "metric is"),
        ({"config": []}, "its options are not those of this version"),
        ({"config__evil": 1}, "its options are not those of this version"),
        ({"config__n_hidden": KeyError}, r"'cells\.messages' has shape"),
        ({"config__n_hidden": 10**9}, r"'cells\.messages' has shape"),
        ({"config__n_latent": 10**9}, "has shape"),
        ({"config__n_hops": 10**9}, "the weights are not those of its options"),
        ({"config__n_hops": 0}, "the weights are not those of its options"),
        ({"config__n_hops": -1}, "n_hops must be at least 0"),
        ({"config__n_hidden": 3.0}, "n_hidden must be an integer"),
        ({"config__likelihood": "multinomial"}, "the weights are not those of its options"),
        ({"config__likelihood": {}}, "likelihood must be one of"),
        ({"config__graph_weight": 0.0}, "the weights are not those of its options"),
        ({"config__learning_rate": 10**400}, "learning_rate must lie in"),
        ({"run": None}, "record of its run is missing"),
        ({"run__params": []}, "record of its run is missing"),
        ({"run__history": [1]}, "its history is no table"),
        ({"run__history": {"loss": [[1], [1, 2]]}}, "something else than numbers"),
        ({"run__history": {"loss": [10**400]}}, "something else than numbers"),
        ({"run__tree": [1]}, "its tree is no table"),
        ({"run__tree__leaf": [None]}, "something else than numbers"),
    ],
    ids=str,
)
def test_a_record_that_cannot_be(folder, seal, changes, match):
    content = json.loads((folder / RECORD).read_bytes())
    for part, change in changes.items():
        target = content["model"]
        *parents, last = part.split("__")
        for parent in parents:
            target = target[parent]
        if change is KeyError:
            del target[last]
        else:
            target[last] = change
    seal(content)
    with pytest.raises(ValueError, match=match):
        sctag.ScTAG.load(folder)


def _set(name, value, where=0):
    def change(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name].flat[where] = value

    return change


def _map(name, change):
    return lambda arrays: arrays.update({name: change(arrays[name])})


BIAS, CENTROIDS = "state.networks.1.encoder.hidden.bias", "state.networks.{}.centroids"


def change_arrays(folder, seal, change):
    arrays = load_file(folder / ARRAYS)
    change(arrays)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / ARRAYS)
    seal()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda arrays: arrays.pop("centroid_index"), "the array 'centroid_index' is missing"),
        (lambda arrays: arrays.pop(CENTROIDS.format(0)), "the weights are not"),
        (lambda arrays: arrays.pop(BIAS), "the weights are not"),
        (lambda arrays: arrays.update({"state.evil": np.zeros(1, np.float32)}), "the weights are not"),
        (_map("gene_proportions", lambda a: a.astype(np.float64)), "'gene_proportions' is not of type float32"),
        (_map("centroid_index", lambda a: a.astype(np.int32)), "'centroid_index' is not of type int64"),
        (_map(BIAS, lambda a: a.astype(np.float16)), "not of type float32"),
        (_map(BIAS, lambda a: a[:-1]), "the weights are not"),
        (_map(CENTROIDS.format(0), lambda a: a[:0]), "the weights are not|numbered wrongly"),
        (_map(CENTROIDS.format(1), lambda a: a[:1]), "the weights are not"),
        (_map("cells.latent", lambda a: a[:-1]), r"'cells\.latent' has shape \(11, 2\), not \(12, 2\)"),
        (_map("cells.proba", lambda a: a.T), "has shape"),
        (_map("cells.messages", lambda a: a.reshape(12, -1)), "has shape"),
        (_map("cells.deviance", lambda a: np.full_like(a, -1)), "no cell is left"),
        (_map("cells.representation", lambda a: a[:, :0]), "has shape|too short"),
        (_map("scaler.means", lambda a: a[:1]), "has shape|too short"),
        (_map("scaler.std", lambda a: a[0]), "has shape|not of type"),
        (lambda arrays: arrays.update({"pca_loadings": np.zeros((8, 2), np.float32)}), "has shape"),
        (_set("scaler.means", np.nan), "impossible values"),
        (_set("cells.representation", np.inf), "impossible values"),
        (_set("state.networks.1.decoder.log_mean.weight", -np.inf, 7), "impossible values"),
        (_set("centroid_index", 3), "numbered wrongly"),
        (_set("centroid_index", -1), "numbered wrongly"),
        (_map("centroid_index", np.zeros_like), "numbered wrongly"),
        (_set("scales", 0), "'scales' is not positive"),
        (_set("joint_latent.scales", -1), "not positive"),
        (_set("scaler.std", 0), "not positive"),
        (_set("cells.confidence", 7), "'cells.confidence' is not within 0 and 1"),
        (_set("cells.proba", -0.5), "not within 0 and 1"),
        (_set("cells.batch_index", 2), "batch number is out of range"),
        (_set("cells.batch_index", -1), "batch number is out of range"),
    ],
)
def test_arrays_that_cannot_be(folder, seal, change, match):
    change_arrays(folder, seal, change)
    with pytest.raises(ValueError, match=match):
        sctag.ScTAG.load(folder)


def test_the_std_of_a_gene_may_be_infinite(folder, seal):
    change_arrays(folder, seal, _set("scaler.std", np.inf))
    assert np.isinf(sctag.ScTAG.load(folder).reference.scaler.std[0])


# --- what is refused costs nothing ---


def peak_of_loading(folder, match):
    """Bytes that Python allocates at once while a folder is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=match):
            sctag.ScTAG.load(folder)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "header",
    [
        {"scales": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**43]}},
        {"scales": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 24]}},
        {"scales": {"dtype": "I64", "shape": [2**63, 2**63], "data_offsets": [0, 24]}},
        {"scales": {"dtype": "I64", "shape": [-1], "data_offsets": [24, 0]}},
        {"scales": {"dtype": "O", "shape": [3], "data_offsets": [0, 24]}},
        {"scales": {"dtype": "BF16", "shape": [12], "data_offsets": [0, 24]}},
        {"scales": {"dtype": "F8_E4M3", "shape": [24], "data_offsets": [0, 24]}},
        {"scales": {"dtype": "F32", "shape": [0, 2**60], "data_offsets": [0, 0]}},
        {},
        [],
    ],
    ids=str,
)
def test_headers_that_promise_more_than_there_is(folder, seal, header):
    raw, record = json.dumps(header).encode(), (folder / RECORD).stat().st_size
    for claimed in (len(raw), 0, 2**40, 2**64 - 1):
        (folder / ARRAYS).write_bytes(struct.pack("<Q", claimed) + raw + b"\x00" * 24)
        seal()
        assert peak_of_loading(folder, "The model is damaged") < 30 * record + 2**18


def test_numbers_of_networks_that_do_not_exist_cost_nothing(folder, seal):
    """A number alone must not make anything large, nor take long."""
    content = json.loads((folder / RECORD).read_bytes())
    content["model"]["config"] |= {"n_networks": 10**7, "n_hops": 10**7, "n_hidden": 10**9}
    seal(content)
    assert peak_of_loading(folder, "has shape") < 2**20


# --- models of version 0.1 (tests/data/0.1/README.md says how they were made) ---


@pytest.fixture(scope="module")
def expected():
    """What 0.1 found for ten new cells."""
    with np.load(OLD / "mapped.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def clustered(tmp_path_factory):
    path = tmp_path_factory.mktemp("old") / "clustered.h5ad"
    path.write_bytes(gzip.decompress((OLD / "clustered.h5ad.gz").read_bytes()))
    return ad.read_h5ad(path)


@pytest.fixture(params=["folder", "anndata", "saved again"])
def old_model(request, clustered, tmp_path):
    if request.param == "anndata":
        return sctag.ScTAG.from_anndata(clustered)
    model = sctag.ScTAG.load(OLD)
    if request.param == "folder":
        return model
    model.save(tmp_path)
    content = json.loads((tmp_path / RECORD).read_bytes())
    assert content["format"] == content["model"]["format"] == 2
    assert not {"genes", "gain"} & content["model"].keys()
    return sctag.ScTAG.load(tmp_path)


def test_models_of_0_1_map_and_denoise_as_they_did(old_model, expected, clustered):
    query = ad.AnnData(expected["counts"], obs={"donor": expected["donor"]}, var=clustered.var[[]])
    sctag.tl.map_query(query, old_model)
    sctag.tl.denoise(query, old_model, dropout=True)
    assert query.obs["sctag"].tolist() == expected["labels"].tolist()
    found = {
        "latent": query.obsm["X_sctag"], "proba": query.obsm["sctag_proba"],
        "confidence": query.obs["sctag_confidence"], "novelty": query.obs["sctag_novelty"],
        "denoised": query.layers["sctag_denoised"], "dropout": query.layers["sctag_denoised_dropout"],
    }  # fmt: skip
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert old_model.predict().tolist() == clustered.obs["sctag"].tolist()
    np.testing.assert_array_equal(old_model.get_latent_representation(), clustered.obsm["X_sctag"])
    assert old_model.registry.obs_names == clustered.obs_names.tolist()
    assert old_model.registry.batch_categories == ["a", "b"]
    assert old_model.params_["batch_key"] == "donor"


def test_both_places_hold_the_same_old_model(clustered, same):
    one, other = sctag.ScTAG.load(OLD), sctag.ScTAG.from_anndata(clustered)
    for part in fields(one.reference.cells):
        np.testing.assert_array_equal(*(getattr(m.reference.cells, part.name) for m in (one, other)))
    same(dict(sorted(one.history.items())), dict(sorted(other.history.items())))


def test_results_of_0_1_are_plotted_mapped_to_and_written_again(clustered, expected, tmp_path):
    clustered = clustered.copy()
    losses = [line.get_ydata() for axes in sctag.pl.history(clustered, return_fig=True).axes for line in axes.lines]
    assert max(map(len, losses)) == 65
    evidence = [found for axes in sctag.pl.n_clusters(clustered, return_fig=True).axes for found in axes.collections]
    assert sum(len(found.get_offsets()) for found in evidence) >= 20
    query = ad.AnnData(expected["counts"], obs={"donor": expected["donor"]}, var=clustered.var[[]])
    sctag.tl.map_query(query, clustered)
    assert query.obs["sctag"].tolist() == expected["labels"].tolist()
    clustered.write_h5ad(tmp_path / "again.h5ad")
    again = sctag.ScTAG.from_anndata(ad.read_h5ad(tmp_path / "again.h5ad"))
    assert again.predict().tolist() == clustered.obs["sctag"].tolist()
