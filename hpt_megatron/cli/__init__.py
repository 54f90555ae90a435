"""The command `hpt`: one file per verb, imported only when that verb runs."""
