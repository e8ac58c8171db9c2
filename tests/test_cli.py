"""The ``sctag`` command on real files: what it writes and prints, and how it fails."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from typer.main import get_command
from typer.testing import CliRunner

import sctag_tools as sctag
from sctag_tools.cli import _OPTIONS, _in_options, app

SHORT = ["--pretrain-epochs", "3", "--maxiter", "2", "--quiet"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data(blobs: AnnData) -> Path:
    blobs.write_h5ad("blobs.h5ad")
    return Path("blobs.h5ad")


def _run(*arguments: object):
    return CliRunner().invoke(app, ["run", *map(str, arguments)])


def _succeeds(*arguments: object) -> str:
    result = _run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == "", result.stderr
    return result.stdout


def _fails(*arguments: object, status: int = 1) -> str:
    """One line on stderr, no traceback, nothing on stdout, no file left behind."""
    before = set(Path().rglob("*"))
    result = _run(*arguments)
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    if status == 1:
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1, result.stderr
    assert set(Path().rglob("*")) == before
    return result.stderr


def _check_files(path: str, n_obs: int = 150, key: str = "sctag") -> AnnData:
    adata = anndata.read_h5ad(path)
    assert adata.n_obs == n_obs
    assert {key, f"{key}_confidence"} <= set(adata.obs)
    assert {f"X_{key}", f"{key}_proba", f"X_{key}_umap", "X_pca"} <= set(adata.obsm)
    assert "sctag_neighbors" in adata.uns
    assert Path(path).with_suffix(".png").read_bytes().startswith(PNG)
    return adata


def test_main_job(data, blobs):
    out = _succeeds(data, "--n-clusters", 3, *SHORT)
    adata = _check_files("blobs_sctag.h5ad")
    assert adata.obs["sctag"].cat.categories.tolist() == ["0", "1", "2"]
    assert (adata.layers["counts"] != blobs.X).nnz == 0
    assert adata.uns["sctag"]["params"]["counts"] == "counts"
    assert "log1p" in adata.uns
    assert 0 < adata.X.max() < 10
    rows = [line.split() for line in out.splitlines()[:4]]
    assert rows[0] == ["cluster", "cells", "share", "confidence"]
    sizes = adata.obs["sctag"].value_counts()
    assert [(row[0], int(row[1])) for row in rows[1:]] == [(name, sizes[name]) for name in "012"]
    assert "blobs_sctag.h5ad" in out
    assert "blobs_sctag.png" in out
    assert "ARI" not in out
    assert {path.name for path in Path().iterdir()} == {"blobs.h5ad", "blobs_sctag.h5ad", "blobs_sctag.png"}


def test_both_spellings_mean_the_same(data, same):
    hyphens = ["--highly-genes", 60, "--pretrain-epochs", 3, "--n-clusters", 3, "--n-neighbors", 8]
    underscores = [str(part).replace("-", "_").replace("__", "--") for part in hyphens]
    rest = ["--maxiter", 2, "--quiet", "--seed", 4]
    _succeeds(data, *hyphens, "--label-key", "group", "--out", "a.h5ad", *rest)
    _succeeds(data, *underscores, "--label_key", "group", "--out", "b.h5ad", *rest)
    a, b = _check_files("a.h5ad"), _check_files("b.h5ad")
    np.testing.assert_array_equal(a.obsm["X_sctag"], b.obsm["X_sctag"])
    params = a.uns["sctag"]["params"]
    expected = {"n_genes": 60, "pretrain_epochs": 3, "cluster_epochs": 2, "random_state": 4, "n_clusters_given": True}
    assert expected.items() <= params.items()
    assert a.uns["sctag_neighbors"]["params"]["n_neighbors"] == 8


def test_epochs_overrule_early_stopping(data):
    _succeeds(data, "--pretrain_epochs", 7, "--maxiter", 4, "--n-clusters", 3, "--quiet")
    adata = anndata.read_h5ad("blobs_sctag.h5ad")
    assert len(adata.uns["sctag"]["history"]["loss"]) == 7 + 4  # one step an epoch
    assert not any("converged" in stop for stop in adata.uns["sctag"]["stop"].values())


def test_scores_against_the_labels_that_are_named(data):
    out = _succeeds(data, "--label-key", "group", "--n-clusters", 3, *SHORT)
    adata = anndata.read_h5ad("blobs_sctag.h5ad")
    expected = sctag.metrics.score(adata, "group")
    line = next(line for line in out.splitlines() if line.startswith("ACC"))
    assert line.split() == ["ACC", f"{expected['ACC']:.4f}", "NMI", f"{expected['NMI']:.4f}", "ARI",
                            f"{expected['ARI']:.4f}"]  # fmt: skip


def test_k_is_never_read_from_labels(data, blobs):
    """The same clusters whatever the labels are, and whether they are named or not."""
    results = []
    for n_labels in (2, 9):
        blobs.obs["cell_type1"] = [f"t{i % n_labels}" for i in range(150)]
        blobs.obs["cell_type1"] = blobs.obs["cell_type1"].astype("category")
        blobs.write_h5ad(f"labels{n_labels}.h5ad")
        _succeeds(f"labels{n_labels}.h5ad", "--label-key", "cell_type1", *SHORT)
        results.append(anndata.read_h5ad(f"labels{n_labels}_sctag.h5ad"))
    _succeeds(data, *SHORT)
    results.append(anndata.read_h5ad("blobs_sctag.h5ad"))
    for adata in results:
        assert not adata.uns["sctag"]["params"]["n_clusters_given"]
        np.testing.assert_array_equal(adata.obs["sctag"], results[0].obs["sctag"])


def test_out_and_key(data):
    Path("folder").mkdir()
    _succeeds(data, "--out", "folder/mine.h5ad", "--key", "mine", "--n-clusters", 2, *SHORT)
    adata = _check_files("folder/mine.h5ad", key="mine")
    assert "sctag" not in adata.obs
    assert not Path("blobs_sctag.h5ad").exists()


def test_input_is_not_touched(data):
    before = data.read_bytes()
    _succeeds(data, "--n-clusters", 2, *SHORT)
    assert data.read_bytes() == before


def test_dots_in_the_name_are_kept(blobs):
    """Else sample.1 and sample.2 would overwrite each other's results."""
    blobs.write_h5ad("sample.1.h5ad")
    _succeeds("sample.1.h5ad", "--n-clusters", 2, *SHORT)
    _check_files("sample.1_sctag.h5ad")


