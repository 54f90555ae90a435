"""Megatron-core behind our own door: only this package imports it.

Every module here may rely on `capability` having looked at the CUDA-only parts first: a Transformer Engine that cannot
load has to be hidden before megatron-core tries it, or the import of megatron-core fails with it.
"""

from hpt_megatron.mcore import capability as capability
