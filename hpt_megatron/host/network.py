"""The addresses of this host: which one a job's own traffic goes through.

Example: address = address_of(None); interface = interface_of(address)
"""

import socket

import psutil

from hpt_megatron.errors import UserError

LOOPBACK = "127.0.0.1"


def _addresses() -> dict[str, str]:
    """The first IPv4 address of every interface that is up."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found: dict[str, str] = {}
    for name, addresses in psutil.net_if_addrs().items():
        for each in addresses:
            if name in up and each.family == socket.AF_INET:
                found.setdefault(name, each.address)
    return found


def address_of(interface: str | None) -> str:
    """Of the interface; else what the host's name stands for, and where that only leads back here, the first one."""
    found = _addresses()
    if interface is not None:
        if interface not in found:
            mend = f"one of {', '.join(found)}"
            raise UserError(f"{socket.gethostname()} has no such interface", where="cluster.interface", mend=mend)
        return found[interface]
    try:
        named = socket.gethostbyname(socket.gethostname())
    except OSError:
        named = LOOPBACK
    if named in found.values() and not named.startswith("127."):
        return named
    return next((address for address in found.values() if not address.startswith("127.")), LOOPBACK)


def interface_of(address: str) -> str | None:
    """The one that has it."""
    return next((name for name, own in _addresses().items() if own == address), None)
