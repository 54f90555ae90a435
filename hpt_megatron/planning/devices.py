"""Named devices and links: capacity, rates, and where each figure comes from.

Rates are peaks of data sheets, dense; what a program reaches of them is a share, and the shares stand here, once:

    matrix products   0.60 of the peak: what large bf16 products of Hopper reach, about 600 of 989 TFLOP/s
    attention         0.40: fused attention forward and backward together
    memory            0.80 of the bandwidth, for reads in order (decoding, optimizer)
    links             0.80 of one direction

They are assumptions until a run has been measured; `benchmarks/planner.py` prints what they lead to beside published
figures.

Invariants
    1. Bytes of memory are 10^9 per GB, as the sheets count; the planner's tables are in GiB.
    2. A device has one link within its node and one between nodes; a host of processes has memory in both places.

Example:
    >>> asked = read_devices("h100:64")
    >>> asked.device.name, asked.count, asked.nodes, asked.per_node
    ('h100', 64, 8, 8)
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches

from hpt_megatron.errors import UserError
from hpt_megatron.host.facts import free_memory
from hpt_megatron.planning.this_host import memory_rate, product_rate
from hpt_megatron.weights.plan.cost import GB, LINKS

PER_NODE = 8
MOST = 1 << 17
LINK_RATES = {**LINKS, "NVLink3": 300.0, "NVLink5": 900.0, "InfiniBand 200 Gb/s": 25.0, "PCIe 4 x16": 27.0}
"""GB/s in each direction; the first three are those of the publishing plan, PCIe as it is reached."""
HOST = "host"


@dataclass(frozen=True, kw_only=True)
class Device:
    """What one device has and how fast it is."""

    name: str
    title: str
    memory: int  # bytes
    flops: float  # per second, dense, in the run's precision
    bandwidth: float  # bytes per second of its memory
    within: str
    between: str
    to_host: str
    source: str
    processes: bool = False  # of a host without an accelerator: twins for fused kernels, gloo, the C allocator
    usable: float = 0.95  # of its memory: the driver and the caching allocator's fragments take the rest
    runtime: int = 1_500_000_000  # context, library workspaces and communicators of one process
    product_share: float = 0.60
    attention_share: float = 0.40
    memory_share: float = 0.80
    link_share: float = 0.80
    launch: float = 1.5e-5  # seconds that a collective takes beyond its bytes

    @property
    def room(self) -> int:
        """Bytes that a plan may use."""
        return int(self.usable * self.memory)

    def rate(self, link: str) -> float:
        """Bytes per second that a link gives; host memory is the device's own."""
        if link == HOST:
            return self.bandwidth
        return LINK_RATES[link] * GB * self.link_share


SHEET = "NVIDIA data sheet"
NAMED = {
    device.name: device
    for device in (
        Device(
            name="a100",
            title="A100 SXM 80 GB",
            memory=80 * GB,
            flops=312e12,
            bandwidth=2039e9,
            within="NVLink3",
            between="InfiniBand 200 Gb/s",
            to_host="PCIe 4 x16",
            source=f"{SHEET} A100 80GB SXM: 312 TFLOPS BF16 dense, 2,039 GB/s, NVLink 600 GB/s both ways",
        ),
        Device(
            name="h100",
            title="H100 SXM 80 GB",
            memory=80 * GB,
            flops=989e12,
            bandwidth=3350e9,
            within="NVLink4",
            between="InfiniBand 400 Gb/s",
            to_host="PCIe 5 x16",
            source=f"{SHEET} H100 SXM: 989 TFLOPS BF16 dense, 3.35 TB/s, NVLink 900 GB/s both ways",
        ),
        Device(
            name="h200",
            title="H200 SXM 141 GB",
            memory=141 * GB,
            flops=989e12,
            bandwidth=4800e9,
            within="NVLink4",
            between="InfiniBand 400 Gb/s",
            to_host="PCIe 5 x16",
            source=f"{SHEET} H200 SXM: 989 TFLOPS BF16 dense, 4.8 TB/s, NVLink 900 GB/s both ways",
        ),
        Device(
            name="b200",
            title="B200 HGX 192 GB",
            memory=192 * GB,
            flops=2250e12,
            bandwidth=8000e9,
            within="NVLink5",
            between="InfiniBand 400 Gb/s",
            to_host="PCIe 5 x16",
            source=f"{SHEET} HGX B200: 2,250 TFLOPS BF16 dense, 8 TB/s, NVLink 1.8 TB/s both ways; "
            "192 GB as named, of which a system may show 180",
        ),
    )
}
LARGEST = max(NAMED.values(), key=lambda device: device.memory)


@dataclass(frozen=True)
class Asked:
    """So many devices of one kind."""

    device: Device
    count: int
    per_node: int

    @property
    def nodes(self) -> int:
        """Nodes that hold them."""
        return self.count // self.per_node


def this_host(processes: int) -> Device:
    """One process of this host as a device: its share of the free memory, rates measured now."""
    return Device(
        name=HOST,
        title="a process on this host",
        memory=free_memory() // processes,
        flops=product_rate(),
        bandwidth=memory_rate() * GB,
        within=HOST,
        between=HOST,
        to_host=HOST,
        source="measured now: free memory, one thread's float32 matrix product, one copy of 64 MiB",
        processes=True,
        usable=1.0,
        runtime=5_000_000,
        product_share=0.5,  # small products, and everything between them, beside one large product
        attention_share=0.25,
        memory_share=1.0,
        link_share=0.5,
        launch=3e-4,
    )


def read_devices(text: str) -> Asked:
    """What `devices=KIND:COUNT` asks for; nodes have 8 devices, a host is one node."""
    where = f"devices={text}"
    kinds = [*NAMED, HOST]
    match = re.fullmatch(r"([a-z]\w*)(?::(\d{1,12}))?", text.strip().lower())
    if match is None:
        raise UserError("is not a kind and a number", where=where, mend="write KIND:COUNT, for example devices=h100:64")
    kind, count = match[1], int(match[2] or PER_NODE)
    if kind not in kinds:
        near = get_close_matches(kind, kinds, n=1, cutoff=0.5)
        mend = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"no device is named {kind!r}", where=where, mend=f"{mend}known: {', '.join(kinds)}")
    if not 1 <= count <= MOST:
        raise UserError(f"{count} devices are none that a run can have", where=where, mend=f"1 to {MOST:,}")
    if kind == HOST:
        return Asked(this_host(count), count, count)
    if count > PER_NODE and count % PER_NODE:
        below = count // PER_NODE * PER_NODE
        mend = f"{below} or {below + PER_NODE}"
        raise UserError(f"{count} devices leave a node half used; nodes have {PER_NODE}", where=where, mend=mend)
    return Asked(NAMED[kind], count, min(count, PER_NODE))
