"""Pairs of about the same confidence: what calibration counts them in, and what a report draws.

Example: Bin(low=0.6, high=0.667, pairs=12, confidence=0.63, right=0.75)
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bin:
    """Its bounds, how many pairs there are, their mean confidence, and the share of them that is right."""

    low: float
    high: float
    pairs: int
    confidence: float
    right: float
