"""A plan executed between processes: the trainer's ranks send, the engine's ranks receive.

    session.py   where the two sides meet, and what they must agree on
    sender.py    a trainer's rank: packs its parcels and hands them to a transport
    receiver.py  an engine's rank: takes its crates, whole modules at a time
    shared.py    transport within a host: the receivers read the sender's memory (host memory, or a GPU's by CUDA IPC)
    sent.py      transport between hosts: the sender sends copies (gloo, or NCCL)

Both transports move the same parcels and count the same bytes. Which one, and over what memory, is a capability: a host
without a GPU takes shared host memory, or gloo where the two sides are on different hosts.
"""