def test_without_data_the_bundled_set(same):
    out = _succeeds("--n-clusters", 4, "--highly-genes", 100, "--pretrain-epochs", 1, "--maxiter", 1, "--quiet")
    adata = _check_files("pbmc68k_reduced_sctag.h5ad", n_obs=700)
    assert "ACC" in out
    assert "ARI" in out
    assert "bulk_labels" in adata.obs


# --- layouts and labels ---


@pytest.fixture
def tables(blobs) -> list[str]:
    """The same cells with genes in columns and with genes in rows, under names that tell."""
    table = blobs.to_df().astype(int).set_axis([f"RPL{i}" for i in range(blobs.n_vars)], axis=1)
    table.to_csv("upright.csv")
    table.T.to_csv("lying.csv")
    return ["upright.csv", "lying.csv"]


def test_a_table_with_genes_in_rows(tables, same):
    upright, lying = tables
    said = _fails(lying, *SHORT)
    assert "lying.csv seems to have genes in rows" in said
    assert said.endswith("Turn it: `--transpose`.\n")
    assert _fails(upright, "--transpose").endswith("Leave out `--transpose`.\n")
    for path, options in ((upright, []), (lying, ["--transpose"])):
        _succeeds(path, *options, "--n-clusters", 3, *SHORT, "--out", f"{path}.h5ad")
    same(*(_check_files(f"{path}.h5ad").obsm["X_sctag"] for path in tables))


def test_transpose_is_for_tables(data):
    assert _fails(data, "--transpose").endswith("Leave out `--transpose`.\n")
    assert "--transpose is for a table of yours" in _fails("--transpose")


def _write_original(path: str, blobs: AnnData, *, labels: bool = True, dense: bool = False) -> None:
    with h5py.File(path, "w") as file:
        if dense:
            file["exprs"] = blobs.X.toarray()
        else:
            group = file.create_group("exprs")
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(blobs.X, name)
            group["shape"] = np.array(blobs.shape)
        file["obs_names"] = blobs.obs_names.to_numpy().astype("S")
        file["var_names"] = blobs.var_names.to_numpy().astype("S")
        file.create_group("var")
        obs = file.create_group("obs")
        if labels:
            obs["cell_type1"] = blobs.obs["group"].to_numpy().astype("S")
        file.create_group("uns")["dataset_name"] = np.bytes_("blobs")


@pytest.mark.parametrize("dense", [True, False])
def test_original_layout_is_scored_by_default(blobs, dense):
    _write_original("blobs.h5", blobs, dense=dense)
    out = _succeeds("blobs.h5", "--n-clusters", 3, *SHORT)
    assert "ARI" in out
    adata = _check_files("blobs_sctag.h5ad")
    assert adata.obs_names.tolist() == blobs.obs_names.tolist()


