"""Tables of what a result holds."""

from ._clusters_df import clusters_df
from ._splits_df import splits_df

__all__ = ["clusters_df", "splits_df"]
