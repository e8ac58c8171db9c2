"""``sctag.tl.rank_genes_splits``: right numbers, scanpy's layout, files, and the genes that are known."""

from __future__ import annotations

import io

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from sklearn.metrics import roc_auc_score

import sctag_tools as sctag

KEY = "sctag_splits"
RECORDS = ["names", "scores", "logfoldchanges", "pvals", "pvals_adj", "auroc", "logfoldchanges_expected"]


@pytest.fixture(scope="module")
def _cut_once(_graphed_once):
    adata = _graphed_once.copy()
    sctag.tl.sctag(adata, 6, pretrain_epochs=30, cluster_epochs=5)
    sctag.tl.cut(adata, 3, key_added="three")
    return adata


@pytest.fixture
def run(_cut_once):
    """A run into six clusters, and a cut of it into three."""
    return _cut_once.copy()


def ranked(adata, *args, **options):
    return sctag.tl.rank_genes_splits(adata, *args, copy=True, **options).uns[options.get("key_added", KEY)]


def by_gene(entry, field, comparison):
    """The values of a field, by gene in alphabetical order."""
    return pd.Series(entry[field][comparison], index=entry["names"][comparison]).sort_index()


def plain(entry):
    """The same with tables in place of record arrays, whose NaN equal each other."""
    return {name: pd.DataFrame(part) if isinstance(part, np.ndarray) else part for name, part in entry.items()}


def cells_of(adata, joined, key="sctag"):
    return adata.obs[key].isin(joined.split("+")).to_numpy()


def sides_of(adata, entry, key="sctag"):
    """The comparison and which cells are on its two sides."""
    for name, row in entry["comparisons"].iterrows():
        yield name, cells_of(adata, row["clusters"], key), cells_of(adata, row["clusters_reference"], key)


# --- numbers ---


def test_values_are_those_of_scikit_learn_and_numpy(clustered):
    entry = ranked(clustered)
    counts = clustered.X.toarray().astype(float)
    shares = counts / counts.sum(axis=1, keepdims=True)
    for name, group, reference in sides_of(clustered, entry):
        both, means = group | reference, [1e4 * shares[side].mean(axis=0) + 0.1 for side in (group, reference)]
        expected = {
            "auroc": [roc_auc_score(group[both], values) for values in shares[both].T],
            "logfoldchanges": np.log2(means[0] / means[1]),
        }
        expected["scores"] = (2 * np.array(expected["auroc"]) - 1) * abs(expected["logfoldchanges"])
        for field, values in expected.items():
            found = by_gene(entry, field, name)[clustered.var_names]
            np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6)
        assert (np.diff(entry["scores"][name]) <= 0).all()
        for field, side in {"pts": group, "pts_rest": reference}.items():
            np.testing.assert_allclose(entry[field][name], (counts[side] > 0).mean(axis=0), rtol=1e-6)


def test_formats_and_places_of_counts(clustered, as_format, same):
    expected = plain(ranked(clustered))
    clustered.X = as_format(clustered.X)
    same(plain(ranked(clustered)), expected)
    clustered.layers["counts"] = clustered.X.copy()
    clustered.X = sparse.csr_matrix(clustered.X, dtype=np.float32)
    sc.pp.normalize_total(clustered)
    sc.pp.log1p(clustered)
    for options in ({}, {"layer": "counts"}):
        found = plain(ranked(clustered, **options))
        assert found["params"].pop("layer") == "counts"
        same(found, expected)


def test_counts_on_disk_and_in_dask(clustered, tmp_path, same):
    import dask.array as da

    expected = plain(ranked(clustered))
    clustered.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r+")
    sctag.tl.rank_genes_splits(backed)
    same(plain(backed.uns[KEY]), expected)
    clustered.X = da.from_array(clustered.X.toarray(), chunks=(40, 120))
    same(plain(ranked(clustered)), expected)


