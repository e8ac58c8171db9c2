"""``sctag run``: what it reads, hands to the training, writes and prints."""

from __future__ import annotations

import io
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData

import sctag_tools as sctag
from sctag_tools.cli._files import target_file

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def data(blobs: AnnData) -> Path:
    blobs.write_h5ad("blobs.h5ad")
    return Path("blobs.h5ad")


# --- a real run ---


def test_the_result_is_that_of_the_same_steps_in_python(finished):
    adata = sctag.read(finished[0] / "reference.h5ad")
    del adata.obs["group"]  # labels score a result and have no part in it
    adata.layers["counts"] = adata.X.copy()
    sc.pp.filter_cells(adata, min_counts=1)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=60)
    sc.pp.pca(adata, n_comps=50, random_state=4)
    sctag.pp.build_graph(adata, 8, random_state=4)
    sctag.tl.sctag(adata, 3, n_networks=2, pretrain_epochs=4, cluster_epochs=3, random_state=4, progress_bar=False)
    result = anndata.read_h5ad(finished[0] / "results" / "mine.h5ad")
    np.testing.assert_array_equal(result.obsm["X_mine"], adata.obsm["X_sctag"])
    assert result.obs["mine"].tolist() == adata.obs["sctag"].tolist()
    assert (result.X != adata.X).nnz == 0
    assert (result.layers["counts"] != adata.layers["counts"]).nnz == 0
    assert result.uns["mine"]["params"] == adata.uns["sctag"]["params"]


def test_what_is_written(finished, blobs):
    folder, _ = finished
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    written = {"results/mine.h5ad", "results/mine.png", "model/model.json", "model/model.safetensors"}
    assert names == {"reference.h5ad", "query.h5ad", *written}
    assert (folder / "results" / "mine.png").read_bytes().startswith(PNG)
    assert (anndata.read_h5ad(folder / "reference.h5ad").X != blobs[:120].X).nnz == 0
    adata = anndata.read_h5ad(folder / "results" / "mine.h5ad")
    assert {"mine", "mine_confidence"} <= set(adata.obs)
    assert {"X_mine", "mine_proba", "X_mine_umap", "X_pca"} <= set(adata.obsm)
    assert "sctag" not in adata.obs
    assert len(adata.uns["mine"]["history"]["loss"]) == 4 + 3  # as many steps as epochs: no early stopping
    assert not any("converged" in stop for stop in adata.uns["mine"]["stop"].values())


def test_what_is_printed(finished):
    folder, out = finished
    adata = anndata.read_h5ad(folder / "results" / "mine.h5ad")
    header, *rows, scores, last = [line.split() for line in out.splitlines()]
    assert header == ["cluster", "cells", "share", "confidence", "as", "a", "whole", "next", "to"]
    groups = adata.obs.groupby("mine", observed=True)["mine_confidence"]
    whole = [f"{value:.2f}" for value in adata.uns["mine"]["cluster_confidence"]["confidence"]]
    siblings = sctag.get.clusters_df(adata, "mine")["sibling"]
    assert rows == [
        [name, str(len(one)), f"{len(one) / 120:.1%}", f"{one.mean():.2f}", *rest]
        for (name, one), *rest in zip(groups, whole, siblings, strict=True)
    ]
    expected = sctag.metrics.score(adata, "group", key="mine")
    assert scores == [text for name, value in expected.items() for text in (name, f"{value:.4f}")]
    assert " ".join(last) == "wrote results/mine.h5ad, results/mine.png, model in model"


# --- options and data on their way to the training ---


def test_options_reach_the_steps(blobs, command, trained):
    blobs.obs["donor"] = np.tile(["a", "b"], 75)
    blobs.write_h5ad("donors.h5ad")
    options = {"batch_key": "donor", "resolution": 0.5, "n_latent": 7, "likelihood": "zinb", "random_state": 3}
    command.succeeds("run", "donors.h5ad", *(f"--{name}={value}" for name, value in options.items()))
    adata, received = trained[0]
    assert {**options, "progress_bar": True, "preset": "default", "n_clusters": None}.items() <= received.items()
    graph = adata.uns["sctag_neighbors"]["params"]
    assert (graph["batch_key"], graph["random_state"], graph["n_neighbors"]) == ("donor", 3, 15)


