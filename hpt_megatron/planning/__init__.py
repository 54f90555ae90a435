"""The planner: what a run will need, as arithmetic on its configuration; no torch, no process, no device.

    devices.py        named devices and links, with the source of every figure; `devices=h100:64`
    this_host.py      the figures of the host it runs on, measured
    parameters.py     elements that each pipeline stage of a layout holds
    roles.py          which models a run loads: policy, reference, critic, reward, engine
    activations.py    what a pack leaves behind for the backward pass, and the most that is needed beside it
    engine.py         what an engine's rank holds, and its cache
    memory.py         bytes of a device, phase by phase, as named terms
    host_memory.py    bytes of a node's main memory
    workload.py       rows, tokens and images of one step
    communication.py  bytes and seconds of the exchanges of a layout
    step_time.py      seconds of a step, part by part
    layouts.py        every layout of so many devices: legal or refused with its reason, ranked
    answer.py         all of it as plain data, and in a few lines
    page.py           the same as a picture; amounts.py has the words for bytes

Nothing is counted a second time: shapes come from `config/shapes.py` through the weight table, operations from
`layout/cost.py`, publishing from `weights/plan/`.
"""