def test_what_the_model_expects_is_the_denoised_counts(run, monkeypatch):
    run.var["some"] = np.arange(120) % 3 > 0
    sctag.tl.sctag(run, 3, mask_var="some", pretrain_epochs=3, cluster_epochs=2, key_added="part")
    sctag.tl.denoise(run, key="part")
    expected = run.layers["part_denoised"] / np.asarray(run.X.sum(axis=1)) * 1e4
    monkeypatch.setattr("sctag_tools.mapping.reference.ROWS_AT_ONCE", 64)
    order = np.random.default_rng(0).permutation(run.n_obs)
    for adata, denoised in ((run, expected), (run[order].copy(), expected[order])):
        entry = ranked(adata, "part", key_added="found")
        for name, group, reference in sides_of(adata, entry, "part"):
            means = [denoised[side].mean(axis=0) + 0.1 for side in (group, reference)]
            found = by_gene(entry, "logfoldchanges_expected", name)[run.var_names]
            np.testing.assert_allclose(found, np.log2(means[0] / means[1]), rtol=1e-4, atol=1e-5)
            assert (found.isna() == ~run.var["some"]).all()


def test_a_model_that_saw_the_groups_expects_the_fold_changes(run):
    entry = ranked(run, "three", key_added="found")
    for name in entry["comparisons"].index:
        pair = [by_gene(entry, field, name) for field in ("logfoldchanges", "logfoldchanges_expected")]
        assert np.corrcoef(*pair)[0, 1] > 0.8


def test_without_a_model_or_unasked_nothing_is_expected(run, same):
    entry, without = plain(ranked(run)), plain(ranked(run, expected=False))
    del run.uns["sctag"]["model"]
    same(plain(ranked(run)), without)
    assert entry.pop("logfoldchanges_expected").notna().all(axis=None)
    assert without.pop("logfoldchanges_expected").isna().all(axis=None)
    same(entry, without)


def test_genes_whose_names_occur_twice(run):
    """They are ranked, but which of them the model means is not clear."""
    run.var_names = ["x3", *run.var_names[1:]]
    entry = sctag.tl.rank_genes_splits(run) or run.uns[KEY]
    for name in entry["names"].dtype.names:
        expected = by_gene(entry, "logfoldchanges_expected", name)
        assert expected.index[expected.isna()].tolist() == ["x3", "x3"]


# --- which comparisons ---


@pytest.mark.parametrize("key", ["sctag", "three"])
def test_every_split_is_compared_from_both_sides(run, key):
    entry, splits = ranked(run, key, key_added="found"), sctag.get.splits_df(run, key)
    expected = [
        (f"{one} vs {other}", node)
        for node, left, right in zip(splits["node"], splits["clusters_left"], splits["clusters_right"], strict=True)
        if not {*left.split("+")} & {*right.split("+")} and left and right
        for one, other in ((left, right), (right, left))
    ]
    table = entry["comparisons"]
    assert list(zip(table.index, table["node"], strict=True)) == expected
    assert len(table) == 2 * (run.obs[key].nunique() - 1)
    n_cells = splits.set_index("node")[["n_cells_left", "n_cells_right"]].loc[table["node"]].to_numpy()
    n_cells[1::2] = n_cells[1::2, ::-1]
    np.testing.assert_array_equal(table[["n_cells", "n_cells_reference"]], n_cells)
    for field in RECORDS:
        assert entry[field].dtype.names == tuple(table.index)
        assert entry[field].shape == (120,)


def test_a_cluster_is_found_against_its_sibling(run):
    table, clusters = ranked(run)["comparisons"], sctag.get.clusters_df(run)
    for name, sibling in clusters["sibling"].items():
        (row,) = table.index[table["clusters"] == name]
        assert row == f"{name} vs {sibling}"


def test_clusters_joined_across_the_tree(run):
    first = sctag.get.splits_df(run).iloc[0]
    pair = [first[side].split("+")[0] for side in ("clusters_left", "clusters_right")]
    sctag.tl.cut(run, merge=[pair], key_added="joined")
    table, clusters = ranked(run, "joined", key_added="found")["comparisons"], sctag.get.clusters_df(run, "joined")
    assert len(table) < 2 * (len(clusters) - 1)
    assert table.index.tolist() == (table["clusters"] + " vs " + table["clusters_reference"]).tolist()
    for name, sibling in clusters["sibling"].items():
        (row,) = table.index[table["clusters"] == name]
        assert row == f"{name} vs {sibling}"
        parts = cells_of(run, name), cells_of(run, sibling)  # of all cells of the clusters, wherever they lie
        assert table.loc[row, ["n_cells", "n_cells_reference"]].tolist() == [part.sum() for part in parts]
    joined, others = "+".join(sorted(pair)), table["node"] == first["node"]
    assert (table["clusters"][others] == joined).all()


# --- options ---


