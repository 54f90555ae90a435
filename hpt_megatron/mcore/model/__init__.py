"""The model: layers, tower, heads, and which parameter is which."""
