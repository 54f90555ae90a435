"""Tensors on their way between processes: as arrays, whose bytes pickle leaves where they are.

torch pickles a tensor by copying it into the stream. An array goes out of band under protocol 5: a store of objects
keeps its bytes as they are, and whoever takes them out sees the same memory. It can only be read there, which suits
containers that nobody changes in place.

Example:
    >>> import pickle
    >>> kept = []
    >>> stream = pickle.dumps(arrays({"ids": torch.arange(1000)}), protocol=5, buffer_callback=kept.append)
    >>> len(stream) < 300, tensors(pickle.loads(stream, buffers=kept))["ids"].sum().item()
    (True, 499500)
"""

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def arrays(columns: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Views of the tensors' memory."""
    return {name: column.numpy() for name, column in columns.items()}


def tensors(columns: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The way back, without a copy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return {name: torch.from_numpy(column) for name, column in columns.items()}
