"""`hpt sft [OVERRIDE...]`: trains on demonstrations alone; no response is sampled but where it is validated.

It is `hpt train` with `trainer.sft_warmup_steps=null`, whatever the experiment says, and without a bonus on entropy.

Example:
    $ hpt sft experiment=hpt-7b model.path=... data.train_files=[train.parquet]
"""

from hpt_megatron.cli import train

SUPERVISED = ("trainer.sft_warmup_steps=null", "algorithm.entropy_coeff=0.0")


def run(arguments: list[str]) -> int:
    """Trains one supervised run."""
    return train.run(arguments, "sft", __doc__, SUPERVISED)
