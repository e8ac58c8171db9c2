"""Files: counts that users have, and models that are kept."""
