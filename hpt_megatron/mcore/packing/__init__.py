"""From rows to the tensors of a micro-batch on one rank."""
