"""A machine without an accelerator."""
