"""The agent's side of searching: a client that batches, retries and trusts nothing."""
