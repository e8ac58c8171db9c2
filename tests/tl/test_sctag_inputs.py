"""What ``sctag.tl.sctag`` and :class:`sctag.ScTAG` read before they train: which counts, genes and graph."""

from __future__ import annotations

import io

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from anndata import AnnData
from scipy import sparse

import sctag_tools as sctag


def inputs_of(adata, **options):
    return sctag.ScTAG(adata, 3, **options)._inputs


@pytest.fixture
def assert_reads(_graphed_once):
    """Fails unless the counts of ``graphed`` are read, from where it is said."""
    expected = inputs_of(_graphed_once)

    def check(adata, source, **options):
        inputs = inputs_of(adata, **options)
        assert (inputs.counts != expected.counts).nnz == 0
        assert inputs.counts.dtype == np.float32
        np.testing.assert_array_equal(inputs.totals, expected.totals)
        assert (inputs.connectivities != expected.connectivities).nnz == 0
        assert inputs.params["counts"] == source

    return check


def log_normalize(adata: AnnData) -> None:
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)


# --- which counts ---


def test_every_format_is_read_and_kept(graphed, as_format, assert_reads):
    graphed.X = as_format(graphed.X)
    kept, before = (type(graphed.X), graphed.X.dtype), graphed.X.copy()
    assert_reads(graphed, "X")
    assert (type(graphed.X), graphed.X.dtype) == kept
    assert abs(graphed.X - before).sum() == 0


def test_counts_in_x_come_before_the_layer(graphed, assert_reads):
    """``uns["log1p"]`` says nothing about an X that holds counts again, and ``raw`` is never read."""
    graphed.layers["counts"], graphed.raw = graphed.X * 2, graphed[:, :50]
    graphed.uns["log1p"] = {"base": None}
    assert_reads(graphed, "X")


@pytest.mark.parametrize("x", ["logged", None])
def test_the_layer_counts_where_x_holds_none(graphed, assert_reads, x):
    graphed.layers["counts"] = graphed.X.copy()
    if x is None:
        graphed.X = None
    else:
        log_normalize(graphed)
    log = io.StringIO()
    sc.settings.logfile, sc.settings.verbosity = log, 2
    assert_reads(graphed, "counts")
    assert "adata.layers['counts']" in log.getvalue()


def test_a_given_layer_comes_first(graphed, assert_reads):
    graphed.layers["raw"], graphed.layers["counts"] = graphed.X.copy(), graphed.X * 3
    graphed.X = graphed.X * 2
    assert_reads(graphed, "raw", layer="raw")


@pytest.mark.parametrize("said_by", ["values", "uns"])
def test_logged_x_is_refused_unless_asked_for(graphed, unchanged, said_by):
    log_normalize(graphed)
    if said_by == "values":
        del graphed.uns["log1p"]
    else:
        graphed.X = graphed.X * 10  # as large as counts may be
    match = r"adata\.X looks log-normalized.*adata\.layers\['counts'\] = adata\.X\.copy\(\).*layer="
    with unchanged(graphed), pytest.raises(ValueError, match=match):
        inputs_of(graphed)
    np.testing.assert_array_equal(inputs_of(graphed, check_values=False).counts.toarray(), graphed.X.toarray())


def test_logged_layers_are_refused(graphed):
    log_normalize(graphed)
    graphed.layers["counts"] = graphed.layers["mine"] = graphed.X.copy()
    for layer, name in {None: "counts", "mine": "mine"}.items():
        with pytest.raises(ValueError, match=rf"adata\.layers\['{name}'\] looks log-normalized"):
            inputs_of(graphed, layer=layer)


def test_counts_in_raw_are_pointed_at(graphed, unchanged, assert_reads):
    graphed.raw = graphed.copy()
    log_normalize(graphed)
    match = r"adata\.X looks log-normalized.*adata\.raw holds counts .*`adata = adata\.raw\.to_adata\(\)`.*check_values"
    with unchanged(graphed), pytest.raises(ValueError, match=match):
        inputs_of(graphed)
    assert_reads(graphed.raw.to_adata(), "X")
    graphed.X = graphed.X.toarray() - graphed.X.mean()  # scaled: nothing that could be taken without the check
    match = r"adata\.X holds negative values.*`adata = adata\.raw\.to_adata\(\)` takes them\.$"
    with pytest.raises(ValueError, match=match):
        inputs_of(graphed)
    logged = graphed.raw.to_adata()
    log_normalize(logged)
    logged.raw = logged.copy()
    with pytest.raises(ValueError, match=r"looks log-normalized, raw counts are needed\. Keep the raw counts"):
        inputs_of(logged)


