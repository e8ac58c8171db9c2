"""``sctag.tl.map_query``: how a query is read, what is written, and that each cell is placed on its own."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from sklearn.metrics import roc_auc_score

import sctag_tools as sctag
from sctag_tools.mapping.placement import place_cells
from sctag_tools.mapping.reference import ReferenceModel

N_NEW = 40
LONGER = {"n_networks": 2, "pretrain_epochs": 60, "cluster_epochs": 15, "progress_bar": False}
OBS = ["", "_confidence", "_novelty"]


@pytest.fixture(scope="module")
def _reference_once(_blobs_once):
    """110 cells with a model that tells their groups apart."""
    adata = _blobs_once[:-N_NEW].copy()
    sctag.pp.build_graph(adata)
    sctag.tl.sctag(adata, 3, **LONGER)
    return adata


@pytest.fixture
def reference(_reference_once):
    return _reference_once.copy()


@pytest.fixture
def query(_blobs_once):
    return _blobs_once[-N_NEW:].copy()


@pytest.fixture(scope="module")
def placed(_blobs_once, _reference_once):
    """The query as it is mapped without any option."""
    return sctag.tl.map_query(_blobs_once[-N_NEW:].copy(), _reference_once, copy=True)


def assert_mapped_alike(a, b, tolerance=1e-4, key="sctag"):
    assert a.obs["sctag"].astype(str).tolist() == b.obs[key].astype(str).tolist()
    for end in OBS[1:]:
        np.testing.assert_allclose(a.obs[f"sctag{end}"], b.obs[f"{key}{end}"], tolerance, tolerance, err_msg=end)
    for name in ("X_{}", "{}_proba"):
        ours, theirs = a.obsm[name.format("sctag")], b.obsm[name.format(key)]
        np.testing.assert_allclose(ours, theirs, tolerance, tolerance, err_msg=name)


def assert_mapped_the_same(a, b, key="sctag"):
    assert_mapped_alike(a, b, 0, key)


# --- what is written ---


def test_writes_what_it_promises(reference, query, same, unchanged, drop_result, own_random_states, placed):
    before = query.copy()
    with unchanged(reference), own_random_states():
        assert sctag.tl.map_query(query, reference) is None
    assert_mapped_the_same(placed, query)
    latent, proba, labels = query.obsm["X_sctag"], query.obsm["sctag_proba"], query.obs["sctag"]
    assert type(latent) is type(proba) is np.ndarray
    assert latent.dtype == proba.dtype == np.float32
    assert latent.shape == (N_NEW, 15)
    assert proba.shape == (N_NEW, 3)
    assert np.isfinite(latent).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(labels.cat.codes, proba.argmax(axis=1))
    assert list(labels.cat.categories) == list(reference.obs["sctag"].cat.categories)
    assert query.obs["sctag_confidence"].dtype == query.obs["sctag_novelty"].dtype == np.float32
    assert query.obs["sctag_confidence"].between(0, 1).all()
    assert np.isfinite(query.obs["sctag_novelty"]).all()
    record = query.uns["sctag"]
    assert record["params"] == {"counts": "X", "n_genes": 120, "n_clusters": 3}
    assert record["mapped_to"] == reference.uns["sctag"]["params"]
    assert record["missing_genes"] == []
    assert set(record["versions"]) == {"sctag-tools"}
    drop_result(query)
    same(before, query)  # and nothing else


def test_reference_and_mapped_query_survive_files(reference, query, placed, tmp_path):
    reference.write_h5ad(tmp_path / "reference.h5ad")
    sctag.tl.map_query(query, anndata.read_h5ad(tmp_path / "reference.h5ad"))
    query.write_h5ad(tmp_path / "query.h5ad")
    assert_mapped_the_same(placed, anndata.read_h5ad(tmp_path / "query.h5ad"))


# --- what it finds ---


def test_cells_of_known_groups_join_them(reference, placed):
    of_group = reference.obs.groupby("group", observed=True)["sctag"].agg(lambda labels: labels.mode()[0])
    assert of_group.nunique() == 3, "the reference itself does not tell the groups apart"
    expected = placed.obs["group"].map(of_group).astype(str)
    assert (expected == placed.obs["sctag"].astype(str)).mean() > 0.95


def test_training_cells_come_out_nearly_where_they_were(reference):
    again = sctag.tl.map_query(reference, reference, key_added="again", copy=True)
    for axis in range(2):
        assert np.corrcoef(again.obsm["X_again"][:, axis], reference.obsm["X_sctag"][:, axis])[0, 1] > 0.97
    assert (again.obs["again"].astype(str) == reference.obs["sctag"].astype(str)).mean() > 0.97
    assert (again.obs["again_novelty"] > 1).mean() < 0.05


def test_a_group_that_was_left_out_is_new(blobs):
    known = np.flatnonzero(blobs.obs["group"] != "g1")
    reference = blobs[known[::2]].copy()
    sctag.pp.build_graph(reference)
    sctag.tl.sctag(reference, 2, **LONGER)
    query = blobs[np.setdiff1d(np.arange(150), known[::2])].copy()
    sctag.tl.map_query(query, reference)
    assert roc_auc_score(query.obs["group"] == "g1", query.obs["sctag_novelty"]) > 0.95


def test_neither_order_nor_company_matters(reference, query, placed):
    order = np.random.default_rng(0).permutation(N_NEW)
    shuffled, one, twice = query[order].copy(), query[5].copy(), anndata.concat([query, query], index_unique="-")
    for cells in (shuffled, one, twice):
        sctag.tl.map_query(cells, reference)
    assert_mapped_alike(placed[order], shuffled)
    assert_mapped_alike(placed[5], one)
    assert list(one.obs["sctag"].cat.categories) == ["0", "1", "2"]  # also those without a cell
    assert_mapped_alike(placed, twice[N_NEW:])


# --- which genes ---


def test_genes_in_another_order_and_others_beside_them(reference, query, placed):
    silent = AnnData(sparse.csr_matrix((N_NEW, 30), dtype=np.float32), obs=query.obs[[]])
    silent.var_names = [f"other{i}" for i in range(30)]
    order = np.random.default_rng(0).permutation(120)
    more = anndata.concat([silent, query[:, order]], axis=1, merge="same")
    sctag.tl.map_query(more, reference)
    assert_mapped_alike(placed, more)
    assert more.uns["sctag"]["params"]["n_genes"] == 120


def test_missing_genes_are_listed_with_one_warning(reference, query, placed):
    missing = [f"x{i}" for i in range(0, 120, 12)]
    fewer = query[:, [gene for gene in query.var_names if gene not in missing]].copy()
    with pytest.warns(UserWarning, match="10 of the model's 120 genes are not in the query") as caught:
        sctag.tl.map_query(fewer, reference)
    assert [warning.filename for warning in caught] == [__file__]
    assert fewer.uns["sctag"]["missing_genes"] == missing
    assert fewer.uns["sctag"]["params"]["n_genes"] == 110
    agree = fewer.obs["sctag"].astype(str).to_numpy() == placed.obs["sctag"].astype(str).to_numpy()
    assert agree.mean() > 0.9
    assert np.abs(fewer.obsm["X_sctag"] - placed.obsm["X_sctag"]).max() > 1e-4
    # each count is taken for the gene of its name
    known = ~query.var_names.isin(missing)
    totals = np.asarray(fewer.X.sum(axis=1), dtype=float).ravel()
    model = sctag.ScTAG.from_anndata(reference).reference
    by_hand = place_cells(model, query.X, totals, known, np.full(N_NEW, -1))
    np.testing.assert_allclose(fewer.obsm["X_sctag"], by_hand.latent, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The genes of the model hold 100% of the query's counts")
def test_half_of_the_genes_are_enough_and_fewer_are_not(reference, query, unchanged):
    half = query[:, ::2].copy()
    with pytest.warns(UserWarning, match="60 of the model's 120 genes"):
        sctag.tl.map_query(half, reference)
    fewer, other, renamed = query[:, 2::2].copy(), query[:, 2::2].copy(), query.copy()
    other.var_names = [*other.var_names[:-1], "x120"]
    renamed.var_names = [f"ENSG{i:05}" for i in range(120)]
    cases = [
        (fewer, r"Only 59 of .* to place its cells\. A query keeps all its genes"),  # no name that differs to show
        (other, r"Only 58 of .*Only the model has names like 'x0', only the query 'x120'\. A query keeps"),
        (renamed, r"Only 0 .*names like 'x0', only the query 'ENSG00000'"),
        (query.T.copy(), r"rows are named like the model's genes: transpose it, `adata\.T`"),
    ]
    for cells, match in cases:
        with unchanged(cells), pytest.raises(ValueError, match=match):
            sctag.tl.map_query(cells, reference)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_names_that_occur_twice_are_refused(reference, query, blobs, short, unchanged):
    doubled = query.copy()
    doubled.var_names = ["x1", *query.var_names[1:]]
    with unchanged(doubled), pytest.raises(ValueError, match=r"occur twice; call `adata\.var_names_make_unique"):
        sctag.tl.map_query(doubled, reference)
    blobs.var_names = doubled.var_names
    sctag.pp.build_graph(blobs)
    with pytest.warns(UserWarning, match="New cells cannot be mapped"):
        sctag.tl.sctag(blobs, 3, **short)
    with unchanged(query), pytest.raises(ValueError, match="the model was trained on names that occur twice"):
        sctag.tl.map_query(query, blobs)


def test_a_query_that_was_cut_to_the_genes_of_the_model(graphed, blobs):
    """Its totals are brought to what they were over all genes; said once."""
    mask = np.arange(120) % 2 == 0
    sctag.tl.sctag(graphed, 3, mask_var=mask, **LONGER)
    whole, cut = blobs.copy(), blobs[:, mask].copy()
    sctag.tl.map_query(whole, graphed)
    with pytest.warns(UserWarning, match=r"hold 100% of the query's counts and \d\d% of the reference's") as caught:
        sctag.tl.map_query(cut, graphed)
    assert [warning.filename for warning in caught] == [__file__]
    assert (whole.obs["sctag"].astype(str) == cut.obs["sctag"].astype(str)).mean() > 0.97
    for axis in range(2):
        assert np.corrcoef(whole.obsm["X_sctag"][:, axis], cut.obsm["X_sctag"][:, axis])[0, 1] > 0.98
    assert cut.uns["sctag"]["missing_genes"] == []
    with pytest.warns(UserWarning, match="hold 100%"):
        _, read = sctag.ScTAG.from_anndata(graphed).place(cut)
    np.testing.assert_allclose(read.totals.mean(), blobs.X.sum(axis=1).mean(), rtol=0.05)


# --- which counts ---


def test_every_format_gives_the_same(reference, query, placed, as_format):
    query.X = as_format(query.X)
    kept = type(query.X), query.X.dtype
    sctag.tl.map_query(query, reference)
    assert (type(query.X), query.X.dtype) == kept
    assert_mapped_the_same(placed, query)


def test_counts_come_from_the_layer_of_training_or_are_looked_for(reference, query, placed, unchanged):
    """The layer of training also where X holds counts that are other ones; a layer that is given comes first."""
    reference.uns["sctag"]["params"]["counts"] = "raw"
    query.layers["raw"], query.X = query.X.copy(), query.X * 3
    query.layers["mine"] = query.X * 2
    read = sctag.tl.map_query(query, reference, copy=True)
    assert read.uns["sctag"]["params"]["counts"] == "raw"
    assert_mapped_the_same(placed, read)
    query.layers["counts"] = query.layers.pop("raw")
    assert sctag.tl.map_query(query, reference, copy=True).uns["sctag"]["params"]["counts"] == "X"
    sc.pp.log1p(query)
    read = sctag.tl.map_query(query, reference, copy=True)
    assert read.uns["sctag"]["params"]["counts"] == "counts"
    assert_mapped_the_same(placed, read)
    read = sctag.tl.map_query(query, reference, layer="mine", copy=True)
    assert read.uns["sctag"]["params"]["counts"] == "mine"
    with unchanged(query), pytest.raises(KeyError, match="layer='none'"):
        sctag.tl.map_query(query, reference, layer="none")
    del query.layers["counts"]
    with unchanged(query), pytest.raises(ValueError, match="looks log-normalized"):
        sctag.tl.map_query(query, reference)
    sctag.tl.map_query(query, reference, check_values=False)
    assert np.isfinite(query.obsm["X_sctag"]).all()


@pytest.mark.filterwarnings("ignore:Transforming to str index")  # anndata 0.11 says it of an empty index
def test_cells_without_counts_and_no_cells_are_refused(reference, query, unchanged):
    x = query.X.toarray()
    x[[7, 9]] = 0
    query.X = sparse.csr_matrix(x)
    with unchanged(query), pytest.raises(ValueError, match=r"2 cells have no counts .*the first is row 7"):
        sctag.tl.map_query(query, reference)
    with pytest.raises(ValueError, match="The query holds no cells"):
        sctag.tl.map_query(query[:0].copy(), reference)


# --- which reference ---


def test_anndata_model_and_folder_give_the_same(reference, query, placed, tmp_path):
    model = sctag.ScTAG.from_anndata(reference)
    model.save(tmp_path / "model")
    for given in (model, tmp_path / "model", str(tmp_path / "model")):
        assert_mapped_the_same(placed, sctag.tl.map_query(query, given, copy=True))


def test_a_run_of_the_querys_own_is_kept(reference, query, unchanged):
    query.uns["sctag"], query.obsm["X_sctag"] = reference.uns["sctag"], np.ones((N_NEW, 15), np.float32)
    query.obsm["sctag_proba"] = np.ones((N_NEW, 3), np.float32)
    for cells in (query, reference):
        with unchanged(cells), pytest.raises(ValueError, match=r"a run of its own under 'sctag'.*key_added="):
            sctag.tl.map_query(cells, reference)
    sctag.tl.map_query(query, reference, key_added="mapped")
    assert "model" in query.uns["sctag"]
    query.obsm["X_mapped_umap"] = np.ones((N_NEW, 2))
    sctag.tl.map_query(query, reference, key_added="mapped")  # what was mapped may be mapped again
    assert "X_mapped_umap" not in query.obsm


def test_what_is_no_reference_is_refused(reference, query, placed, graphed, unchanged, tmp_path):
    without = reference.copy()
    del without.uns["sctag"]["model"]
    cases = [
        (graphed, "sctag", KeyError, "no scTAG result 'sctag'"),
        (reference, "other", KeyError, "no scTAG result 'other'"),
        (without, "sctag", KeyError, "made without its model"),
        (placed, "sctag", KeyError, "made without its model .*mapped query"),
        (tmp_path, "sctag", FileNotFoundError, r"it has no model\.json"),
        (3, "sctag", TypeError, "needs an AnnData"),
        (sctag.ScTAG(graphed, 3), "sctag", RuntimeError, "not trained"),
    ]
    for given, key, error, match in cases:
        with unchanged(query), pytest.raises(error, match=match):
            sctag.tl.map_query(query, given, key=key)


@pytest.fixture(scope="module")
def on_scvi(_blobs_once):
    """A reference whose graph was built on coordinates that are not of its genes."""
    adata = _blobs_once.copy()
    adata.obsm["X_scVI"] = np.random.default_rng(0).normal(size=(150, 4)).astype(np.float32)
    sctag.pp.build_graph(adata, use_rep="X_scVI")
    sctag.tl.sctag(adata, 3, **(LONGER | {"pretrain_epochs": 3, "cluster_epochs": 2}))
    return adata


def test_graph_on_another_representation_is_asked_for_by_name(on_scvi, query, unchanged):
    match = r"built on 'X_scVI', and adata\.obsm has no 'X_scVI'\. Put the query into the same space .*`use_rep=`"
    with unchanged(query), pytest.raises(KeyError, match=match):
        sctag.tl.map_query(query, on_scvi)
    query.obsm["X_scVI"] = on_scvi.obsm["X_scVI"][:N_NEW].astype(np.float64)
    expected = sctag.tl.map_query(query, on_scvi, copy=True)
    query.obsm["X_mine"] = np.hstack([query.obsm.pop("X_scVI"), np.ones((N_NEW, 2))])  # leading columns count
    with unchanged(query), pytest.raises(KeyError, match="has no 'X_other'"):
        sctag.tl.map_query(query, on_scvi, use_rep="X_other")
    sctag.tl.map_query(query, on_scvi, use_rep="X_mine")
    assert_mapped_the_same(expected, query)
    query.obsm["X_mine"] = query.obsm["X_mine"][::-1].copy()
    moved = sctag.tl.map_query(query, on_scvi, use_rep="X_mine", copy=True)
    assert np.abs(moved.obsm["X_sctag"] - expected.obsm["X_sctag"]).max() > 1e-4, "the coordinates are not read"


def test_coordinates_that_cannot_be_or_are_not_needed(on_scvi, reference, query, unchanged):
    x = on_scvi.obsm["X_scVI"][:N_NEW].copy()
    query.obsm["X_narrow"], query.obsm["X_nan"] = x[:, :3], np.where(np.arange(4) == 2, np.nan, x)
    for name, match in {"X_narrow": "must hold 4 columns", "X_nan": "holds NaN"}.items():
        with unchanged(query), pytest.raises(ValueError, match=match):
            sctag.tl.map_query(query, on_scvi, use_rep=name)
    with unchanged(query), pytest.raises(ValueError, match="use_rep='X_nan' is not needed"):
        sctag.tl.map_query(query, reference, use_rep="X_nan")


def test_batches_of_the_reference(blobs, short):
    """Known batches are found by name; others, and cells without that column, are of an unknown one."""
    blobs.obs["donor"] = pd.Categorical(np.array(["a", "b"])[np.arange(150) % 2])
    x = blobs.X.toarray()
    x[1::2, :40] *= 3
    blobs.X = sparse.csr_matrix(x)
    query = blobs[:10, ::-1].copy()
    sctag.pp.build_graph(blobs, batch_key="donor")
    sctag.tl.sctag(blobs, 3, batch_key="donor", **short)
    model = sctag.ScTAG.from_anndata(blobs)
    found = {}
    for names in ("a", "b", "c", None, ["a", "b"] * 5):
        cells = query.copy()
        if names is None:
            del cells.obs["donor"]
        else:
            cells.obs["donor"] = names
        placed, read = model.place(cells)
        batch = [{"a": 0, "b": 1}.get(name, -1) for name in cells.obs.get("donor", [None] * 10)]
        assert read.batch_index.tolist() == batch
        found[str(names)[:4]] = placed.latent
    np.testing.assert_array_equal(found["c"], found["None"])
    for a, b in [("a", "b"), ("a", "c"), ("b", "c")]:
        assert np.abs(found[a] - found[b]).max() > 1e-3
    np.testing.assert_allclose(found["['a'"][::2], found["a"][::2], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["['a'"][1::2], found["b"][1::2], rtol=1e-4, atol=1e-4)


# --- names, copies, views ---


def test_copy_leaves_the_query_also_a_view(reference, query, blobs, placed, unchanged):
    view = blobs[-N_NEW:]
    for cells in (query, view):
        with unchanged(cells), unchanged(reference):  # silent: warnings are errors here
            assert_mapped_the_same(placed, sctag.tl.map_query(cells, reference, copy=True))


def test_an_error_late_leaves_the_query_as_it_was(reference, blobs, unchanged, monkeypatch):
    def fails(*args, **kwargs):
        raise MemoryError

    view = blobs[-N_NEW:]
    monkeypatch.setattr(ReferenceModel, "expected_proportions", fails)
    with unchanged(view), unchanged(reference), pytest.raises(MemoryError):
        sctag.tl.map_query(view, reference)


def test_view_becomes_actual_with_one_warning(reference, blobs, placed, unchanged):
    view = blobs[-N_NEW:]
    with unchanged(blobs), pytest.warns(UserWarning, match="view") as caught:
        sctag.tl.map_query(view, reference)
    assert [warning.filename for warning in caught] == [__file__]
    assert not view.is_view
    assert_mapped_the_same(placed, view)


def test_several_references_side_by_side(reference, query, placed, short, same, drop_result):
    sctag.tl.sctag(reference, 2, key_added="coarse", **short)
    sctag.tl.map_query(query, reference)
    before = query.copy()
    sctag.tl.map_query(query, reference, key="coarse")
    sctag.tl.map_query(query, reference, key_added="third")
    assert query.obs["coarse"].cat.categories.size == 2
    assert_mapped_the_same(placed, query)
    assert_mapped_the_same(placed, query, key="third")
    for key in ("coarse", "third"):
        drop_result(query, key)
    same(before, query)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"key": ""}, TypeError, "key must be a non-empty string"),
        ({"key_added": 3}, TypeError, "key_added must be a non-empty string"),
        ({"key_added": "pca"}, ValueError, r"something else under 'pca'.*key_added="),
        ({"key_added": "group"}, ValueError, r"something else under 'group'.*key_added="),
        ({"copy": 1}, TypeError, "copy must be True or False"),
        ({"check_values": None}, TypeError, "check_values must be True or False"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(reference, query, unchanged, options, error, match):
    query.uns["pca"] = {"variance": np.ones(3)}
    with unchanged(query), pytest.raises(error, match=match):
        sctag.tl.map_query(query, reference, **options)


# --- names, colors and annotations of the reference ---


def test_clusters_have_the_names_and_colors_that_they_have_in_the_reference(reference, query, placed, tmp_path):
    reference.obs["sctag"] = reference.obs["sctag"].cat.rename_categories(["T cells", "B cells", "NK"])
    reference.uns["sctag_colors"] = ["#ff0000", "#00ff00", "#0000ff"]
    sctag.tl.map_query(query, reference)
    expected = placed.obs["sctag"].map({"0": "T cells", "1": "B cells", "2": "NK"})
    assert query.obs["sctag"].tolist() == expected.tolist()
    assert list(query.obs["sctag"].cat.categories) == ["T cells", "B cells", "NK"]
    assert list(query.uns["sctag_colors"]) == ["#ff0000", "#00ff00", "#0000ff"]
    model = sctag.ScTAG.from_anndata(reference)
    assert model.predict(query).tolist() == expected.tolist()
    assert list(model.predict_proba(query).columns) == ["T cells", "B cells", "NK"]
    model.save(tmp_path / "model")
    again = sctag.tl.map_query(query, tmp_path / "model", key_added="again", copy=True)
    assert again.obs["again"].tolist() == expected.tolist()
    assert "again_colors" not in again.uns


def test_names_follow_their_cells_not_their_place(reference, placed):
    """After a sort of the categories, and in a part of the reference."""
    names = reference.obs["sctag"].cat.rename_categories(["z", "m", "a"])
    reference.obs["sctag"] = names.cat.reorder_categories(["a", "m", "z"], ordered=True)
    assert sctag.ScTAG.from_anndata(reference).clusters == ["z", "m", "a"]
    reference.obs["sctag"] = names
    part = reference[reference.obs["sctag"] != "m"].copy()
    part.obs["sctag"] = part.obs["sctag"].cat.set_categories(["z", "m", "a"])
    assert sctag.ScTAG.from_anndata(part).clusters == ["z", "m", "a"]


@pytest.mark.parametrize("edit", ["joined", "moved", "removed"])
def test_clusters_that_were_edited_are_numbers_again(reference, edit):
    column = reference.obs["sctag"].cat.rename_categories(["z", "m", "a"])
    if edit == "joined":
        column = column.astype(str).replace({"m": "z"}).astype("category")
    if edit == "moved":
        column.iloc[0] = "m" if column.iloc[0] != "m" else "a"
    reference.obs["sctag"] = column
    if edit == "removed":
        del reference.obs["sctag"]
    assert sctag.ScTAG.from_anndata(reference).clusters == ["0", "1", "2"]


def test_annotations_come_from_the_neighbors_in_the_reference(reference, query, unchanged):
    rng = np.random.default_rng(0)
    reference.obs["kind"] = reference.obs["group"].astype(str).where(rng.random(reference.n_obs) > 0.1, None)
    reference.obs["age"] = rng.normal(size=reference.n_obs)
    reference.obs.loc[reference.obs_names[:5], "age"] = np.nan
    reference.obs["sick"] = rng.random(reference.n_obs) > 0.5
    model = sctag.ScTAG.from_anndata(reference)
    neighbors = model.place(query)[0].neighbors
    shuffled = reference[rng.permutation(reference.n_obs)].copy()
    with unchanged(shuffled):
        sctag.tl.map_query(query, shuffled, obs=["kind", "age", "sick"])
    for name in ("kind", "sick"):
        around = reference.obs[name].astype("category").cat.rename_categories(str).to_numpy()[neighbors]
        for cell, (value, share) in enumerate(zip(query.obs[name], query.obs[f"{name}_agreement"], strict=True)):
            found = pd.Series(around[cell]).value_counts()
            assert found[value] == found.max()
            np.testing.assert_allclose(share, found.max() / neighbors.shape[1])
    np.testing.assert_allclose(query.obs["age"], np.nanmean(reference.obs["age"].to_numpy()[neighbors], axis=1))
    assert query.obs["kind_agreement"].dtype == np.float32
    sctag.tl.map_query(query, shuffled, obs=["kind", "age", "sick"])  # again, as when a cell of a notebook is run twice
    assert "age_agreement" not in query.obs
    agree = query.obs["kind"].astype(str) == _groups_of(query)
    assert agree.mean() > 0.9


def _groups_of(query):
    return query.obs["group"].astype(str)


def test_cells_whose_neighbors_have_no_annotation_get_none(reference, query):
    reference.obs["kind"] = pd.Series(index=reference.obs_names, dtype="category").cat.add_categories(["a"])
    reference.obs["age"] = np.nan
    sctag.tl.map_query(query, reference, obs=["kind", "age"])
    assert query.obs["kind"].isna().all()
    assert query.obs["age"].isna().all()
    assert (query.obs["kind_agreement"] == 0).all()


def test_annotations_that_cannot_be_carried_over_are_refused(reference, query, unchanged):
    model = sctag.ScTAG.from_anndata(reference)
    with unchanged(query), pytest.raises(ValueError, match="reference must be an AnnData"):
        sctag.tl.map_query(query, model, obs="kind")
    with unchanged(query), pytest.raises(KeyError, match=r"obs=\['kind'\] are no columns"):
        sctag.tl.map_query(query, reference, obs="kind")
    with unchanged(query), pytest.raises(ValueError, match=r"adata\.obs has, or would have, \['group'\] already"):
        sctag.tl.map_query(query, reference, obs=["group"])
    reference.obs["kind"] = "a"
    with unchanged(query), pytest.raises(ValueError, match="no longer holds all cells"):
        sctag.tl.map_query(query, reference[:50].copy(), obs="kind")


def test_colors_follow_the_names_of_reordered_clusters(reference, query):
    reference.uns["sctag_colors"] = ["#ff0000", "#00ff00", "#0000ff"]
    before = dict(zip(reference.obs["sctag"].cat.categories, reference.uns["sctag_colors"], strict=True))
    reference.obs["sctag"] = reference.obs["sctag"].cat.reorder_categories(["2", "0", "1"])
    reference.uns["sctag_colors"] = [before[name] for name in ["2", "0", "1"]]
    sctag.tl.map_query(query, reference)
    assert dict(zip(query.obs["sctag"].cat.categories, query.uns["sctag_colors"], strict=True)) == before


def test_names_stay_where_a_cluster_is_gone(reference):
    reference.obs["sctag"] = reference.obs["sctag"].cat.rename_categories(["z", "m", "a"])
    part = reference[reference.obs["sctag"] != "m"].copy()
    part.obs["sctag"] = part.obs["sctag"].cat.remove_unused_categories()
    assert sctag.ScTAG.from_anndata(part).clusters == ["z", "1", "a"]


def test_a_later_mapping_takes_the_annotations_of_the_earlier_with_it(reference, query):
    reference.obs["kind"], reference.obs["empty"] = reference.obs["group"], pd.Series(None, reference.obs_names, object)
    reference.obs["number"] = pd.Categorical(np.arange(reference.n_obs) % 2)
    sctag.tl.map_query(query, reference, obs=["kind", "empty", "number"])
    assert query.obs["empty"].isna().all()
    assert set(query.obs["number"].cat.categories) == {"0", "1"}
    sctag.tl.map_query(query, reference)
    assert {"kind", "kind_agreement", "empty", "number"}.isdisjoint(query.obs)
    sctag.tl.map_query(query, reference, obs=["kind"])
    assert "kind" in query.obs


@pytest.mark.parametrize("obs", [["sctag"], ["sctag_confidence"], ["kind", "kind"], ["kind", "kind_agreement"]])
def test_annotations_with_names_of_the_mapping_itself_are_refused(reference, query, unchanged, obs):
    reference.obs["kind"] = reference.obs["kind_agreement"] = "a"
    with unchanged(query), pytest.raises(ValueError, match="has, or would have"):
        sctag.tl.map_query(query, reference, obs=obs)
