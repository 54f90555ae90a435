"""What an agent can do besides answering: one file per tool, by name in `tool.py:TOOLS`."""