def test_corrected_counts_are_read_with_a_warning(graphed):
    graphed.X.data = graphed.X.data * 0.93 + 0.01
    assert graphed.X.max() > 20
    with pytest.warns(UserWarning, match=r"adata\.X holds non-integer values.*SoupX") as caught:
        inputs_of(graphed)
    assert [warning.filename for warning in caught] == [__file__]  # the user's line
    inputs_of(graphed, check_values=False)  # silent: warnings are errors here


@pytest.mark.parametrize("kind", ["csr", "dense"])
@pytest.mark.parametrize(
    ("value", "match"), [(-1, "negative values"), (np.nan, "NaN or infinite"), (np.inf, "NaN or infinite")]
)
@pytest.mark.parametrize("layer", [None, "mine"])
def test_impossible_counts_are_refused(graphed, unchanged, kind, value, match, layer):
    graphed.X.data[17] = value
    graphed.X = graphed.X.toarray() if kind == "dense" else graphed.X
    where = r"adata\.X"
    if layer:
        graphed.layers["mine"] = graphed.X.copy()
        where = r"adata\.layers\['mine'\]"
    with unchanged(graphed), pytest.raises(ValueError, match=rf"{where} holds {match}.*Keep the raw counts"):
        inputs_of(graphed, layer=layer)


def test_nothing_to_read(graphed):
    graphed.X = None
    with pytest.raises(ValueError, match=r"adata\.X is empty; name the layer"):
        inputs_of(graphed)


def test_cells_without_counts(graphed, unchanged):
    """Refused over all genes, said over the chosen ones."""
    x = graphed.X.toarray()
    x[[20, 31], :60] = 0
    graphed.X = x
    with pytest.warns(UserWarning, match="2 cells have no counts in the chosen genes") as caught:
        inputs_of(graphed, mask_var=np.arange(120) < 60)
    assert [warning.filename for warning in caught] == [__file__]
    x[[20, 31]] = 0
    graphed.X = x
    match = r"2 cells have no counts \(the first is row 20\); run `sc\.pp\.filter_cells\(adata, min_counts=1\)`"
    with unchanged(graphed), pytest.raises(ValueError, match=match):
        inputs_of(graphed)


# --- which genes ---


