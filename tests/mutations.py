"""Break the package on purpose, one line at a time, and see that a test notices.

``python tests/mutations.py`` copies the package and its tests to a temporary folder for each entry of MUTATIONS,
changes one line there, and runs the named tests on the copy, which must fail; the checkout is never touched. It prints
a table and ends with 1 if a mutation survives. Words after the command keep those mutations alone whose file or meaning
has one of them. tests/test_mutations.py checks with every run of the tests that the list still fits the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "sctag_tools"
TIMEOUT = 600
_PASSED, _FAILED = (
    0,
    1,
)  # what pytest returns; anything else is no verdict (a file that cannot be imported, no such test)


class Mutation(NamedTuple):
    file: str  # in the package
    meaning: str
    old: str  # occurs once in the file
    new: str
    tests: str  # in tests/, separated by spaces; at least one must fail


MUTATIONS = [
    # losses
    Mutation(
        "_core/losses.py",
        "multinomial: sign flipped",
        "return -(counts * logits.log_softmax(dim=1))",
        "return (counts * logits.log_softmax(dim=1))",
        "core/test_losses.py::test_multinomial_against_scipy",
    ),
    Mutation(
        "_core/losses.py",
        "multinomial: not per count",
        ".sum(dim=1) / total.clamp(min=1.0)",
        ".sum(dim=1)",
        "core/test_losses.py::test_multinomial_against_scipy",
    ),
    Mutation(
        "_core/losses.py",
        "ZINB: kept and dropped swapped",
        "F.logsigmoid(-dropout_logit[where])",
        "F.logsigmoid(dropout_logit[where])",
        "core/test_losses.py::test_zinb_probabilities_sum_to_one",
    ),
    Mutation(
        "_core/losses.py",
        "graph: a cell decodes its edge to itself",
        "similarity.masked_fill(same_cell, -torch.inf).log_softmax(dim=1)",
        "similarity.log_softmax(dim=1)",
        "core/test_losses.py::test_graph_cross_entropy_by_hand",
    ),
    Mutation(
        "_core/losses.py",
        "assignment: distance not squared",
        "similarity = 1 / (1 + distance.square())",
        "similarity = 1 / (1 + distance)",
        "core/test_losses.py::test_soft_assignment_is_student_t_in_units_of_spread",
    ),
    Mutation(
        "_core/losses.py",
        "target: not divided by the size of a cluster",
        "q.square() / q.sum(dim=0).clamp(min=torch.finfo(q.dtype).tiny)",
        "q.square()",
        "core/test_losses.py::test_target_distribution_sharpens_and_favours_small_clusters",
    ),
    Mutation(
        "_core/losses.py",
        "clusters: KL the other way round",
        "(torch.xlogy(p, p) - p * q.clamp(min=1e-12).log())",
        "(torch.xlogy(q, q) - q * p.clamp(min=1e-12).log())",
        "core/test_losses.py::test_cluster_divergence_is_kl_of_p_from_q",
    ),
    # graph
    Mutation(
        "_core/graph.py",
        "graph: not normalised",
        "sparse.csr_matrix(scaling @ adjacency @ scaling, dtype=np.float32)",
        "sparse.csr_matrix(adjacency, dtype=np.float32)",
        "core/test_graph.py::test_normalisation_equals_dense_algebra",
    ),
    Mutation(
        "_core/graph.py",
        "graph: normalised by rows",
        "scaling @ adjacency @ scaling",
        "scaling @ scaling @ adjacency",
        "core/test_graph.py::test_normalisation_equals_dense_algebra",
    ),
    Mutation(
        "_core/graph.py",
        "graph: self-loops",
        "adjacency.data[adjacency.indices == rows] = 0",
        "adjacency.data[adjacency.indices == rows] = 1",
        "core/test_graph.py::test_self_loops_are_dropped",
    ),
    Mutation(
        "_core/graph.py",
        "hops: always the first, as in the published code",
        "np.ascontiguousarray(blocks[:, k, columns])",
        "np.ascontiguousarray(blocks[:, 0, columns])",
        "core/test_graph.py::test_hop_blocks_are_powers_of_the_adjacency",
    ),
    # networks
    Mutation(
        "_core/model.py",
        "hop weights: in the wrong order",
        "for hop, linear in enumerate(layer.lins)",
        "for hop, linear in enumerate(reversed(list(layer.lins)))",
        "core/test_graph.py::test_tag_layer_over_hop_blocks_equals_pyg_and_a_dense_sum",
    ),
    Mutation(
        "_core/model.py",
        "hop weights: no bias",
        "out: Tensor = layer.bias",
        "out: Tensor = torch.zeros_like(layer.bias)",
        "core/test_graph.py::test_tag_layer_over_hop_blocks_equals_pyg_and_a_dense_sum",
    ),
    Mutation(
        "_core/model.py",
        "context: a hop too far",
        "F.linear(blocks[:, :-1].flatten(1), weights)",
        "F.linear(blocks[:, 1:].flatten(1), weights)",
        "core/test_fitted.py::test_placed_as_a_graph_with_the_cell_in_it_places_it",
    ),
    Mutation(
        "_core/model.py",
        "ZINB: no size factor",
        "self.batch_effects(self.log_mean(hidden), batch_numbers) + log_size[:, None]",
        "self.batch_effects(self.log_mean(hidden), batch_numbers)",
        "core/test_steps.py::test_the_zinb_mean_grows_with_the_size_factor",
    ),
    Mutation(
        "_core/model.py",
        "mask: what is left is not scaled up",
        ".to(part.blocks.dtype).mul_(1 / (1 - self.mask_rate))",
        ".to(part.blocks.dtype)",
        "core/test_steps.py::test_a_mask_hides_genes_in_all_hops_alike_and_keeps_the_mean",
    ),
    Mutation(
        "_core/model.py",
        "mask: networks see the same genes",
        "own = (drawn + number / len(self.networks)).frac_()",
        "own = drawn.frac()",
        "core/test_steps.py::test_a_mask_hides_genes_in_all_hops_alike_and_keeps_the_mean",
    ),
    Mutation(
        "_core/model.py",
        "shares: each gets the mask of the first rows",
        "batch.share.of(mask)[:, None]",
        "mask[: len(batch.blocks), None]",
        "core/test_steps.py::test_shares_of_a_batch_add_up_to_it",
    ),
    Mutation(
        "_core/model.py",
        "shares: not weighted by their rows",
        "return len(self.counts) / self.n_rows",
        "return 1 / self.share.n_shares",
        "core/test_steps.py::test_shares_of_a_batch_add_up_to_it",
    ),
    Mutation(
        "_core/model.py",
        "clusters: target and assignment swapped",
        "losses.cluster_divergence(batch.target, self.assignment(latent))",
        "losses.cluster_divergence(self.assignment(latent), batch.target)",
        "core/test_steps.py::test_the_terms_of_the_loss_by_hand",
    ),
    # inputs
    Mutation(
        "_core/inputs.py",
        "size factors: mean for median",
        "totals / np.median(totals)",
        "totals / np.mean(totals)",
        "core/test_inputs.py::test_size_factors_are_totals_over_the_median",
    ),
    Mutation(
        "_core/inputs.py",
        "expression: depth left in",
        "x *= (_TARGET_SUM / totals).astype(np.float32)[:, None]",
        "x *= np.float32(_TARGET_SUM / np.median(totals))",
        "core/test_inputs.py::test_scaled_expression_equals_scanpy",
    ),
    Mutation(
        "_core/inputs.py",
        "expression: genes keep their variance",
        "x[:, columns] /= self.spread[columns]",
        "pass",
        "core/test_inputs.py::test_scaled_expression_equals_scanpy",
    ),
    Mutation(
        "_core/inputs.py",
        "expression: batches not centred",
        "return means[-1] if batches is None else means[batches]",
        "return means[-1]",
        "test_batches.py::test_expression_is_centred_within_batches",
    ),
    # from latents to clusters
    Mutation(
        "_core/latent.py",
        "joint latent: networks on scales of their own",
        "parts = [(latent - mean) / scale for",
        "parts = [(latent - mean) for",
        "core/test_latent.py",
    ),
    Mutation(
        "_core/latent.py",
        "spread: of all cells, not within clusters",
        "(latent - centroids[members]).std()",
        "latent.std()",
        "core/test_latent.py::test_centroids_and_spread_by_hand",
    ),
    Mutation(
        "_core/consensus.py",
        "co-association: groups not divided by their size",
        "share = shared.reshape(len(sizes), n_clusters) / sizes[:, None]",
        "share = shared.reshape(len(sizes), n_clusters)",
        "core/test_consensus.py::test_coassociation_is_that_of_the_cells",
    ),
    Mutation(
        "_core/consensus.py",
        "linkage: groups weigh the same",
        "(sizes[i] * similarity[i] + sizes[j] * similarity[j]) / (sizes[i] + sizes[j])",
        "(similarity[i] + similarity[j]) / 2",
        "core/test_consensus.py::test_average_linkage_is_scipys_when_groups_are_repeated",
    ),
    Mutation(
        "_core/consensus.py",
        "number of clusters: no gap asked for",
        "agreed[node] < limit and apart[node] > _SEPARATED",
        "agreed[node] < limit",
        "core/test_consensus.py::test_a_lengthy_cloud_is_one_cluster",
    ),
    Mutation(
        "_core/confidence.py",
        "confidence: the rarest cluster stands for another's",
        "shared.argmax(axis=1)[other] == labels",
        "shared.argmin(axis=1)[other] == labels",
        "core/test_confidence.py::test_agreement_by_hand",
    ),
    Mutation(
        "_core/confidence.py",
        "confidence: splits and mergers pass for agreement",
        "_STRICT = 0.2",
        "_STRICT = 0.0",
        "core/test_confidence.py::test_a_cluster_that_others_split_is_less_sure",
    ),
    Mutation(
        "_core/neighbors.py",
        "batches: rows not sorted by the distances that weights are made of",
        "return _self_first(found.indices, distances)",
        "return Neighbors(found.indices, distances)",
        "test_batches.py::test_levelled_distances_start_at_zero_in_each_batch",
    ),
    Mutation(
        "_core/confidence.py",
        "confidence: assignment left out",
        "(stays + expected) / 2",
        "stays",
        "core/test_confidence.py::test_it_tells_apart_cells_that_other_runs_keep_alike",
    ),
    # training
    Mutation(
        "_core/train.py",
        "target: not sharpened when it is refreshed",
        "self._target = losses.target_distribution(q)",
        "self._target = q",
        "core/test_steps.py::test_the_target_is_sharpened_from_the_networks_as_they_are",
    ),
    Mutation(
        "_core/train.py",
        "target: never refreshed",
        "if step % _REFRESH_EVERY:",
        "if step:",
        "core/test_steps.py::test_the_target_is_sharpened_from_the_networks_as_they_are",
    ),
    Mutation(
        "_core/train.py",
        "loss: weights of its terms left out",
        "sum(self._weights[name] * term for",
        "sum(term for",
        "core/test_fit.py::test_history_is_the_weighted_sum",
    ),
    Mutation(
        "_core/fit.py",
        "results in the order of training",
        "back = np.argsort(order)",
        "back = np.arange(len(order))",
        "core/test_fitted.py::test_reference_holds_the_run_in_the_order_of_the_cells",
    ),
    # the published method
    Mutation(
        "_core/published_losses.py",
        "published KL: sign flipped",
        "(of * (of / from_).log())",
        "(of * (from_ / of).log())",
        "core/test_published.py::test_divergence_is_kl_with_keras_floor",
    ),
    Mutation(
        "_core/published_losses.py",
        "published graph loss: ones count as minus ones",
        "flat[ones] -= 1",
        "flat[ones] += 1",
        "core/test_published.py::test_graph_loss_equals_dense_error",
    ),
    Mutation(
        "_core/published_losses.py",
        "published ZINB: no size factors at zeros",
        "mu.mul_(sizes)",
        "pass",
        "core/test_published.py::test_zinb_equals_numpy_formula",
    ),
    Mutation(
        "_core/published_net.py",
        "published layer: two hops dropped",
        "[kernels[0], kernels[1:].sum(dim=0)]",
        "[kernels[0], kernels[1]]",
        "core/test_published.py::test_layer_equals_dense_concatenation",
    ),
    Mutation(
        "_core/published.py",
        "published graph: no self-loops",
        'graph = graph + sparse.identity(n, dtype=np.float32, format="csr")',
        "pass",
        "core/test_published.py::test_graph_keeps_neighbours_at_distance_zero_and_adds_each_cell_once",
    ),
    Mutation(
        "_core/published_train.py",
        "published self-training: the two divergences swapped",
        "divergence(p, new) if p_from_q else divergence(new, p)",
        "divergence(new, p) if p_from_q else divergence(p, new)",
        "core/test_published.py::test_each_divergence_is_the_one_that_is_named",
    ),
    # new cells
    Mutation(
        "_core/fitted.py",
        "new cells: gain of the normalised graph left out",
        "np.full(found.size, self.gain / found.shape[1], np.float32)",
        "np.full(found.size, 1 / found.shape[1], np.float32)",
        "core/test_fitted.py::test_placed_as_a_graph_with_the_cell_in_it_places_it",
    ),
    Mutation(
        "_core/fitted.py",
        "new cells: clusters in the order of the centroids",
        "proba = q[:, self.columns]",
        "proba = q[:, np.sort(self.columns)]",
        "core/test_fitted.py::test_new_cells_join_the_clusters_of_their_group",
    ),
    Mutation(
        "_core/fitted.py",
        "new cells: hidden genes are not made up for",
        "torch.from_numpy(x * float(len(known) / known.sum()))",
        "torch.from_numpy(x)",
        "core/test_fitted.py::test_unknown_genes_are_hidden",
    ),
    Mutation(
        "_core/model.py",
        "decoding: an unknown batch is the first",
        "self.effects.mean(dim=0, keepdim=True)",
        "self.effects[:1]",
        "core/test_fitted.py::test_batch_effects_are_those_of_the_cell_and_averaged_for_others "
        "tl/test_denoise.py::test_batches_have_their_own_effect",
    ),
    Mutation(
        "_core/separation.py",
        "standard error: of all points, also those not looked at",
        "min(n_left, _MOST), min(n_right, _MOST)",
        "n_left, n_right",
        "core/test_separation.py::test_standard_error_is_what_repeats_vary_by",
    ),
    Mutation(
        "_core/separation.py",
        "standard error: variances pooled",
        "np.sqrt((1 / n_left + 1 / n_right) * (1 + distance**2 / 8))",
        "np.sqrt(1 / n_left + 1 / n_right + distance**2 / (2 * (n_left + n_right)))",
        "core/test_separation.py::test_standard_error_is_what_repeats_vary_by",
    ),
    Mutation(
        "_blocks.py",
        "blocks: totals over the chosen columns alone",
        "rows.sum(axis=1, dtype=np.float64)",
        "rows[:, columns].sum(axis=1, dtype=np.float64)",
        "test_interop.py::test_counts_that_are_not_in_memory",
    ),
    Mutation(
        "_blocks.py",
        "blocks: only the first is checked for negative values",
        "least=min((block.least for block in of_blocks), default=0)",
        "least=of_blocks[0].least",
        "test_interop.py::test_each_block_is_checked",
    ),
    Mutation(
        "_blocks.py",
        "blocks: the last rows are left out",
        "for start in range(0, n_rows, step):",
        "for start in range(0, n_rows - step, step):",
        "test_interop.py::test_counts_that_are_not_in_memory",
    ),
    Mutation(
        "_core/neighbors.py",
        "cosine: zeros half as far as they are",
        "np.hstack([rows, nowhere.astype(rows.dtype)])",
        "rows",
        "core/test_neighbors.py::test_rows_without_a_direction_are_as_far_as_a_right_angle",
    ),
    Mutation(
        "tl/_sctag.py",
        "results share memory with the model",
        "= found.latent.copy()",
        "= found.latent",
        "tl/test_sctag.py::test_results_do_not_share_memory_with_the_model",
    ),
    Mutation(
        "_core/novelty.py",
        "novelty: sparse regions not made up for",
        "np.log((distances.mean(axis=1) + _TINY) / (around + _TINY))",
        "np.log(distances.mean(axis=1) + _TINY)",
        "core/test_novelty.py::test_sparse_regions_are_not_new_for_being_sparse",
    ),
    Mutation(
        "_core/novelty.py",
        "novelty: depth left in",
        "cells.unexplained - self._of_depth(np.clip(_log(cells.depth), *self._depths))",
        "cells.unexplained",
        "core/test_novelty.py::test_shallow_cells_are_not_new_for_being_shallow",
    ),
    Mutation(
        "_core/novelty.py",
        "novelty: sign of the divergence flipped",
        "observed * (np.log(observed) - np.log(shares[cells, genes] + _TINY))",
        "observed * (np.log(shares[cells, genes] + _TINY) - np.log(observed))",
        "core/test_novelty.py::test_unexplained_is_the_divergence_of_the_shares",
    ),
]


def mutated(mutation: Mutation, text: str) -> str:
    """The text of a file with the mutation; raises ValueError unless it has exactly one place."""
    found = text.count(mutation.old)
    if found != 1:
        msg = f"{mutation.file}: {mutation.old!r} occurs {found} times, not once ({mutation.meaning})"
        raise ValueError(msg)
    return text.replace(mutation.old, mutation.new)


def _run(folder: Path, tests: list[str]) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *(f"tests/{t}" for t in tests)]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return -1, f"no end after {TIMEOUT} s"
    return done.returncode, done.stdout + done.stderr


def _copy(folder: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in (PACKAGE, "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    where = "import importlib.util as u; print(u.find_spec('sctag_tools').origin)"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout
    if folder not in Path(found.strip()).parents:
        msg = f"tests in {folder} would run on {found.strip()}"
        raise RuntimeError(msg)


def attempt(mutation: Mutation | None, tests: list[str]) -> tuple[int, str]:
    """What pytest returns and says of these tests on a copy with this mutation, or with none."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        _copy(folder)
        if mutation is not None:
            path = folder / PACKAGE / mutation.file
            path.write_text(mutated(mutation, path.read_text("utf-8")), "utf-8")
        return _run(folder, tests)


def main(words: list[str]) -> int:
    chosen = [m for m in MUTATIONS if not words or any(word in f"{m.file} {m.meaning}" for word in words)]
    for mutation in chosen:
        mutated(mutation, (ROOT / PACKAGE / mutation.file).read_text("utf-8"))
    tests = sorted({test for mutation in chosen for test in mutation.tests.split()})
    code, said = attempt(None, tests)
    if code != _PASSED:
        print(said[-4000:], "\nThe tests do not pass without any mutation.")  # noqa: T201
        return 1
    survivors = 0
    for mutation in chosen:
        start = time.perf_counter()
        code, said = attempt(mutation, mutation.tests.split())
        verdict = {_FAILED: "caught", _PASSED: "SURVIVED"}.get(code, "NO VERDICT")
        survivors += code != _FAILED
        seconds = time.perf_counter() - start
        print(f"{verdict:10} {seconds:5.0f} s  {mutation.file:26} {mutation.meaning}", flush=True)  # noqa: T201
        if code not in {_PASSED, _FAILED}:
            print(said[-2000:])  # noqa: T201
    print(f"{len(chosen) - survivors} of {len(chosen)} mutations caught")  # noqa: T201
    return int(survivors > 0 or not chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
