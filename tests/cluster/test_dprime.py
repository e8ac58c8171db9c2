"""The distance between groups, against what theory gives for a Gaussian that is cut and for two Gaussians."""

import numpy as np
import pytest

from sctag_tools.cluster.dprime import cross_fitted_dprime, dprime_standard_error, gaussian_dprime


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("distance", [2.0, 5.0, 9.0])
def test_two_gaussians(rng, distance):
    left, right = rng.normal(size=(2, 1500, 6))
    found = cross_fitted_dprime(left, right + np.eye(6)[0] * distance, rng)
    assert found == pytest.approx(distance, rel=0.05)


def test_one_gaussian_cut_in_the_middle(rng):
    cloud = rng.normal(size=(3000, 4))
    found = cross_fitted_dprime(cloud[cloud[:, 0] < 0], cloud[cloud[:, 0] > 0], rng)
    assert found == pytest.approx(2 * np.sqrt(2 / np.pi) / np.sqrt(1 - 2 / np.pi), rel=0.05)


@pytest.mark.parametrize("share", [0.5, 0.2, 0.03])
def test_null_is_one_gaussian_cut_at_a_share(rng, share):
    line = np.sort(rng.normal(size=400_000))
    one, other = np.split(line, [int(share * len(line))])
    expected = (other.mean() - one.mean()) / np.sqrt((one.var() + other.var()) / 2)
    assert gaussian_dprime(share) == pytest.approx(expected, rel=0.01)


def test_groups_drawn_at_random_are_not_apart(rng):
    cloud = rng.normal(size=(60, 15))
    assert cross_fitted_dprime(cloud[:30], cloud[30:], rng) < 1


@pytest.mark.parametrize("sizes", [(400, 900), (200, 20_000), (8_000, 20_000)], ids=str)
def test_standard_error_is_what_repeats_vary_by(sizes):
    """Of many points some are looked at, which is what counts."""
    rng = np.random.default_rng(5)
    found = [
        cross_fitted_dprime(*(rng.normal(i * 3.6, 1, (n, 2)) for i, n in enumerate(sizes)), rng) for _ in range(60)
    ]
    assert np.std(found) == pytest.approx(dprime_standard_error(3.6 * np.sqrt(2), *sizes), rel=0.3)


def test_scale_and_rotation_do_not_matter(rng):
    left, right = rng.normal(size=(200, 3)), rng.normal(size=(50, 3)) + 4
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0] * 7
    one, other = (cross_fitted_dprime(left @ r, right @ r, np.random.default_rng(1)) for r in (np.eye(3), rotation))
    assert one == pytest.approx(other, rel=0.05)


def test_too_few_cells_are_no_evidence(rng):
    assert cross_fitted_dprime(np.zeros((3, 2)), np.ones((50, 2)), rng) == 0
    assert cross_fitted_dprime(np.zeros((4, 2)), np.ones((4, 2)), rng) > 100
