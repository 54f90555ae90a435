"""What a response is worth: components that look at text and numbers, and their weighted, gated sum.

Decision: a component is a small frozen dataclass that sees one `Sample` and answers one `Result`. It knows nothing of
the others, of tokens or of tensors. `composition.py` adds them up, `composition_file.py` reads the sum from JSON,
`by_number.py` knows those with a number. `scorer.py` scores many samples at once; what computes on a model's text runs
in `workers.py`, and `build.py` makes all of it from a run.

Invariants
    1. A component sees text that the policy sampled, turn by turn, and never an observation.
    2. A component that fails leaves a flag and makes the row invalid; it is never a plain 0.
    3. No text of a model is evaluated, unpickled or parsed as XML.
"""
