"""The formats that search requests travel in, one file each, both sides in it, nothing but pure functions."""
