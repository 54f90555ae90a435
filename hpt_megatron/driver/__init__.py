"""Who runs a run: the loop over roles, and the cluster on which the roles live."""