def test_mask_var_in_all_its_forms(graphed):
    """Totals are over all genes in any case."""
    mask = np.arange(120) % 2 == 0
    graphed.var["highly_variable"] = mask
    graphed.var["mine"] = ~mask
    found = {
        "highly_variable": ({}, mask), "mine": ({"mask_var": "mine"}, ~mask), "array": ({"mask_var": mask}, mask),
        "all": ({"mask_var": None}, mask | ~mask),
    }  # fmt: skip
    for name, (options, chosen) in found.items():
        inputs = inputs_of(graphed, **options)
        assert inputs.params["mask_var"] == name
        assert inputs.params["n_genes"] == chosen.sum()
        assert inputs.var_names == graphed.var_names[chosen].tolist()
        np.testing.assert_array_equal(inputs.counts.toarray(), graphed.X.toarray()[:, chosen])
        np.testing.assert_array_equal(inputs.totals, graphed.X.toarray().sum(axis=1))


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        ("none", r"mask_var='none' is no column of adata\.var"),
        ("numbers", "gene mask 'numbers' must be boolean, got int64"),
        (np.arange(120), "gene mask 'array' must be boolean"),
        (np.ones(119, dtype=bool), r"gene mask has shape \(119,\), but adata has 120 genes"),
        (np.ones((120, 1), dtype=bool), "gene mask has shape"),
        (np.zeros(120, dtype=bool), "gene mask 'array' selects no gene"),
        (5, "gene mask 'array' must be boolean"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_wrong_masks_are_refused(graphed, unchanged, mask, match):
    graphed.var["numbers"] = np.arange(120)
    with unchanged(graphed), pytest.raises(ValueError, match=match):
        inputs_of(graphed, mask_var=mask)


def test_many_genes_without_a_mask_warn():
    adata = AnnData(np.ones((30, 5001), np.float32), obsm={"X_rep": np.random.default_rng(2).normal(size=(30, 4))})
    sctag.pp.build_graph(adata, 6, use_rep="X_rep")
    with pytest.warns(UserWarning, match=r"All 5001 genes.*sc\.pp\.highly_variable_genes\(adata, n_top") as caught:
        inputs_of(adata)
    assert [warning.filename for warning in caught] == [__file__]
    inputs_of(adata, mask_var=None)  # asked for: no warning


def test_names_of_genes_that_occur_twice_are_told(graphed):
    graphed.var_names = ["x0", *graphed.var_names[:-1]]
    with pytest.warns(UserWarning, match=r"New cells cannot be mapped.*var_names_make_unique") as caught:
        inputs_of(graphed)
    assert [warning.filename for warning in caught] == [__file__]


# --- which graph ---


def test_any_graph_in_scanpys_layout(graphed, assert_reads):
    sc.pp.neighbors(graphed, 10)
    assert (inputs_of(graphed, neighbors_key="neighbors").connectivities != graphed.obsp["connectivities"]).nnz == 0
    graphed.uns["mine"] = {"connectivities_key": "my_weights"}
    graphed.obsp["my_weights"] = sparse.csc_array(graphed.obsp["sctag_neighbors_connectivities"].astype(np.float64))
    assert_reads(graphed, "X", neighbors_key="mine")
    del graphed.uns["mine"]["connectivities_key"], graphed.obsp["sctag_neighbors_connectivities"]
    graphed.uns["log1p"] = {"base": None}
    for key in ("none", "log1p", "mine", "sctag_neighbors"):  # no such entry, something else, a matrix that is gone
        match = rf"no graph adata\.uns\['{key}'\]\. Run `sctag\.pp\.build_graph\(adata\)` first"
        with pytest.raises(KeyError, match=match):
            inputs_of(graphed, neighbors_key=key)


@pytest.mark.parametrize("value", [np.nan, -0.5, np.inf])
def test_impossible_weights(graphed, unchanged, value):
    graphed.obsp["sctag_neighbors_connectivities"].data[3] = value
    with unchanged(graphed), pytest.raises(ValueError, match="negative or non-finite weights; rebuild"):
        inputs_of(graphed)


def test_a_graph_that_was_cut_apart_is_told(graphed):
    match = r"\d+ of 15 cells have no neighbor in the graph 'sctag_neighbors'\. If it was"
    with pytest.warns(UserWarning, match=match) as caught:
        inputs_of(graphed[::10].copy())
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("built_by", ["sctag", "scanpy"])
def test_a_graph_left_from_a_larger_object_is_told(blobs, short, built_by):
    """The cells of one cluster keep nearly all of their neighbors, so none of them is alone."""
    sctag.pp.build_graph(blobs)
    if built_by == "scanpy":
        sc.pp.neighbors(blobs, key_added="sctag_neighbors")
    part = blobs[blobs.obs["group"] != "g2"].copy()
    distances = part.obsp["sctag_neighbors_distances"]
    lost = 1 - distances.nnz / (14 * part.n_obs)
    assert lost > 0.005
    match = rf"built before adata was subset: {lost:.0%} of the neighbors.*tl\.subcluster"
    with pytest.warns(UserWarning, match=match) as caught:
        sctag.tl.sctag(part, 2, **short)
    assert [warning.filename for warning in caught] == [__file__]


def test_graphs_that_are_whole_are_not_told(blobs, short):
    blobs.obs["donor"] = np.where(np.arange(blobs.n_obs) % 3, "a", "b")
    sctag.pp.build_graph(blobs, 10, batch_key="donor")
    sctag.tl.sctag(blobs, 2, batch_key="donor", **short)
    sc.pp.neighbors(blobs, 7, key_added="seven")
    sctag.tl.sctag(blobs, 2, neighbors_key="seven", **short)


def test_the_graphs_representation_may_be_sparse_but_not_broken(graphed, unchanged):
    x = graphed.obsm["X_pca"]
    graphed.obsm["X_rep"] = sparse.csr_matrix(x)
    sctag.pp.build_graph(graphed, use_rep="X_rep")
    np.testing.assert_array_equal(inputs_of(graphed).representation, x.astype(np.float32))
    graphed.obsm["X_rep"][0, 0] = np.nan
    with unchanged(graphed), pytest.raises(ValueError, match="'X_rep' holds NaN or infinite"):
        inputs_of(graphed)


def test_new_cells_will_find_neighbors_as_the_graph_was_built(graphed):
    graphed.obsm["X_scVI"] = np.random.default_rng(0).normal(size=(150, 4))
    sctag.pp.build_graph(graphed, 6, metric="cosine")
    sctag.pp.build_graph(graphed, 5, use_rep="X_scVI", n_pcs=3, key_added="scvi")
    sc.pp.neighbors(graphed, n_neighbors=8, metric="chebyshev")  # a metric that we do not have
    graphed.uns["mine"] = {"connectivities_key": "connectivities"}
    expected = {"sctag_neighbors": (5, "cosine"), "scvi": (4, "euclidean"), "neighbors": (7, "euclidean")}
    for key, settings in (expected | {"mine": (14, "euclidean")}).items():
        found = inputs_of(graphed, neighbors_key=key).neighbor_settings()
        assert (found.n_neighbors, found.metric) == settings
        if key != "scvi":
            assert found.representation is None
            continue
        np.testing.assert_array_equal(found.representation, graphed.obsm["X_scVI"][:, :3].astype(np.float32))


# --- what joined and old files bring ---


def _joined(blobs, first, second):
    """The blobs twice, each half in its own form."""
    halves = [blobs.copy(), blobs.copy()]
    for half, form in zip(halves, (first, second), strict=True):
        if form in {"logged", "scaled"}:
            sc.pp.normalize_total(half, target_sum=1e4)
        if form == "logged":
            sc.pp.log1p(half)
        if form == "deep":  # so that the largest value is no logarithm
            half.X = half.X * 30
        if form == "corrected":
            half.X.data = half.X.data * np.random.default_rng(0).uniform(0.5, 9, half.X.nnz).astype(np.float32)
    return anndata.concat(halves, index_unique="-")


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_logged_cells_among_counts_are_refused_with_their_number(blobs, kind):
    adata = _joined(blobs, "logged", "deep")
    if kind == "dense":
        adata.X = adata.X.toarray()
    sctag.pp.build_graph(adata)
    with pytest.raises(ValueError, match=r"150 of 300 cells of adata\.X look log-normalized and 150 hold counts"):
        inputs_of(adata)
    with pytest.raises(ValueError, match="150 of 300 cells"):
        inputs_of(_graphed(_joined(blobs, "logged", "corrected")))


def test_values_of_one_total_without_a_logarithm_are_told(blobs):
    with pytest.raises(ValueError, match=r"normalized without a logarithm.*check_values=False"):
        inputs_of(_graphed(_joined(blobs, "scaled", "scaled")))


def test_corrected_counts_are_still_corrected_counts(blobs):
    for other in ("corrected", "deep"):
        with pytest.warns(UserWarning, match="corrected counts"):
            inputs_of(_graphed(_joined(blobs, "corrected", other)))


def _graphed(adata):
    sctag.pp.build_graph(adata)
    return adata


def test_a_layer_of_one_of_two_joined_sets_is_named(blobs):
    """There is no cell to filter, so nothing is said of a filter."""
    one = blobs.copy()
    one.layers["counts"] = one.X.copy()
    adata = anndata.concat([one, blobs], join="outer", index_unique="-")
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    sctag.pp.build_graph(adata)
    match = (
        r"adata\.layers\['counts'\] holds nothing for 150 of 300 cells \(the first is row 150\).*before they are joined"
    )
    with pytest.raises(ValueError, match=match) as caught:
        inputs_of(adata)
    assert "filter" not in str(caught.value)


@pytest.mark.parametrize("n_neighbors", [np.array([10]), None, 10])
def test_graphs_of_old_files_are_read_as_scanpy_reads_them(blobs, short, n_neighbors):
    """Without the names of their matrices, and with a number in an array."""
    sc.pp.neighbors(blobs, 10, use_rep="X")
    blobs.uns["neighbors"] = {"params": {"n_neighbors": n_neighbors, "method": np.str_("umap")}}
    sctag.tl.sctag(blobs, 3, neighbors_key="neighbors", **short)
    model = sctag.ScTAG.from_anndata(blobs)
    assert model.reference.n_neighbors == (14 if n_neighbors is None else 9)


@pytest.mark.parametrize(("names", "shown"), [(["nan", float("nan"), "c"], "nan"), (["a", "b\0", "c"], "b")])
@pytest.mark.parametrize("axis", ["obs", "var"])
def test_names_that_no_file_can_hold_are_refused_before_the_work(graphed, unchanged, names, shown, axis):
    given = pd.Index([*names, *getattr(graphed, f"{axis}_names")[3:]], dtype=object)
    getattr(graphed, axis).index = given
    with pytest.raises(
        ValueError, match=rf"adata\.{axis}_names holds 1 names that no file can hold.*{shown}.*number 1"
    ):
        inputs_of(graphed)


def test_an_empty_x_beside_a_layer_of_counts(blobs, short):
    expected = blobs.copy()
    sctag.pp.build_graph(expected)
    blobs.layers["counts"], blobs.X = blobs.X.copy(), None
    sctag.pp.build_graph(blobs)
    np.testing.assert_array_equal(blobs.obsm["X_pca"], expected.obsm["X_pca"])
    sctag.tl.sctag(blobs, 3, **short)


@pytest.mark.parametrize("where", ["X", "layer", "graph"])
@pytest.mark.parametrize("index", [10**8, 150, -1])
@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_a_damaged_matrix_is_told_before_it_ends_the_interpreter(graphed, unchanged, where, index, kind):
    """An index beyond the matrix is read from anywhere in memory; one below it is taken in silence."""
    damaged = graphed.obsp["sctag_neighbors_connectivities"] if where == "graph" else graphed.X
    damaged = sparse.csc_matrix(damaged) if kind == "csc" else damaged.copy()
    damaged.indices[5] = index
    if where == "graph":
        graphed.obsp["sctag_neighbors_connectivities"] = damaged
    elif where == "X":
        graphed.X = damaged
    else:
        graphed.layers["mine"] = damaged
    with pytest.raises(ValueError, match="A sparse matrix of adata is damaged"):
        sctag.tl.sctag(graphed, 3, layer="mine" if where == "layer" else None)
    assert "sctag" not in graphed.uns
    if where == "X":
        del graphed.obsm["X_pca"]
        with pytest.raises(ValueError, match="A sparse matrix of adata is damaged"):
            sctag.pp.build_graph(graphed)


def test_a_masked_array_is_told(graphed):
    graphed.layers["masked"] = np.ma.masked_greater(graphed.X.toarray(), 5)
    if not isinstance(graphed.layers["masked"], np.ma.MaskedArray):
        pytest.skip("this anndata drops the mask")
    with pytest.raises(ValueError, match=r"masked array.*filled\(0\)"):
        sctag.tl.sctag(graphed, 3, layer="masked")


def test_features_that_are_no_genes_are_told(graphed, short):
    kinds = np.array(["Gene Expression"] * 110 + ["Antibody Capture"] * 10)
    graphed.var["feature_types"] = pd.Categorical(kinds)
    with pytest.warns(UserWarning, match="10 of 120 features are no genes \\(Antibody Capture\\).*feature_types"):
        inputs_of(graphed)
    inputs_of(graphed, mask_var=kinds == "Gene Expression")
    with pytest.raises(ValueError, match="None of the features is a gene"):
        inputs_of(graphed, mask_var=kinds != "Gene Expression")


def test_several_columns_of_batches_are_to_be_joined(graphed, unchanged):
    graphed.obs["donor"], graphed.obs["day"] = "a", "b"
    match = r"one column.*adata\.obs\['batch'\] = adata\.obs\['donor'\]\.astype\(str\) \+ '-' \+ adata\.obs\['day'\]"
    for call in (sctag.pp.build_graph, sctag.tl.sctag):
        with unchanged(graphed), pytest.raises(TypeError, match=match):
            call(graphed, batch_key=["donor", "day"])


def test_gaps_of_an_outer_join_are_named(blobs):
    adata = anndata.concat([blobs[:, :60].copy(), blobs[:, 30:].copy()], join="outer", index_unique="-")
    adata.X = adata.X.toarray()
    adata.X[:150, 60:] = np.nan
    adata.uns["mine"] = {"connectivities_key": "mine"}
    adata.obsp["mine"] = sparse.eye(300, format="csr")
    with pytest.raises(ValueError, match=r"NaN or infinite values.*concat\(\.\.\., fill_value=0\)"):
        sctag.tl.sctag(adata, 3, neighbors_key="mine")


def test_automatic_mixed_precision_around_the_call_does_not_matter(graphed, short):
    expected = sctag.tl.sctag(graphed, 3, copy=True, **short)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sctag.tl.sctag(graphed, 3, **short)
    np.testing.assert_array_equal(graphed.obsm["X_sctag"], expected.obsm["X_sctag"])


def test_reads_that_genes_share_are_no_normalization(blobs):
    """STARsolo divides them: among whole counts there are halves and thirds, of which all are multiples."""
    rng = np.random.default_rng(0)
    blobs.X.data = np.where(
        rng.random(blobs.X.nnz) < 0.05, blobs.X.data + rng.choice([0.5, 1 / 3], blobs.X.nnz), blobs.X.data
    )
    blobs.X.data[0] = 25.5
    sctag.pp.build_graph(blobs)
    with pytest.warns(UserWarning, match="corrected counts"):
        inputs_of(blobs)


@pytest.mark.parametrize("kind", ["GEX", "Gene expression", None])
def test_features_of_a_kind_that_is_not_known_are_taken_for_genes(graphed, kind):
    graphed.var["feature_types"] = pd.Series(kind, graphed.var_names, dtype=object)
    inputs_of(graphed)
