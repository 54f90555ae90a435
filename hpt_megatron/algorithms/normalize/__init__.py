"""Normalisation: from mixes and coefficients to one weight per token and loss component, denominators included."""
