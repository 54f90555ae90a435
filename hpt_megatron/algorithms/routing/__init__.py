"""Routing (`unify_strategy`): from the outcome of a prompt to how much it explores and how much it imitates."""
