"""A merge by the nodes of a Ray cluster with shared storage."""