def test_fewer_genes_are_the_best_ones(clustered):
    entry, some = ranked(clustered), ranked(clustered, n_genes=7)
    for field in RECORDS:
        for name in entry["names"].dtype.names:
            np.testing.assert_array_equal(some[field][name], entry[field][name][:7])
    assert ranked(clustered, n_genes=999)["names"].shape == (120,)


@pytest.mark.parametrize("as_column", [True, False])
def test_a_mask_leaves_the_values_of_its_genes(clustered, as_column):
    mask = np.arange(120) % 4 == 0
    clustered.var["some"] = mask
    entry, some = ranked(clustered), ranked(clustered, mask_var="some" if as_column else mask)
    for name in entry["names"].dtype.names:
        assert set(some["names"][name]) == set(clustered.var_names[mask])
        for field in RECORDS[1:]:
            found = by_gene(some, field, name)
            pd.testing.assert_series_equal(found, by_gene(entry, field, name)[found.index])
    assert some["pts"].index.tolist() == clustered.var_names[mask].tolist()


def test_it_writes_one_entry_again_and_again(clustered, same):
    before = clustered.copy()
    changed = sctag.tl.rank_genes_splits(clustered, copy=True)
    same(before, clustered)
    assert sctag.tl.rank_genes_splits(clustered) is None
    same(plain(changed.uns.pop(KEY)), plain(clustered.uns[KEY]))
    same(changed, before)
    sctag.tl.rank_genes_splits(clustered, n_genes=3)
    assert clustered.uns.pop(KEY)["names"].shape == (3,)
    same(before, clustered)


def test_a_view_becomes_a_copy(clustered):
    view = clustered[:, :50]
    with pytest.warns(UserWarning, match="view"):
        sctag.tl.rank_genes_splits(view)
    assert view.uns[KEY]["names"].shape == (50,)
    assert KEY not in clustered.uns


def test_the_log_names_what_was_written(clustered):
    sc.settings.logfile, sc.settings.verbosity = (log := io.StringIO()), 3
    sctag.tl.rank_genes_splits(clustered)
    for part in ("between the clusters of 'sctag'", "finished: 4 comparisons of 120 genes", "'sctag_splits'"):
        assert part in log.getvalue()


# --- scanpy and files ---


def test_scanpys_table(clustered):
    sctag.tl.rank_genes_splits(clustered)
    entry = clustered.uns[KEY]
    table = sc.get.rank_genes_groups_df(clustered, group=None, key=KEY)
    names = list(entry["names"].dtype.names)
    assert table.shape == (4 * 120, 8)
    for name in names:
        of_one = sc.get.rank_genes_groups_df(clustered, group=name, key=KEY)
        pd.testing.assert_frame_equal(
            of_one, table[table["group"] == name].drop(columns="group").reset_index(drop=True)
        )
        for field in RECORDS[:3]:
            np.testing.assert_array_equal(of_one[field], entry[field][name])
        for column, field in {"pct_nz_group": "pts", "pct_nz_reference": "pts_rest"}.items():
            np.testing.assert_array_equal(of_one[column], entry[field].loc[of_one["names"], name])
    assert table[["pvals", "pvals_adj"]].isna().all(axis=None)
    large = sc.get.rank_genes_groups_df(clustered, group=None, key=KEY, log2fc_min=1)
    assert 0 < len(large) == (pd.DataFrame(entry["logfoldchanges"]) > 1).sum().sum()


def test_scanpys_plots(clustered):
    sctag.tl.rank_genes_splits(clustered)
    sc.pp.pca(clustered, n_comps=5)
    sc.tl.dendrogram(clustered, "sctag")
    axes = sc.pl.rank_genes_groups_dotplot(clustered, key=KEY, n_genes=2, show=False)
    entry = clustered.uns[KEY]
    drawn = [label.get_text() for label in axes["mainplot_ax"].get_xticklabels()]
    assert drawn == [gene for name in entry["names"].dtype.names for gene in entry["names"][name][:2]]
    assert {label.get_text() for label in axes["mainplot_ax"].get_yticklabels()} == {"0", "1", "2"}
    sc.pl.rank_genes_groups_matrixplot(clustered, key=KEY, n_genes=2, show=False)
    assert len(sc.pl.rank_genes_groups(clustered, key=KEY, n_genes=2, show=False)) == 4