def test_few_cells_or_genes_have_few_components(blobs, command, trained):
    for n_cells, n_genes in ((12, 100), (150, 6)):
        blobs[:n_cells].write_h5ad("few.h5ad")
        command.succeeds("run", "few.h5ad", "--n-top-genes", n_genes, "--n-neighbors", 5)
    assert [adata.obsm["X_pca"].shape for adata, _ in trained] == [(12, 11), (150, 5)]


def test_a_preset_has_the_graph_of_its_recipe(data, command, trained):
    command.succeeds("run", data, "--preset", "reference", "--highly_genes", 60, "--n-clusters", 3)
    adata, received = trained[0]
    assert (received["preset"], received["n_top_genes"]) == ("reference", 60)
    assert adata.uns["sctag_neighbors"]["params"]["use_rep"] == "X_pca_published"
    assert adata.var["highly_variable_published"].sum() == 60


def test_without_data_the_bundled_set(command, trained):
    out = command.succeeds("run", "--highly-genes", 100)
    assert anndata.read_h5ad("pbmc68k_reduced_sctag.h5ad").n_obs == 700
    assert "ARI" in out
    assert "--transpose is for a table of yours" in command.fails("run", "--transpose")


@pytest.mark.parametrize(("layout", "labels"), [("sctag", True), ("sctag", False), ("h5ad", True)])
def test_labels_of_the_original_layout_alone_are_scored_unasked(blobs, command, trained, layout, labels):
    if layout == "sctag":
        with h5py.File("data.h5", "w") as file:
            file["exprs"] = blobs.X.toarray()
            if labels:
                file["obs/cell_type1"] = blobs.obs["group"].to_numpy().astype("S")
    else:
        blobs.obs["cell_type1"] = blobs.obs["bulk_labels"] = blobs.obs["group"]
        blobs.write_h5ad("data.h5")
    assert ("ARI" in command.succeeds("run", "data.h5")) == (layout == "sctag" and labels)


def test_a_table_with_genes_in_rows(blobs, command, trained):
    blobs.var_names = [f"RPL{i}" for i in range(blobs.n_vars)]
    blobs.to_df().astype(int).to_csv("upright.csv")
    blobs.to_df().astype(int).T.to_csv("lying.csv")
    said = command.fails("run", "lying.csv")
    assert "lying.csv seems to have genes in rows" in said
    assert said.endswith("Turn it: `--transpose`.\n")
    assert command.fails("run", "upright.csv", "--transpose").endswith("Leave out `--transpose`.\n")
    command.succeeds("run", "lying.csv", "--transpose")
    assert (trained[0][0].layers["counts"] != blobs.X).nnz == 0


def test_counts_in_a_layer(blobs, command, trained):
    """The result has them in "counts", unless another layer of that name would be lost."""
    blobs.layers["mine"] = blobs.X.copy()
    sc.pp.normalize_total(blobs, target_sum=1e4)
    sc.pp.log1p(blobs)
    blobs.write_h5ad("logged.h5ad")
    said = command.fails("run", "logged.h5ad")
    assert said.endswith("or name their layer with `--layer`. `--no-check-values` skips this check.\n")
    assert "check_values" not in said
    sc.settings.verbosity, sc.settings.logfile = "warning", io.StringIO()
    command.succeeds("run", "logged.h5ad", "--layer", "mine")
    assert sc.settings.logfile.getvalue() == ""  # not that the values are logged already
    blobs.layers["counts"] = blobs.layers["mine"] * 2
    blobs.write_h5ad("two.h5ad")
    command.succeeds("run", "two.h5ad", "--layer", "mine")
    for (adata, options), name in zip(trained, ("counts", "mine"), strict=True):
        assert options["layer"] == name
        assert (adata.layers[name] != blobs.layers["mine"]).nnz == 0
        np.testing.assert_allclose(adata.X.toarray(), blobs.X.toarray(), rtol=1e-5)
    assert (adata.layers["counts"] != blobs.layers["counts"]).nnz == 0


