"""Credit: what each token of a rollout gets for the score of its group."""
