"""Resources by which the nodes of a job say what they are for (`cluster/ray_node.py`): so many devices each.

A cluster whose nodes say nothing, such as one of a single host, is filled in the order of its nodes.
"""

TRAINER, ROLLOUT = "hpt_trainer", "hpt_rollout"