@pytest.mark.parametrize(("suffix", "n_clusters"), [("h5ad", 3), ("h5ad", 100), ("zarr", 3)])
def test_files(run, tmp_path, suffix, n_clusters):
    """Also with as many names as HDF5 would not hold if they were written out."""
    sctag.tl.cut(run, n_clusters, key_added="fine")
    categories = run.obs["fine"].cat.categories
    run.obs["fine"] = run.obs["fine"].cat.rename_categories({categories[0]: "CD4/CD8 é", categories[1]: "a|b, c"})
    sctag.tl.rank_genes_splits(run, "fine", key_added="found")
    getattr(run, f"write_{suffix}")(tmp_path / f"a.{suffix}")
    back, entry = getattr(ad, f"read_{suffix}")(tmp_path / f"a.{suffix}"), run.uns["found"]
    assert back.uns["found"].keys() == entry.keys()
    assert back.uns["found"]["params"] == entry["params"]
    for field in RECORDS:
        pd.testing.assert_frame_equal(pd.DataFrame(back.uns["found"][field]), pd.DataFrame(entry[field]))
    for field in ("pts", "pts_rest", "comparisons"):
        pd.testing.assert_frame_equal(back.uns["found"][field], entry[field], check_index_type=False)
    tables = [sc.get.rank_genes_groups_df(each, None, key="found") for each in (back, run)]
    pd.testing.assert_frame_equal(*tables)
    sctag.tl.rank_genes_splits(back, "fine", key_added="found")  # an earlier ranking may be replaced


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"key": "none"}, KeyError, r"no scTAG result 'none'.*There are \['sctag'\]"),
        ({"key": 3}, TypeError, "key must be a non-empty string"),
        ({"key_added": "a/b"}, ValueError, "key_added must not contain"),
        ({"key_added": "sctag"}, ValueError, r"adata.uns\['sctag'\] is something else than a ranking; choose another"),
        ({"key_added": "sctag_neighbors"}, ValueError, "something else than a ranking"),
        ({"n_genes": 0}, ValueError, "n_genes must be at least 1"),
        ({"n_genes": 2.5}, TypeError, "n_genes must be an integer"),
        ({"expected": 1}, TypeError, "expected must be True or False"),
        ({"copy": 1}, TypeError, "copy must be True or False"),
        ({"check_values": 1}, TypeError, "check_values must be True or False"),
        ({"layer": "none"}, KeyError, "layer='none' is not in adata.layers"),
        ({"layer": "logged"}, ValueError, r"looks log-normalized.*`check_values=False` skips this check"),
        ({"layer": "negative"}, ValueError, "holds negative values"),
        ({"layer": "negative", "check_values": False}, ValueError, "negative values or NaN; name the layer"),
        ({"layer": "empty"}, ValueError, "150 cells have no counts"),
        ({"mask_var": "none"}, ValueError, "mask_var='none' is no column"),
        ({"mask_var": np.zeros(120, dtype=bool)}, ValueError, "selects no gene"),
    ],
    ids=str,
)
def test_what_is_refused(clustered, unchanged, options, error, match):
    clustered.layers["logged"] = np.log1p(clustered.X.toarray())
    clustered.layers["negative"] = clustered.X.toarray() - 3
    clustered.layers["empty"] = np.zeros(clustered.shape, dtype=np.float32)
    with unchanged(clustered), pytest.raises(error, match=match):
        sctag.tl.rank_genes_splits(clustered, **options)


def test_logged_values_if_they_are_not_checked(clustered):
    clustered.layers["logged"] = np.log1p(clustered.X.toarray())
    assert ranked(clustered, layer="logged", check_values=False)["params"]["layer"] == "logged"


def test_results_without_other_sides(clustered, blobs, unchanged):
    sctag.tl.map_query(blobs, clustered)
    with unchanged(blobs), pytest.raises(ValueError, match="'sctag' was mapped from a reference"):
        sctag.tl.rank_genes_splits(blobs)
    sctag.tl.cut(clustered, 1, key_added="one")
    with pytest.raises(ValueError, match=r"'one' is a single cluster.*make more with `sctag.tl.cut\(adata, n_cl"):
        sctag.tl.rank_genes_splits(clustered, "one")
    del clustered.uns["sctag"]["tree"]
    with unchanged(clustered), pytest.raises(ValueError, match="before runs kept their tree"):
        sctag.tl.rank_genes_splits(clustered)


# --- genes that are known ---


