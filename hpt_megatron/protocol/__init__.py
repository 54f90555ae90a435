"""What moves between the parts of a run: typed containers with invariants, on plain tensors."""
