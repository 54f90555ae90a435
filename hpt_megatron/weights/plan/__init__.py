"""The resharding plan: which rank sends which slice of which tensor to which rank, as arithmetic on two layouts.

    held.py      what a layout is: every parameter, and which rows of which tensors each rank holds of it
    trainer.py   the trainer's layout (tensor and pipeline parallel, padded vocabulary, copies over dp and cp)
    engine.py    the engine's layout in vLLM's terms (stacked qkv and gate_up, shared KV heads, whole vision tower)
    transfer.py  the slices that two layouts have in common, and who sends each of them
    bucket.py    transfers in layer order, in buckets that hold whole modules
    cost.py      bytes per rank and link, buffers, seconds on named links
    publish.py   the plan of a run

No tensor, no process group, no torch: a plan can be printed on a login node and checked exhaustively, and
`weights/simulate.py` executes it on numpy. A thin file per transport executes it in a run.
"""