def simulated(seed):
    """600 cells of a, and of b1 and b2; 25 genes part a from b, 25 others b1 from b2, by a factor of 3 either way."""
    rng = np.random.default_rng(seed)
    n_cells, n_genes = 600, 400
    group = rng.choice(["a", "b1", "b2"], n_cells, p=[0.5, 0.3, 0.2])
    mean = np.tile(rng.gamma(1.0, 2.0, n_genes) + 0.1, (n_cells, 1))
    first, second = rng.permutation(n_genes)[:50].reshape(2, 25)
    for genes, cells in ((first[:12], group == "a"), (first[12:], group != "a")):
        mean[np.ix_(cells, genes)] *= 3
    for genes, cells in ((second[:12], group == "b1"), (second[12:], group == "b2")):
        mean[np.ix_(cells, genes)] *= 3
    depth = rng.lognormal(0, 0.3, (n_cells, 1))
    counts = rng.poisson(rng.gamma(2.0, mean * depth / 2.0))
    obs = pd.DataFrame({"group": group}, index=[f"c{i}" for i in range(n_cells)])
    var = pd.DataFrame(index=[f"x{i}" for i in range(n_genes)])
    adata = AnnData(sparse.csr_matrix(counts, dtype=np.float32), obs=obs, var=var)
    return adata, {"a": adata.var_names[first], "b1": adata.var_names[second]}


@pytest.mark.parametrize("seed", range(2))
def test_drivers_of_simulated_splits_are_found(seed):
    adata, drivers = simulated(seed)
    sctag.pp.build_graph(adata)
    sctag.tl.sctag(adata, 3, pretrain_epochs=20, cluster_epochs=5, progress_bar=False)
    names = pd.crosstab(adata.obs["sctag"], adata.obs["group"]).idxmax()
    a, b1, b2 = names["a"], names["b1"], names["b2"]
    assert sctag.metrics.ari(adata.obs["group"], adata.obs["sctag"]) > 0.8
    entry = ranked(adata)
    splits = {f"{a} vs {'+'.join(sorted([b1, b2]))}": drivers["a"], f"{b1} vs {b2}": drivers["b1"]}
    for comparison, expected in splits.items():
        scores = by_gene(entry, "scores", comparison).abs()
        assert roc_auc_score(scores.index.isin(expected), scores) >= 0.95


@pytest.mark.slow
@pytest.mark.usefixtures("all_partitions")
def test_known_genes_of_blood_cells(real_sets):
    """In each comparison of a group that is most of a type, and mostly that type, with a side that is not."""
    adata = ad.read_h5ad(real_sets / "Zheng_sorted2140.h5ad")
    labels = adata.obs.pop("cell_type").astype(str)
    sc.pp.filter_genes(adata, min_cells=3)
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=2000)
    sctag.pp.build_graph(adata)
    sctag.tl.sctag(adata, progress_bar=False)
    entry = ranked(adata)
    known = {"bcells": {"CD79A", "MS4A1"}, "monocytes": {"LYZ", "S100A9"}, "nk": {"NKG7", "GNLY"}}
    for kind, genes in known.items():
        of_kind, n_found = (labels == kind).to_numpy(), 0
        for name, group, reference in sides_of(adata, entry):
            is_theirs = of_kind[group].mean() > 0.5 and of_kind[group].sum() > 0.5 * of_kind.sum()
            if is_theirs and of_kind[reference].mean() < 0.1:
                assert genes & set(entry["names"][name][:20]), (kind, name)
                n_found += 1
        assert n_found, kind


def test_a_ranking_goes_with_the_clusters_that_it_is_of(clustered, short):
    """A user's own entry under its name stays."""
    sctag.tl.cut(clustered, 2)
    for key in ("sctag", "sctag_cut"):
        sctag.tl.rank_genes_splits(clustered, key, expected=False)
    sctag.tl.explain(clustered, clustered.obs_names[:2])
    sctag.tl.cut(clustered, 2)
    assert "sctag_cut_splits" not in clustered.uns
    sctag.tl.sctag(clustered, 2, **short)
    assert {"sctag_splits", "sctag_explained"}.isdisjoint(clustered.uns)
    clustered.uns["sctag_splits"] = clustered.uns["sctag_explained"] = "mine"
    sctag.tl.sctag(clustered, 2, **short)
    assert clustered.uns["sctag_splits"] == clustered.uns["sctag_explained"] == "mine"
