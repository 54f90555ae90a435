"""Prompts with their targets and images: read, checked, prepared, and taken in an order that can be resumed."""
