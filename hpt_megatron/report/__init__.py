"""What a run came to, read from its folder: one page, tables, figures."""