def test_original_layout_needs_no_labels(blobs):
    _write_original("blobs.h5", blobs, labels=False)
    assert "ARI" not in _succeeds("blobs.h5", *SHORT)
    _check_files("blobs_sctag.h5ad")


def test_labels_of_other_layouts_are_not_scored_unasked(blobs):
    blobs.obs["cell_type1"] = blobs.obs["bulk_labels"] = blobs.obs["group"]
    blobs.write_h5ad("blobs.h5ad")
    assert "ARI" not in _succeeds("blobs.h5ad", "--n-clusters", 3, *SHORT)


def test_plain_x_y_layout(blobs):
    with h5py.File("plain.h5", "w") as file:
        file["X"] = blobs.X.toarray()
        file["Y"] = blobs.obs["group"].cat.codes.to_numpy()
    assert "ARI" in _succeeds("plain.h5", "--label-key", "Y", "--n-clusters", 3, *SHORT)
    _check_files("plain_sctag.h5ad")


def test_counts_in_a_layer(blobs):
    blobs.layers["raw"] = blobs.X.copy()
    sc.pp.normalize_total(blobs, target_sum=1e4)
    sc.pp.log1p(blobs)
    blobs.write_h5ad("logged.h5ad")
    said = _fails("logged.h5ad", *SHORT)
    assert said.endswith("or name their layer with `--layer`. `--no-check-values` skips this check.\n")
    assert "check_values" not in said
    out = _run("logged.h5ad", "--layer", "raw", "--n-clusters", 3, *SHORT)
    assert out.exit_code == 0, out.output
    adata = _check_files("logged_sctag.h5ad")
    assert (adata.layers["counts"] != blobs.layers["raw"]).nnz == 0
    np.testing.assert_allclose(adata.X.toarray(), blobs.X.toarray(), rtol=1e-5)
    assert "already log-transformed" not in out.output


def test_another_layer_named_counts_is_kept(blobs):
    blobs.layers["mine"], blobs.layers["counts"] = blobs.X.copy(), blobs.X * 2
    blobs.write_h5ad("two.h5ad")
    out = _run("two.h5ad", "--layer", "mine", "--n-clusters", 3, *SHORT)
    assert out.exit_code == 0, out.output
    adata = anndata.read_h5ad("two_sctag.h5ad")
    assert adata.uns["sctag"]["params"]["counts"] == "mine"
    assert (adata.layers["counts"] != blobs.layers["counts"]).nnz == 0
    assert (adata.layers["mine"] != blobs.layers["mine"]).nnz == 0


def test_corrected_counts_that_are_all_small(blobs):
    blobs.X = blobs.X.multiply(0.5 * 19 / blobs.X.max()).tocsr()
    blobs.write_h5ad("low.h5ad")
    assert "`--no-check-values` skips this check" in _fails("low.h5ad", *SHORT)
    _succeeds("low.h5ad", "--no-check-values", "--n-clusters", 3, *SHORT)


def test_more_genes_wanted_than_vary_is_nothing_to_warn_of(blobs):
    x = blobs.X.toarray()
    x[:, :20] = 0
    blobs.X = x
    blobs.write_h5ad("few.h5ad")
    out = _run("few.h5ad", "--n-clusters", 3, *SHORT)
    assert (out.exit_code, out.stderr) == (0, "")


def test_counts_in_raw(blobs):
    blobs.raw = blobs.copy()
    sc.pp.log1p(blobs)
    blobs.write_h5ad("raw.h5ad")
    said = _fails("raw.h5ad", *SHORT)
    assert "adata.raw holds counts of the same cells: in Python, `adata.raw.to_adata().write_h5ad(" in said
    assert "check_values" not in said


def test_cells_without_counts_are_left_out_and_said(blobs):
    x = blobs.X.toarray()
    x[[3, 77]] = 0
    blobs.X = x
    blobs.write_h5ad("holes.h5ad")
    result = _run("holes.h5ad", "--n-clusters", 3, *SHORT)
    assert result.exit_code == 0, result.output
    assert result.stderr == "Warning: 2 cells without any count are left out.\n"
    _check_files("holes_sctag.h5ad", n_obs=148)


def test_result_can_be_run_again(data):
    _succeeds(data, "--n-clusters", 3, "--out", "first.h5ad", *SHORT)
    result = _run("first.h5ad", "--n-clusters", 2, "--key", "second", "--out", "second.h5ad", *SHORT)
    assert result.exit_code == 0, result.output
    assert {"sctag", "second"} <= set(_check_files("second.h5ad", key="second").obs)


