"""The search service: pages with their text, an index on disk, four wire formats, and the server in front of them."""
