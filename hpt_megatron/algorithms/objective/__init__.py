"""Loss components: each turns log-probs and stored columns into a loss per token."""
