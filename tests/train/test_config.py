"""The options of a run: each is checked, unknown ones get a suggestion, and what is recorded builds the same again."""

import json
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

from sctag_tools.train.config import Config, options_of

WRONG = {
    "n_clusters": (0, 301, 3.0), "resolution": (0,), "n_networks": (0,), "n_hops": (-1, 1.5, None), "n_latent": (0,),
    "n_hidden": (True,), "likelihood": ("poisson",), "batch_size": (1,), "mask_rate": (1.0, "0.8"),
    "count_weight": (-0.1,), "graph_weight": (float("inf"),), "cluster_weight": (None,),
    "learning_rate": (float("nan"), 10**400), "pretrain_epochs": (-1,), "cluster_epochs": (2.0,),
    "accelerator": ("tpu",), "devices": (0,), "precision": ("16",), "random_state": (-1, 2**32, 1.0),
    "progress_bar": (1,),
}  # fmt: skip


@pytest.mark.parametrize("option", [option.name for option in fields(Config)])
def test_options_out_of_range_are_named(option):
    for value in (*WRONG[option], object()):
        with pytest.raises((TypeError, ValueError), match=option):
            Config(**{option: value})


def test_every_option_is_described_and_in_one_group():
    assert all(option.metadata["text"].endswith(".") for option in fields(Config))
    groups = [options_of(group) for group in ("clustering", "model", "training", "runtime")]
    assert [option.name for group in groups for option in group] == [option.name for option in fields(Config)]


def test_unknown_options_get_a_suggestion():
    with pytest.raises(TypeError, match=r"sctag\.tl\.sctag has no option 'n_cluster'; did you mean 'n_clusters'\?"):
        Config.from_options("sctag.tl.sctag", ("clustering", "model"), {"n_cluster": 3})
    with pytest.raises(TypeError, match=r"f has no option 'nonsense'\.$"):
        Config.from_options("f", ("model",), {"nonsense": 3})
    with pytest.raises(TypeError, match="has no option 'devices'"):  # of another group
        Config.from_options("f", ("model",), {"devices": 1})
    assert Config.from_options("f", ("model",), {"n_hops": 2}, Config(n_hidden=9)) == Config(n_hops=2, n_hidden=9)


def test_a_config_is_frozen_and_checked_when_it_is_replaced():
    with pytest.raises(FrozenInstanceError):
        Config().n_hops = 2
    with pytest.raises(ValueError, match="n_hops"):
        replace(Config(), n_hops=-1)


def test_what_is_recorded_is_json_and_builds_the_same():
    config = Config(n_clusters=np.int64(4), mask_rate=np.float32(0.5), progress_bar=np.bool_(False), random_state=None)
    record = json.loads(json.dumps(config.record()))
    assert record["n_clusters"] == 4
    assert not record.keys() & {"progress_bar", "pretrain_epochs"}
    assert replace(Config(**record), progress_bar=False) == config
    assert Config(random_state=None) != config, "the seed was not drawn"


def test_the_graph_decoder_needs_one_process():
    with pytest.raises(ValueError, match="devices=1, or graph_weight=0"):
        Config(devices=2, graph_weight=0.1)


@pytest.mark.parametrize(
    ("options", "n_obs", "match"),
    [
        ({}, 1, "at least 2 cells"),
        ({"n_clusters": 6}, 5, "n_clusters=6 exceeds the 5 cells"),
        ({"devices": 6}, 5, "minibatches of 5 cells"),
        ({"devices": 3, "batch_size": 2}, 50, "minibatches of 2 cells"),
    ],
)
def test_too_few_cells_for_the_options(options, n_obs, match):
    with pytest.raises(ValueError, match=match):
        Config(**options).check_cells(n_obs)


def test_as_many_cells_as_clusters_and_processes_are_enough():
    Config(n_clusters=6, devices=6).check_cells(6)