# --- failures ---


def test_a_plot_that_fails_does_not_cost_the_result(data, monkeypatch):
    def fail(*_, **__):
        msg = "cannot draw this"
        raise ValueError(msg)

    monkeypatch.setattr("sctag_tools.pl.embedding", fail)
    result = _run(data, "--n-clusters", 3, *SHORT)
    assert result.exit_code == 1
    assert "cannot draw this" in result.stderr
    assert "sctag" in anndata.read_h5ad("blobs_sctag.h5ad").obs


def test_missing_file():
    assert "nowhere.h5ad does not exist" in _fails("nowhere.h5ad")


def test_foreign_file():
    Path("picture.png").write_bytes(PNG + bytes(100))
    assert "picture.png is in none of the readable formats" in _fails("picture.png")


def test_damaged_file(data):
    data.write_bytes(data.read_bytes()[:2000])
    assert "blobs.h5ad" in _fails(data)


def test_what_to_install_is_said(monkeypatch):
    with h5py.File("a.loom", "w") as file:
        file["matrix"] = np.ones((2, 3))
        for group in ("row_attrs", "col_attrs"):
            file.create_group(group)
    monkeypatch.setitem(sys.modules, "loompy", None)
    assert _fails("a.loom").endswith("pip install loompy\n")


def test_h5_without_exprs(blobs):
    with h5py.File("odd.h5", "w") as file:
        file["matrix_of_mine"] = blobs.X.toarray()
    error = _fails("odd.h5")
    assert "'matrix_of_mine'" in error
    assert "expected 'exprs'" in error


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--label-key", "none"], "--label-key 'none' is no column of obs; there are ['group']"),
        (["--layer", "none"], "--layer 'none' is not in adata.layers"),
        (["--out", "result.csv"], "--out must end in .h5ad"),
        (["--out", "nowhere/result.h5ad"], "folder of --out does not exist"),
        (["--key", "sctag_neighbors"], "sctag_neighbors"),
    ],
    ids=str,
)
def test_wrong_options(data, options, match):
    assert match in _fails(data, *options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--n-clusters", 151], "--n-clusters 151 exceeds the 150 cells"),
        (["--n-clusters", 0], "--n-clusters must be at least 1"),
        (["--n-neighbors", 1], "--n-neighbors must be at least 2"),
        (["--devices", 0], "--devices must be at least 1"),
        (["--devices", 151], "--devices 151 cannot share batches of 150 cells"),
        (["--preset", "paper"], "cannot choose the number of clusters; give --n-clusters"),
        (["--preset", "paper", "--n-clusters", 3, "--devices", 2], "runs in one process"),
        (["--preset", "paper", "--n-clusters", 3, "--save-model", "new"], "makes no model"),
        (["--resolution", 0], "--resolution must lie in"),
        (["--pretrain-epochs", -1], "--pretrain-epochs must be at least 0"),
        (["--maxiter", -1], "--maxiter must be at least 0"),
        (["--preset", "papr"], "--preset must be one of"),
        (["--accelerator", "tpu"], "--accelerator must be one of"),
        (["--accelerator", "mps"], "was asked for, but torch finds none"),
        (["--precision", "16"], "--precision must be one of"),
        (["--batch-key", "donor"], "--batch-key 'donor' is no column"),
        (["--key", ""], "--key must be a non-empty string"),
        (["--key", "group"], "adata holds something else under 'group'"),
        (["--save-model", "."], "is not empty"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_before_the_work_begins(data, options, match, monkeypatch):
    def worked(*_args, **_kwargs):
        raise AssertionError

    monkeypatch.setattr(sc.pp, "normalize_total", worked)
    assert match in _fails(data, *options)


@pytest.mark.parametrize(
    "options",
    [
        ["--n-clusters", "three"],
        ["--maxiter", "1.5"],
        ["--highly-genes", "0"],
        ["--nonsense"],
        ["--seed", "x"],
        ["--seed", "-1"],
    ],
    ids=str,
)
def test_wrong_types_are_usage_errors(data, options):
    assert options[0] in _fails(data, *options, status=2)


@pytest.mark.parametrize(("value", "match"), [(-1.0, "negative values"), (np.nan, "NaN or infinite")])
def test_impossible_counts(blobs, value, match):
    blobs.X.data[5] = value
    blobs.write_h5ad("bad.h5ad")
    assert match in _fails("bad.h5ad", *SHORT)


def test_one_cell(blobs):
    blobs[:1].copy().write_h5ad("one.h5ad")
    assert "at least 2 cells" in _fails("one.h5ad")


def test_messages_name_the_options_of_the_command():
    said = "n_clusters=3 and `layer=` or `key_added`; a layer, 'batch_key', batch_keys, obs['resolution']"
    meant = "--n-clusters 3 and --layer or --key; a layer, 'batch_key', batch_keys, obs['resolution']"
    assert _in_options(said) == meant


def test_every_named_option_exists():
    commands = (get_command(app).commands[name] for name in ("run", "map"))
    declared = {option for command in commands for parameter in command.params for option in parameter.opts}
    assert set(_OPTIONS.values()) <= declared


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "sctag_tools", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == version("sctag-tools")


def test_help_and_version():
    result = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    for option in ("--highly-genes", "--highly_genes", "--pretrain-epochs", "--maxiter", "--n-clusters", "--label-key",
                   "--seed", "--key", "--out"):  # fmt: skip
        assert option in result.stdout
    assert CliRunner().invoke(app, ["--version"]).stdout.strip() == version("sctag-tools")


def test_batches_and_resolution(data, blobs):
    blobs.obs["donor"] = np.tile(["a", "b"], 75)
    blobs.write_h5ad("donors.h5ad")
    _succeeds("donors.h5ad", "--batch-key", "donor", "--resolution", 0.5, *SHORT)
    adata = _check_files("donors_sctag.h5ad")
    assert adata.uns["sctag"]["params"]["batch_key"] == adata.uns["sctag_neighbors"]["params"]["batch_key"] == "donor"
    assert adata.uns["sctag"]["params"]["resolution"] == 0.5


# --- a model on disk: map, score, info ---


def _invoke(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture
def model(blobs: AnnData) -> Path:
    blobs[:120].write_h5ad("reference.h5ad")
    blobs[120:].write_h5ad("query.h5ad")
    _succeeds("reference.h5ad", "--n-clusters", 3, "--save-model", "model", *SHORT)
    return Path("model")


def test_run_saves_a_model_that_map_places_cells_with(model):
    done = _invoke("map", "query.h5ad", "--model", model, "--label-key", "group")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    assert "wrote query_mapped.h5ad" in done.stdout
    assert "ARI" in done.stdout
    mapped = anndata.read_h5ad("query_mapped.h5ad")
    query = anndata.read_h5ad("query.h5ad")
    sctag.tl.map_query(query, "model")
    np.testing.assert_array_equal(mapped.obs["sctag"], query.obs["sctag"])
    np.testing.assert_array_equal(mapped.obs["sctag_novelty"], query.obs["sctag_novelty"])


def test_map_of_a_table_with_genes_in_rows(model):
    query = anndata.read_h5ad("query.h5ad")
    query.to_df().astype(int).T.to_csv("query.csv")
    done = _invoke("map", "query.csv", "--model", model)
    assert done.exit_code == 1
    assert "rows are named like the model's genes: turn a table with `--transpose`.\n" in done.stderr
    for path, options in (("query.h5ad", []), ("query.csv", ["--transpose"])):
        done = _invoke("map", path, *options, "--model", model, "--out", f"{path}_mapped.h5ad")
        assert done.exit_code == 0, done.output
    turned, asked = (anndata.read_h5ad(f"query.{suffix}_mapped.h5ad") for suffix in ("csv", "h5ad"))
    assert turned.obs["sctag"].tolist() == asked.obs["sctag"].tolist()
    np.testing.assert_array_equal(turned.obsm["X_sctag"], asked.obsm["X_sctag"])


def test_score_prints_what_run_prints(data):
    said = _succeeds(data, "--n-clusters", 3, "--label-key", "group", *SHORT)
    done = _invoke("score", "blobs_sctag.h5ad", "--label-key", "group")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() in said


def test_info_prints_the_record(model):
    done = _invoke("info", model)
    assert done.exit_code == 0, done.output
    assert "3 clusters of 120 cells" in done.stdout
    assert "random_state = 0" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["map", "query.h5ad", "--model", "nowhere"], "There is no model in nowhere"),
        (["map", "query.h5ad", "--model", "model", "--out", "query.h5ad"], "is the input file"),
        (["map", "query.h5ad", "--model", "model", "--label-key", "no"], "is no column of obs"),
        (["score", "query.h5ad", "--label-key", "group"], "sctag"),
        (["info", "nowhere"], "There is no model in nowhere"),
        (["run", "reference.h5ad", "--save-model", "model"], "is not empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said_in_a_line(model, arguments, said):
    before = set(Path().rglob("*"))
    done = _invoke(*arguments)
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert set(Path().rglob("*")) == before
