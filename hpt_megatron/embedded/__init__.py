"""The embedded default: what is small enough to run, for real, on two CPU cores."""
