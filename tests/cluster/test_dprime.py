"""The distance between groups, against what theory gives for a Gaussian that is cut and for two Gaussians."""

import numpy as np
import pytest

from sctag_tools._core.separation import separation, standard_error

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("distance", [2.0, 5.0, 9.0])
def test_two_gaussians(distance):
    left, right = RNG.normal(size=(2, 1500, 6))
    found = separation(left, right + np.eye(6)[0] * distance, RNG)
    assert found == pytest.approx(distance, rel=0.05)


def test_one_gaussian_cut_in_the_middle():
    cloud = RNG.normal(size=(3000, 4))
    found = separation(cloud[cloud[:, 0] < 0], cloud[cloud[:, 0] > 0], RNG)
    assert found == pytest.approx(2 * np.sqrt(2 / np.pi) / np.sqrt(1 - 2 / np.pi), rel=0.05)


def test_groups_drawn_at_random_are_not_apart():
    cloud = RNG.normal(size=(60, 15))
    assert separation(cloud[:30], cloud[30:], RNG) < 1


@pytest.mark.parametrize("sizes", [(400, 900), (200, 20_000), (8_000, 20_000)], ids=str)
def test_standard_error_is_what_repeats_vary_by(sizes):
    """Of many points some are looked at, which is what counts."""
    rng = np.random.default_rng(5)
    found = [separation(*(rng.normal(i * 3.6, 1, (n, 2)) for i, n in enumerate(sizes)), rng) for _ in range(60)]
    assert np.std(found) == pytest.approx(standard_error(3.6 * np.sqrt(2), *sizes), rel=0.3)


def test_scale_and_rotation_do_not_matter():
    left, right = RNG.normal(size=(200, 3)), RNG.normal(size=(50, 3)) + 4
    rotation = np.linalg.qr(RNG.normal(size=(3, 3)))[0] * 7
    one, other = (separation(left @ r, right @ r, np.random.default_rng(1)) for r in (np.eye(3), rotation))
    assert one == pytest.approx(other, rel=0.05)


def test_too_few_cells_are_no_evidence():
    assert separation(np.zeros((3, 2)), np.ones((50, 2)), RNG) == 0
    assert separation(np.zeros((4, 2)), np.ones((4, 2)), RNG) > 100