def test_values_that_look_logged(blobs, command, trained):
    blobs.X = blobs.X.multiply(0.5 * 19 / blobs.X.max()).tocsr()
    blobs.write_h5ad("low.h5ad")
    assert "`--no-check-values` skips this check" in command.fails("run", "low.h5ad")
    command.succeeds("run", "low.h5ad", "--no-check-values")
    assert trained[0][1]["check_values"] is False


def test_empty_cells_are_left_out_and_genes_that_do_not_vary_are_no_news(blobs, command, trained):
    x = blobs.X.toarray()
    x[[3, 77]], x[:, :20] = 0, 0
    blobs.X = x
    blobs.write_h5ad("holes.h5ad")
    result = command.run("run", "holes.h5ad")
    assert (result.exit_code, result.stderr) == (0, "Warning: 2 cells without any count are left out.\n")
    assert trained[0][0].n_obs == 148


def test_result_can_be_run_again(data, command, trained):
    command.succeeds("run", data, "--out", "first.h5ad")
    command.succeeds("run", "first.h5ad", "--key-added", "second", "--out", "second.h5ad")
    assert {"sctag", "second"} <= set(anndata.read_h5ad("second.h5ad").obs)


def test_names_of_results_keep_dots():
    """Else sample.1 and sample.2 would overwrite each other's results."""
    names = {"sample.1.h5ad": "sample.1", "a.csv.gz": "a", "a.zarr.zip": "a", "b/filtered_matrix": "filtered_matrix"}
    for name, stem in names.items():
        assert target_file(Path(name), None, "sctag") == Path(f"{stem}_sctag.h5ad")


# --- failures ---


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--n-clusters", 151], "n_clusters=151 exceeds the 150 cells"),
        (["--preset", "paper"], "cannot choose the number of clusters; give `n_clusters`"),
        (["--preset", "paper", "--n-clusters", 3, "--save-model", "new"], "makes no model"),
        (["--preset", "paper", "--n-clusters", 3, "--highly-genes", 1], "n_top_genes must be at least 2"),
        (["--seed", -1], "random_state must be at least 0"),
        (["--accelerator", "mps"], "was asked for, but torch finds none"),
        (["--batch-key", "donor"], "'donor'"),
        (["--layer", "none"], "layer='none' is not in adata.layers"),
        (["--key", "group"], "adata holds something else under 'group'"),
        (["--key", "sctag_neighbors"], "'sctag_neighbors' is the name of the graph"),
        (["--label-key", "none"], "--label-key 'none' is no column of obs; there are ['group']"),
        (["--save-model", "."], "is not empty"),
        (["--out", "result.csv"], "--out must end in .h5ad"),
        (["--out", "nowhere/result.h5ad"], "folder of --out does not exist"),
        (["--out", "blobs.h5ad"], "--out is the input file"),
        (["--transpose"], "Leave out `--transpose`."),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_refused_before_the_work_begins(data, command, options, said, monkeypatch):
    def worked(*_args, **_kwargs):
        raise AssertionError

    monkeypatch.setattr(sc.pp, "normalize_total", worked)
    assert said in command.fails("run", data, *options)


def test_impossible_counts(blobs, command):
    for value, said in ((-1.0, "negative values"), (np.nan, "NaN or infinite")):
        blobs.X.data[5] = value
        blobs.write_h5ad("bad.h5ad")
        assert said in command.fails("run", "bad.h5ad")
    blobs.X.data[5] = 0
    blobs.raw = blobs.copy()
    sc.pp.log1p(blobs)
    blobs.write_h5ad("raw.h5ad")
    said = command.fails("run", "raw.h5ad")
    assert "adata.raw holds counts of the same cells: in Python, `adata.raw.to_adata().write_h5ad(" in said
    assert "check_values" not in said


def test_files_that_cannot_be_used(data, blobs, command):
    assert "nowhere.h5ad does not exist" in command.fails("run", "nowhere.h5ad")
    Path("picture.png").write_bytes(PNG + bytes(100))
    assert "picture.png is in none of the readable formats" in command.fails("run", "picture.png")
    data.write_bytes(data.read_bytes()[:2000])
    assert "blobs.h5ad is a damaged or incomplete HDF5 file" in command.fails("run", data)
    blobs[:1].write_h5ad("one.h5ad")
    assert "at least 2 cells" in command.fails("run", "one.h5ad")
