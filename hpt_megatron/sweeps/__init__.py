"""Many runs that differ in a few keys: which they are (`plan.py`), how they are run (`here.py`, `queued.py`,
`search.py`), and what came out (`table.py`)."""
