"""The visual search agent: a conversation of several turns in which the policy searches pages, looks closer, answers.

`machine.py` decides, `episode.py` carries out, `lockstep.py` and `concurrent.py` drive many at once.
"""
