"""From a run to its parts: the one place that names concrete classes."""
