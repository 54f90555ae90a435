"""Which tensor of a checkpoint is which parameter of the trainer, and how parameters are cut: one table per family."""
