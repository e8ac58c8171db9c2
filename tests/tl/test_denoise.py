"""``sctag.tl.denoise``: expected counts of training cells and of new ones, and where they are written."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse

import sctag_tools as sctag

LAYER = "sctag_denoised"


@pytest.fixture(scope="module")
def _zinb_once(_graphed_once):
    adata = _graphed_once.copy()
    sctag.tl.sctag(adata, 3, likelihood="zinb", pretrain_epochs=3, cluster_epochs=2, progress_bar=False)
    return adata


@pytest.fixture(params=["multinomial", "zinb"])
def either(request, _clustered_once, _zinb_once):
    """A result of either likelihood."""
    return {"multinomial": _clustered_once, "zinb": _zinb_once}[request.param].copy()


@pytest.fixture
def zinb(_zinb_once):
    return _zinb_once.copy()


def denoised(adata, *args, **options):
    return sctag.tl.denoise(adata, *args, copy=True, **options).layers[options.get("layer_added", LAYER)]


def by_hand(adata, what="shares"):
    """Mean over the networks of the softmax (or, of dropout, sigmoid) of what their decoders give, in float64."""
    trained = sctag.ScTAG.from_anndata(adata).trained.fitted
    found = []
    for network in range(trained.config.n_networks):
        own = f"networks.{network}.decoder."
        w = {k.removeprefix(own): v.astype(float) for k, v in trained.weights.items() if k.startswith(own)}
        hidden = np.maximum(trained.reference.latents[:, network] @ w["hidden.weight"].T + w["hidden.bias"], 0)
        layer = {"multinomial": "logit", "zinb": "log_mean"}[trained.config.likelihood]
        layer = "dropout_logit" if what == "dropout" else layer
        out = hidden @ w[f"{layer}.weight"].T + w[f"{layer}.bias"]
        e = np.exp(out - out.max(axis=1, keepdims=True))
        found.append(1 / (1 + np.exp(-out)) if what == "dropout" else e / e.sum(axis=1, keepdims=True))
    return np.mean(found, axis=0)


# --- what is written ---


def test_writes_one_layer_and_nothing_else(either, same):
    before = either.copy()
    assert sctag.tl.denoise(either) is None
    layer = either.layers.pop(LAYER)
    assert type(layer) is np.ndarray
    assert layer.dtype == np.float32
    assert layer.shape == either.shape
    assert (layer > 0).all()
    same(before, either)


def test_is_the_softmax_mean_brought_to_the_depth(either):
    depth = np.asarray(either.X.sum(axis=1)).ravel()
    layer = denoised(either)
    np.testing.assert_allclose(layer.sum(axis=1), depth, rtol=1e-4)
    np.testing.assert_allclose(layer, by_hand(either) * depth[:, None], rtol=1e-4)


@pytest.mark.parametrize("target_sum", [1, 1e4, np.float32(500)])
def test_target_sum(either, target_sum):
    layer = denoised(either, target_sum=target_sum)
    np.testing.assert_allclose(layer.sum(axis=1), target_sum, rtol=1e-4)
    np.testing.assert_allclose(layer, by_hand(either) * float(target_sum), rtol=1e-4)


def test_genes_that_are_named_are_those_columns_of_the_whole(either):
    whole = denoised(either)
    genes = ["x100", "x3", "x57"]
    some = denoised(either, genes=genes)
    columns = [100, 3, 57]
    np.testing.assert_array_equal(some[:, columns], whole[:, columns])
    assert np.isnan(np.delete(some, columns, axis=1)).all()
    np.testing.assert_array_equal(denoised(either, genes=np.array(genes)), some)


def test_genes_that_the_model_does_not_know_are_nan(graphed, short):
    mask = np.arange(120) % 3 == 0
    sctag.tl.sctag(graphed, 3, mask_var=mask, **short)
    layer = denoised(graphed)
    assert np.isnan(layer[:, ~mask]).all()
    depth = np.asarray(graphed.X[:, mask].sum(axis=1)).ravel()  # in the genes of the model
    np.testing.assert_allclose(layer[:, mask].sum(axis=1), depth, rtol=1e-4)
    np.testing.assert_allclose(denoised(graphed, target_sum=7)[:, mask].sum(axis=1), 7, rtol=1e-4)
    with pytest.raises(KeyError, match="1 of the genes are not in the model, the first is 'x1'"):
        sctag.tl.denoise(graphed, genes=["x0", "x1"])


def test_denoised_profiles_are_those_of_the_groups(graphed):
    """The mean of a group is kept, and cells of one group grow alike."""
    sctag.tl.sctag(graphed, 3, pretrain_epochs=60, cluster_epochs=5, progress_bar=False)
    layer, x = denoised(graphed, target_sum=1), graphed.X.toarray()
    x = x / x.sum(axis=1, keepdims=True)
    for group in ("g0", "g1", "g2"):
        rows = (graphed.obs["group"] == group).to_numpy()
        assert np.corrcoef(layer[rows].mean(axis=0), x[rows].mean(axis=0))[0, 1] > 0.9
        assert layer[rows].std(axis=0).mean() < 0.7 * x[rows].std(axis=0).mean()


# --- dropout ---


def test_dropout_of_zinb(zinb):
    sctag.tl.denoise(zinb, dropout=True, genes=["x5", "x6"])
    layer = zinb.layers[f"{LAYER}_dropout"]
    assert layer.dtype == np.float32
    assert ((layer[:, 5:7] >= 0) & (layer[:, 5:7] <= 1)).all()
    assert np.isnan(np.delete(layer, [5, 6], axis=1)).all()
    np.testing.assert_allclose(layer[:, 5:7], by_hand(zinb, "dropout")[:, 5:7], rtol=1e-4)
    sctag.tl.denoise(zinb, dropout=True, layer_added="mine")
    np.testing.assert_allclose(zinb.layers["mine_dropout"], by_hand(zinb, "dropout"), rtol=1e-4)


def test_dropout_of_another_likelihood_is_refused(clustered, unchanged):
    match = r"no dropout probability; train one with .*likelihood='zinb'"
    with unchanged(clustered), pytest.raises(ValueError, match=match):
        sctag.tl.denoise(clustered, dropout=True)


# --- after subsetting, and other cells ---


def test_cells_and_genes_in_another_order_and_fewer_of_them(either):
    whole = denoised(either)
    rng = np.random.default_rng(0)
    cells, genes = rng.permutation(150)[:70], rng.permutation(120)[:40]
    part = denoised(either[cells, genes].copy())
    np.testing.assert_allclose(part, whole[np.ix_(cells, genes)], rtol=1e-5)
    np.testing.assert_allclose(denoised(either[cells].copy(), genes=["x9"])[:, 9], whole[cells, 9], rtol=1e-5)


def test_a_view_becomes_actual_with_one_warning(either, unchanged):
    whole, view = denoised(either), either[::2]
    with unchanged(either), pytest.warns(UserWarning, match="view") as caught:
        sctag.tl.denoise(view)
    assert [w.filename for w in caught] == [__file__]
    assert not view.is_view
    np.testing.assert_allclose(view.layers[LAYER], whole[::2], rtol=1e-5)


def test_copy_leaves_the_input(either, unchanged):
    view = either[::2]
    with unchanged(either), unchanged(view):
        assert LAYER in sctag.tl.denoise(view, copy=True).layers


def test_unknown_cells_are_named(clustered, blobs, unchanged):
    clustered.obs_names = ["new1", *clustered.obs_names[1:-1], "new2"]
    match = "2 cells were not among those .*the first is 'new1'.*`reference`"
    with unchanged(clustered), pytest.raises(KeyError, match=match):
        sctag.tl.denoise(clustered)


def test_a_layer_that_exists_is_kept(clustered, unchanged):
    clustered.layers["counts"] = clustered.X.copy()
    with unchanged(clustered), pytest.raises(ValueError, match=r"adata\.layers\['counts'\] exists; choose another"):
        sctag.tl.denoise(clustered, layer_added="counts")
    sctag.tl.denoise(clustered)
    sctag.tl.denoise(clustered)  # its own may be written again


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.filterwarnings("ignore:Some names of adata.var_names occur twice")
def test_names_that_occur_twice(graphed, short, unchanged):
    """All cells in their order can still be told apart, and some of them cannot."""
    graphed.obs_names = ["c1", *graphed.obs_names[1:]]
    graphed.var_names = ["x1", *graphed.var_names[1:]]
    sctag.tl.sctag(graphed, 3, **short)
    depth = np.asarray(graphed.X.sum(axis=1)).ravel()
    np.testing.assert_allclose(denoised(graphed), by_hand(graphed) * depth[:, None], rtol=1e-4)
    with pytest.raises(KeyError, match="denoise before subsetting"):
        sctag.tl.denoise(graphed[:20].copy())
    with unchanged(graphed), pytest.raises(ValueError, match="some names in the model occur twice"):
        sctag.tl.denoise(graphed, genes=["x1"])


def test_new_cells_are_placed_first(either, blobs, tmp_path):
    """As map_query places them; the depth is their own, in the genes of the model."""
    query, model = blobs[:20].copy(), sctag.ScTAG.from_anndata(either)
    query.obs_names = [f"new{i}" for i in range(20)]
    placed, _ = model.place(query)
    depth = np.asarray(query.X.sum(axis=1)).ravel()
    shares = model.trained.fitted.shares(placed.latents, np.zeros(20, dtype=np.int64))
    model.save(tmp_path / "model")
    for reference in (either, model, tmp_path / "model", str(tmp_path / "model")):
        np.testing.assert_allclose(denoised(query, reference), shares * depth[:, None], rtol=1e-4)
    np.testing.assert_allclose(denoised(query, either, target_sum=3).sum(axis=1), 3, rtol=1e-4)
    order = np.random.default_rng(0).permutation(120)
    np.testing.assert_allclose(denoised(query[:, order].copy(), either), (shares * depth[:, None])[:, order], rtol=2e-3)


@pytest.mark.filterwarnings("ignore:The genes of the model hold 100% of the query's counts")
def test_new_cells_without_some_genes(clustered, blobs):
    """Their depth is what it would be if all genes had been measured."""
    query = blobs[:, 30:].copy()
    query.obs_names = [f"new{i}" for i in range(150)]
    with pytest.warns(UserWarning, match="30 of the model's 120 genes"):
        sctag.tl.denoise(query, clustered)
    assert query.layers[LAYER].shape == (150, 90)
    expected, measured = query.layers[LAYER].sum(axis=1).mean(), np.asarray(query.X.sum(axis=1)).mean()
    assert expected == pytest.approx(measured, rel=0.1)
    assert np.isfinite(query.layers[LAYER]).all()


def test_the_counts_of_new_cells_are_read_as_in_mapping(clustered, blobs, unchanged):
    query = blobs[:20].copy()
    expected = denoised(query, clustered)
    query.layers["mine"], query.X = query.X.copy(), query.X * 2
    np.testing.assert_allclose(denoised(query, clustered, layer="mine"), expected, rtol=1e-5)
    query.X = np.log1p(query.X)
    with unchanged(query), pytest.raises(ValueError, match="looks log-normalised"):
        sctag.tl.denoise(query, clustered)
    query.X = sparse.csr_matrix(query.shape, dtype=np.float32)
    with unchanged(query), pytest.raises(ValueError, match="have no counts"):
        sctag.tl.denoise(query, clustered)


# --- batches ---


def test_batches_have_their_own_effect(blobs, short):
    """Training cells by the batch that they came from, new ones by theirs, unknown ones by the mean effect."""
    x = blobs.X.toarray()
    x[1::2, :40] *= 4
    blobs.X = sparse.csr_matrix(x)
    blobs.obs["donor"] = np.array(["a", "b"])[np.arange(150) % 2]
    sctag.pp.build_graph(blobs, batch_key="donor")
    sctag.tl.sctag(blobs, 3, batch_key="donor", **(short | {"pretrain_epochs": 20}))
    trained = sctag.ScTAG.from_anndata(blobs).trained.fitted
    latents, numbers = trained.reference.latents, np.arange(150) % 2
    np.testing.assert_array_equal(trained.reference.batches, numbers)
    np.testing.assert_allclose(denoised(blobs, target_sum=1), trained.shares(latents, numbers), rtol=1e-4)
    assert np.abs(trained.shares(latents, numbers) - trained.shares(latents, 1 - numbers)).max() > 1e-4
    logits = [
        [net.decoder(torch.from_numpy(latents[:, i]), torch.full((150,), number)) for number in range(2)]
        for i, net in enumerate(trained.networks())
    ]
    average = torch.stack([torch.stack(of_net).mean(dim=0).softmax(dim=1) for of_net in logits]).mean(dim=0)
    np.testing.assert_allclose(trained.shares(latents, np.full(150, -1)), average.detach().numpy(), rtol=1e-4)
    query = blobs[:20].copy()
    for names, batch in {("a",): 0, ("b",): 1, ("c",): -1}.items():
        query.obs["donor"] = names[0]
        placed, _ = sctag.ScTAG.from_anndata(blobs).place(query)
        expected = trained.shares(placed.latents, np.full(20, batch))
        np.testing.assert_allclose(denoised(query, blobs, target_sum=1), expected, rtol=1e-4)


# --- names and what is refused ---


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_cells_of_two_sets_with_the_same_names(clustered, unchanged):
    """The second set's cells would get what the first's have."""
    doubled = ad.concat([clustered, clustered], uns_merge="first")
    with unchanged(doubled), pytest.raises(KeyError, match=r"some names in adata\.obs_names occur twice"):
        sctag.tl.denoise(doubled)


def test_layers_of_several_results_side_by_side(clustered, zinb, same):
    clustered.uns["other"] = zinb.uns["sctag"]
    sctag.tl.denoise(clustered)
    first = clustered.layers[LAYER].copy()
    sctag.tl.denoise(clustered, key="other")
    sctag.tl.denoise(clustered, target_sum=1, layer_added="shares")
    assert set(clustered.layers) == {LAYER, "other_denoised", "shares"}
    np.testing.assert_array_equal(clustered.layers[LAYER], first)
    np.testing.assert_allclose(clustered.layers["other_denoised"], denoised(zinb), rtol=1e-5)
    assert np.abs(clustered.layers["other_denoised"] - first).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"key": "other"}, KeyError, "no scTAG result 'other'"),
        ({"key": 3}, TypeError, "key must be a non-empty string"),
        ({"target_sum": 0}, ValueError, "target_sum must lie in"),
        ({"target_sum": -1}, ValueError, "target_sum must lie in"),
        ({"target_sum": np.nan}, ValueError, "target_sum must lie in"),
        ({"target_sum": "1e4"}, TypeError, "target_sum must be a number"),
        ({"genes": "x1"}, TypeError, "genes must be a list of names, got the string 'x1'"),
        ({"genes": ["x1", "y"]}, KeyError, "1 of the genes are not in the model, the first is 'y'"),
        ({"dropout": 1}, TypeError, "dropout must be True or False"),
        ({"copy": "no"}, TypeError, "copy must be True or False"),
        ({"check_values": 0}, TypeError, "check_values must be True or False"),
        ({"layer_added": ""}, TypeError, "layer_added must be a non-empty string"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(clustered, unchanged, options, error, match):
    with unchanged(clustered), pytest.raises(error, match=match):
        sctag.tl.denoise(clustered, **options)


def test_a_gene_that_only_the_model_has(clustered, unchanged):
    part = clustered[:, :50].copy()
    with unchanged(part), pytest.raises(KeyError, match=r"not in adata\.var_names, the first is 'x70'"):
        sctag.tl.denoise(part, genes=["x3", "x70"])


def test_results_without_a_model(graphed, short, unchanged):
    sctag.tl.sctag(graphed, 3, store_model=False, **short)
    with unchanged(graphed), pytest.raises(KeyError, match=r"made without its model .*give the folder"):
        sctag.tl.denoise(graphed)


def test_no_anndata():
    with pytest.raises(TypeError, match=r"sctag\.tl\.denoise needs an AnnData"):
        sctag.tl.denoise(np.ones((3, 3)))


def test_the_users_random_states_neither_matter_nor_move(either):
    import torch

    before = denoised(either)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    states = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    np.testing.assert_array_equal(denoised(either), before)
    np.testing.assert_array_equal(np.random.get_state()[1], states[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[1])
