"""The options of the command: all of Config's, under its names, with one text each; and messages about them."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from dataclasses import asdict, fields
from importlib.metadata import version
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from sctag_tools import cli
from sctag_tools.cli._report import plain_messages
from sctag_tools.train.config import Config

EVERY_OPTION = {
    "n_clusters": 5, "resolution": 2.5, "n_networks": 2, "n_hops": 2, "n_hidden": 32, "n_latent": 8,
    "likelihood": "zinb", "mask_rate": 0.5, "count_weight": 2.0, "graph_weight": 0.5, "cluster_weight": 0.1,
    "learning_rate": 0.01, "batch_size": 64, "pretrain_epochs": 0, "cluster_epochs": 7, "accelerator": "cpu",
    "devices": 1, "precision": "bf16-mixed", "random_state": 12,
}  # fmt: skip


def _parse(*arguments: object) -> dict[str, Any]:
    """The parameters that ``sctag run`` receives."""
    app = get_command(cli.app)
    parent = app.make_context("sctag", ["run"])
    return app.commands["run"].make_context("run", [*map(str, arguments)], parent=parent).params


def _config(parameters: dict[str, Any]) -> Config:
    return Config(**{one.name: parameters[one.name] for one in fields(Config) if one.name in parameters})


def test_every_option_of_a_run_is_offered_with_its_default():
    assert set(EVERY_OPTION) == {one.name for one in fields(Config)} - {"progress_bar"}
    assert _config(_parse()) == Config()


@pytest.mark.parametrize("dashed", [True, False])
def test_every_option_is_taken_in_both_spellings(dashed):
    names = {name: name.replace("_", "-") if dashed else name for name in EVERY_OPTION}
    found = _config(_parse(*(text for name, value in EVERY_OPTION.items() for text in (f"--{names[name]}", value))))
    assert asdict(found) == {**asdict(Config()), **EVERY_OPTION}


def test_the_names_of_the_original_and_the_old_ones_stay():
    new = ["--n-top-genes", 500, "--pretrain-epochs", 1000, "--cluster-epochs", 300, "--random-state", 1]
    old = ["--highly_genes", 500, "--pretrain_epochs", 1000, "--maxiter", 300, "--seed", 1]
    assert _parse("my_data.h5", *new, "--key-added", "a_b", "--save", "c_d") == _parse(
        "my_data.h5", *old, "--key", "a_b", "--save-model", "c_d"
    )
    assert _parse("my_data.h5", *old)["n_top_genes"] == 500
    assert str(_parse("my_data.h5")["data"]) == "my_data.h5"


@pytest.mark.parametrize(
    "options",
    [
        ["--n-clusters", "three"], ["--n-clusters", "0"], ["--cluster-epochs", "1.5"], ["--cluster-epochs", "-1"],
        ["--pretrain-epochs", "-1"], ["--n-top-genes", "0"], ["--n-neighbors", "1"], ["--devices", "0"],
        ["--resolution", "0"], ["--mask-rate", "1"], ["--random-state", "x"], ["--preset", "papr"],
        ["--accelerator", "tpu"], ["--precision", "16"], ["--likelihood", "poisson"], ["--nonsense"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_values_out_of_range_are_usage_errors(command, options):
    assert options[0] in command.fails("run", *options, status=2)


@pytest.mark.parametrize("name", ["", "run", "map", "score", "info"])
def test_help_fits_a_terminal(name):
    shown = CliRunner().invoke(cli.app, f"{name} --help", env={"COLUMNS": "80", "TERM": "dumb"}).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "``" not in shown
    assert ":func:" not in shown
    if name == "run":
        panels = re.findall(r"^╭─ (\w+) ─", shown, re.MULTILINE)
        assert panels == ["Arguments", "Options", "Input", "Clustering", "Model", "Training", "Runtime", "Output"]
        for option in [*EVERY_OPTION, "n_top_genes", "no_check_values", "key_added", "save", "out", "quiet"]:
            assert f"--{option.replace('_', '-')} " in shown
        for text in ("./DATA_sctag.h5ad", "--maxiter for", "[default: 0.002]", "x>=1", "zinb", "draws the evidence"):
            assert text in shown


def test_version_and_the_package_as_a_module(command):
    module = [sys.executable, "-m", "sctag_tools", "--version"]
    done = subprocess.run(module, capture_output=True, text=True, check=True)
    assert done.stdout == command.succeeds("--version") == version("sctag-tools") + "\n"


# --- messages ---


def test_a_warning_is_one_line(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with plain_messages():
            warnings.warn("mind the gap", UserWarning, stacklevel=1)
    assert capsys.readouterr() == ("", "Warning: mind the gap\n")


def test_an_error_is_one_line_with_its_notes(capsys):
    error = KeyError("there is no 'a'")
    error.add_note("pip install a")
    with pytest.raises(typer.Exit) as caught, plain_messages():
        raise error
    assert caught.value.exit_code == 1
    assert capsys.readouterr() == ("", "Error: there is no 'a' pip install a\n")


def test_a_fault_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError), plain_messages():
        1 / 0  # noqa: B018
