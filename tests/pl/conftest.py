"""A run that chose the number of clusters."""

import numpy as np
import pytest

from sctag_tools.cluster.n_clusters import SplitTests


@pytest.fixture
def chosen(clustered):
    """``clustered`` with made-up tests of 59 splits, the first two of them supported."""
    rng = np.random.default_rng(0)
    tests = SplitTests(
        nodes=list(range(59)),
        coassociation=rng.uniform(0, 1, 59),
        dprime=rng.normal(0, 3, 59),
        null_dprime=rng.uniform(2.6, 4, 59),
        supported=np.arange(59) < 2,
        max_coassociation=0.75,
    )
    clustered.uns["sctag"]["n_clusters_curve"] = tests.curve()
    clustered.uns["sctag"]["params"]["resolution"] = 2.0
    return clustered
