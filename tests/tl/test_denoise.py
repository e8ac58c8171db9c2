"""``sctag.tl.denoise``: expected counts of training cells and of new ones, and where they are written."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import sctag_tools as sctag

LAYER = "sctag_denoised"


@pytest.fixture(scope="module")
def _zinb_once(_graphed_once):
    adata = _graphed_once.copy()
    sctag.tl.sctag(adata, 3, likelihood="zinb", pretrain_epochs=3, cluster_epochs=2, progress_bar=False)
    return adata


@pytest.fixture
def zinb(_zinb_once):
    return _zinb_once.copy()


def denoised(adata, *args, **options):
    return sctag.tl.denoise(adata, *args, copy=True, **options).layers[options.get("layer_added", LAYER)]


def depth_of(adata):
    return np.asarray(adata.X.sum(axis=1)).ravel()


def proportions(adata):
    """Expected share of each gene in the counts of each training cell (checked in tests/mapping)."""
    model = sctag.ScTAG.from_anndata(adata).reference
    return model.expected_proportions(model.cells.latents, model.cells.batch_index)


# --- what is written ---


@pytest.mark.parametrize("likelihood", ["multinomial", "zinb"])
def test_writes_expected_counts_in_one_layer_and_nothing_else(clustered, zinb, same, own_random_states, likelihood):
    adata = zinb if likelihood == "zinb" else clustered
    before = adata.copy()
    with own_random_states():
        assert sctag.tl.denoise(adata) is None
    layer = adata.layers.pop(LAYER)
    assert type(layer) is np.ndarray
    assert layer.dtype == np.float32
    assert layer.shape == adata.shape
    np.testing.assert_allclose(layer.sum(axis=1), depth_of(adata), rtol=1e-4)
    np.testing.assert_allclose(layer, proportions(adata) * depth_of(adata)[:, None], rtol=1e-4)
    same(before, adata)


@pytest.mark.parametrize("target_sum", [1, 1e4, np.float32(500)])
def test_target_sum(clustered, target_sum):
    np.testing.assert_allclose(
        denoised(clustered, target_sum=target_sum), proportions(clustered) * float(target_sum), rtol=1e-4
    )


def test_genes_that_are_named_are_those_columns_of_the_whole(clustered):
    whole = denoised(clustered)
    genes = ["x100", "x3", "x57"]
    some = denoised(clustered, genes=genes)
    columns = [100, 3, 57]
    np.testing.assert_array_equal(some[:, columns], whole[:, columns])
    assert np.isnan(np.delete(some, columns, axis=1)).all()
    np.testing.assert_array_equal(denoised(clustered, genes=np.array(genes)), some)


def test_genes_that_the_model_does_not_know_are_nan(graphed, short):
    mask = np.arange(120) % 3 == 0
    sctag.tl.sctag(graphed, 3, mask_var=mask, **short)
    layer = denoised(graphed)
    assert np.isnan(layer[:, ~mask]).all()
    np.testing.assert_allclose(layer[:, mask].sum(axis=1), depth_of(graphed[:, mask]), rtol=1e-4)
    np.testing.assert_allclose(denoised(graphed, target_sum=7)[:, mask].sum(axis=1), 7, rtol=1e-4)
    with pytest.raises(KeyError, match="1 of the genes are not in the model, the first is 'x1'"):
        sctag.tl.denoise(graphed, genes=["x0", "x1"])


def test_denoised_profiles_are_those_of_the_groups(graphed):
    """The mean of a group is kept, and cells of one group grow alike."""
    sctag.tl.sctag(graphed, 3, n_networks=1, pretrain_epochs=60, cluster_epochs=0, progress_bar=False)
    layer, x = denoised(graphed, target_sum=1), graphed.X.toarray()
    x = x / x.sum(axis=1, keepdims=True)
    for group in ("g0", "g1", "g2"):
        rows = (graphed.obs["group"] == group).to_numpy()
        assert np.corrcoef(layer[rows].mean(axis=0), x[rows].mean(axis=0))[0, 1] > 0.9
        assert layer[rows].std(axis=0).mean() < 0.7 * x[rows].std(axis=0).mean()


def test_dropout_of_zinb_alone(zinb, clustered, unchanged):
    model = sctag.ScTAG.from_anndata(zinb).reference
    expected = model.dropout_probability(model.cells.latents, model.cells.batch_index)
    sctag.tl.denoise(zinb, dropout=True, genes=["x5", "x6"])
    layer = zinb.layers[f"{LAYER}_dropout"]
    assert layer.dtype == np.float32
    assert np.isnan(np.delete(layer, [5, 6], axis=1)).all()
    np.testing.assert_array_equal(layer[:, 5:7], expected[:, 5:7])
    sctag.tl.denoise(zinb, dropout=True, layer_added="mine")
    np.testing.assert_array_equal(zinb.layers["mine_dropout"], expected)
    match = r"no dropout probability; train one with .*likelihood='zinb'"
    with unchanged(clustered), pytest.raises(ValueError, match=match):
        sctag.tl.denoise(clustered, dropout=True)


# --- after subsetting ---


def test_cells_and_genes_in_another_order_and_fewer_of_them(clustered):
    whole = denoised(clustered)
    rng = np.random.default_rng(0)
    cells, genes = rng.permutation(150)[:70], rng.permutation(120)[:40]
    part = denoised(clustered[cells, genes].copy())
    np.testing.assert_allclose(part, whole[np.ix_(cells, genes)], rtol=1e-5)
    np.testing.assert_allclose(denoised(clustered[cells].copy(), genes=["x9"])[:, 9], whole[cells, 9], rtol=1e-5)


def test_a_view_becomes_actual_with_one_warning_and_a_copy_leaves_it(clustered, unchanged):
    whole, view = denoised(clustered), clustered[::2]
    with unchanged(clustered), unchanged(view):
        np.testing.assert_allclose(denoised(view), whole[::2], rtol=1e-5)
    with unchanged(clustered), pytest.warns(UserWarning, match="view") as caught:
        sctag.tl.denoise(view)
    assert [warning.filename for warning in caught] == [__file__]
    assert not view.is_view
    np.testing.assert_allclose(view.layers[LAYER], whole[::2], rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.filterwarnings("ignore:Some names in adata.var_names occur twice")
def test_names_that_occur_twice(graphed, short, unchanged):
    """All cells in their order can still be told apart, and some of them cannot."""
    graphed.obs_names = ["c1", *graphed.obs_names[1:]]
    graphed.var_names = ["x1", *graphed.var_names[1:]]
    sctag.tl.sctag(graphed, 3, **short)
    np.testing.assert_allclose(denoised(graphed), proportions(graphed) * depth_of(graphed)[:, None], rtol=1e-4)
    with pytest.raises(KeyError, match="call this before subsetting"):
        sctag.tl.denoise(graphed[:20].copy())
    with unchanged(graphed), pytest.raises(ValueError, match="some names in the model occur twice"):
        sctag.tl.denoise(graphed, genes=["x1"])


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_cells_that_the_model_does_not_know_or_cannot_tell_apart(clustered, unchanged):
    doubled = ad.concat([clustered, clustered], uns_merge="first")  # the second would get what the first has
    with unchanged(doubled), pytest.raises(KeyError, match=r"some names in adata\.obs_names occur twice"):
        sctag.tl.denoise(doubled)
    clustered.obs_names = ["new1", *clustered.obs_names[1:-1], "new2"]
    match = "2 cells were not among those .*the first is 'new1'.*`reference`"
    with unchanged(clustered), pytest.raises(KeyError, match=match):
        sctag.tl.denoise(clustered)


# --- new cells ---


def test_new_cells_are_placed_first(clustered, blobs, tmp_path):
    """As map_query places them; the depth is their own, in the genes of the model."""
    query, model = blobs[:20].copy(), sctag.ScTAG.from_anndata(clustered)
    query.obs_names = [f"new{i}" for i in range(20)]
    placed, _ = model.place(query)
    shares = model.reference.expected_proportions(placed.latents, np.zeros(20, dtype=np.int64))
    expected = shares * depth_of(query)[:, None]
    model.save(tmp_path / "model")
    for reference in (clustered, model, tmp_path / "model", str(tmp_path / "model")):
        np.testing.assert_allclose(denoised(query, reference), expected, rtol=1e-4)
    np.testing.assert_allclose(denoised(query, clustered, target_sum=3), 3 * shares, rtol=1e-4)
    order = np.random.default_rng(0).permutation(120)
    np.testing.assert_allclose(denoised(query[:, order].copy(), clustered), expected[:, order], rtol=2e-3)


@pytest.mark.filterwarnings("ignore:The genes of the model hold 100% of the query's counts")
def test_new_cells_without_some_genes(clustered, blobs):
    """Their depth is what it would be if all genes had been measured."""
    query = blobs[:, 30:].copy()
    with pytest.warns(UserWarning, match="30 of the model's 120 genes"):
        sctag.tl.denoise(query, clustered)
    assert query.layers[LAYER].shape == (150, 90)
    assert query.layers[LAYER].sum(axis=1).mean() == pytest.approx(depth_of(query).mean(), rel=0.1)
    assert np.isfinite(query.layers[LAYER]).all()


def test_the_counts_of_new_cells_are_read_as_in_mapping(clustered, blobs, unchanged):
    query = blobs[:20].copy()
    expected = denoised(query, clustered)
    query.layers["mine"], query.X = query.X.copy(), query.X * 2
    np.testing.assert_allclose(denoised(query, clustered, layer="mine"), expected, rtol=1e-5)
    query.X = np.log1p(query.X)
    with unchanged(query), pytest.raises(ValueError, match="looks log-normalized"):
        sctag.tl.denoise(query, clustered)
    query.X = sparse.csr_matrix(query.shape, dtype=np.float32)
    with unchanged(query), pytest.raises(ValueError, match="have no counts"):
        sctag.tl.denoise(query, clustered)


def test_batches_have_their_own_effect(blobs, short):
    """Training cells by the batch that they came from, new ones by theirs, unknown ones by the mean effect."""
    x = blobs.X.toarray()
    x[1::2, :40] *= 4
    blobs.X = sparse.csr_matrix(x)
    blobs.obs["donor"] = np.array(["a", "b"])[np.arange(150) % 2]
    sctag.pp.build_graph(blobs, batch_key="donor")
    sctag.tl.sctag(blobs, 3, batch_key="donor", **(short | {"n_networks": 2, "pretrain_epochs": 20}))
    model = sctag.ScTAG.from_anndata(blobs)
    decoded, latents, batches = model.reference.expected_proportions, model.reference.cells.latents, np.arange(150) % 2
    np.testing.assert_array_equal(model.reference.cells.batch_index, batches)
    np.testing.assert_allclose(denoised(blobs, target_sum=1), decoded(latents, batches), rtol=1e-4)
    assert np.abs(decoded(latents, batches) - decoded(latents, 1 - batches)).max() > 1e-4
    query = blobs[:20].copy()
    for name, batch in {"a": 0, "b": 1, "c": -1}.items():
        query.obs["donor"] = name
        placed, _ = model.place(query)
        expected = decoded(placed.latents, np.full(20, batch))
        np.testing.assert_allclose(denoised(query, blobs, target_sum=1), expected, rtol=1e-4)


# --- names and what is refused ---


def test_layers_of_several_results_side_by_side(clustered, zinb, unchanged):
    clustered.layers["counts"], clustered.uns["other"] = clustered.X.copy(), zinb.uns["sctag"]
    sctag.tl.denoise(clustered)
    first = clustered.layers[LAYER].copy()
    sctag.tl.denoise(clustered, key="other")
    sctag.tl.denoise(clustered, target_sum=1, layer_added="shares")
    assert set(clustered.layers) == {"counts", LAYER, "other_denoised", "shares"}
    np.testing.assert_array_equal(clustered.layers[LAYER], first)
    np.testing.assert_allclose(clustered.layers["other_denoised"], denoised(zinb), rtol=1e-5)
    assert np.abs(clustered.layers["other_denoised"] - first).max() > 1e-3
    sctag.tl.denoise(clustered, key="other")  # its own may be written again
    for taken in ("counts", "shares"):
        with unchanged(clustered), pytest.raises(ValueError, match=rf"layers\['{taken}'\] exists; choose another"):
            sctag.tl.denoise(clustered, layer_added=taken)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"key": "other"}, KeyError, "no scTAG result 'other'"),
        ({"key": 3}, TypeError, "key must be a non-empty string"),
        ({"target_sum": 0}, ValueError, "target_sum must lie in"),
        ({"target_sum": np.nan}, ValueError, "target_sum must lie in"),
        ({"target_sum": "1e4"}, TypeError, "target_sum must be a number"),
        ({"genes": "x1"}, TypeError, "genes must be a list of names, got the string 'x1'"),
        ({"genes": ["x1", "y"]}, KeyError, "1 of the genes are not in the model, the first is 'y'"),
        ({"genes": ["x3", "x70"]}, KeyError, r"not in adata\.var_names, the first is 'x70'"),
        ({"dropout": 1}, TypeError, "dropout must be True or False"),
        ({"copy": "no"}, TypeError, "copy must be True or False"),
        ({"check_values": 0}, TypeError, "check_values must be True or False"),
        ({"layer_added": ""}, TypeError, "layer_added must be a non-empty string"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(clustered, unchanged, options, error, match):
    part = clustered[:, :50].copy()
    with unchanged(part), pytest.raises(error, match=match):
        sctag.tl.denoise(part, **options)


def test_no_model(clustered, unchanged):
    del clustered.uns["sctag"]["model"]
    with unchanged(clustered), pytest.raises(KeyError, match=r"made without its model .*give the folder"):
        sctag.tl.denoise(clustered)
