"""The Ray cluster that a run starts for itself: nobody beyond this host can ask it for anything."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

LISTENING = """
import json, psutil
from hpt_megatron.driver.ray.cluster import cluster  # which tells Ray what it reads when it is imported
import ray

@ray.remote
def where(): return ray.util.get_node_ip_address()

with cluster(2, 100):
    address, me = ray.get(where.remote()), psutil.Process()
    family = [me, *me.children(recursive=True)]
    found = [c.laddr.ip for each in family for c in each.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
print(json.dumps([address, found]))
"""


def test_all_of_it_listens_on_loopback_alone():
    done = subprocess.run([sys.executable, "-c", LISTENING], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    address, found = json.loads(done.stdout.splitlines()[-1])
    assert address == "127.0.0.1"
    assert len(found) > 4, "the driver, Ray's two servers and its workers"
    assert {ip.removeprefix("::ffff:") for ip in found} == {"127.0.0.1"}
