"""Quantised checkpoints, made by NVIDIA ModelOpt and written in the layout that vLLM loads.

    formats.py       fp8, int8, int4_awq: ModelOpt's recipe, and what the written folder says of itself
    calibration.py   what the model reads before int4_awq chooses its scales
    modelopt.py      the model in memory, quantised
    layout.py        ModelOpt's tensors as vLLM names and packs them
    exporting.py     from a checkpoint to the folder

The linear layers of the language model are quantised. The vision tower, the embedding and the output matrix stay as
they are: they are a small part of the bytes and a large part of the harm.
"""
