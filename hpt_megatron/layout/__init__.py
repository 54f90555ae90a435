"""Who does what: rows to micro-batches, images to ranks, layers to stages; on plain numbers, no process group anywhere.

    cost.py    what a row, an image, a head costs, in floating point operations of its forward pass
    packs.py   rows -> packs -> data-parallel ranks: every rank as many packs, and about the same cost
    sizes.py   what a plan is made from: rows, images, limits; bins.py fills packs, ranks.py deals and levels them
    share.py   images of a micro-batch -> the ranks that encode them
    stages.py  decoder layers -> pipeline stages, also where they do not divide evenly

Every rank computes the same plan from the same numbers, so nothing here is sent around, and nothing may depend on the
machine, the clock, or the order of a set.
"""
