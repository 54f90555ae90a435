"""What a run is: composed by Hydra from `configs/`, checked at the door, then frozen.

    override strings --overrides.py--> known keys only --compose.py (Hydra)--> plain values
        --typed.py--> RunConfig (run.py, frozen dataclasses) --rules/--> problems, all of them at once

    own_files.py reads a user's own file before Hydra does, for the same reason as overrides.py

Nothing outside `compose.py` sees Hydra or OmegaConf, and nothing here imports torch: a login node can check a run.
`load.py` is the way in for every verb.
"""
