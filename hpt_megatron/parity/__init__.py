"""Whether a checkpoint under a layout is, number for number, the model that transformers loads."""
