"""Roles as Ray actors: where they stand, how they are called, what moves between them.

What Ray reads from the environment it reads when it is imported. So it is set here, before any file of this room does
that: a token is asked for, nothing is reported to anybody or collected for that, and a GPU that an actor did not ask
for stays visible to the processes that it starts. Whoever sets any of these otherwise is obeyed.
"""

import os

SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
if not os.environ.get("RAY_ADDRESS"):
    # Ray takes 127.0.0.1 for a mistake, and would listen on every address; this is how it is told on other systems that
    # a cluster of one host is wanted.
    SETTINGS["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)
