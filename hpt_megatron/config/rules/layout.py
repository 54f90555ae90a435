"""Devices, heads, layers and vocabulary against the trainer's layout."""

from collections.abc import Iterator
from math import lcm

from hpt_megatron.config.geometry import padded_vocab_size
from hpt_megatron.config.problem import Problem, neighbours
from hpt_megatron.config.run import RunConfig

MOST_TP = 64  # a bound for the list of valid sizes in messages


def check_devices(run: RunConfig) -> Iterator[Problem]:
    """tp x pp x cp x dp is the number of devices."""
    layout, devices = run.layout, run.devices
    model_parallel = layout.tp * layout.pp * layout.cp
    product = f"tp {layout.tp} x pp {layout.pp} x cp {layout.cp}"
    if devices % model_parallel:
        yield Problem(
            "trainer.n_gpus_per_node",
            run.trainer.n_gpus_per_node,
            f"times nnodes {run.trainer.nnodes} is {devices}, which {product} = {model_parallel} does not divide",
            f"a number of devices that is a multiple of {model_parallel}, or a smaller layout",
        )
    elif layout.dp is not None and layout.dp * model_parallel != devices:
        yield Problem(
            "layout.dp",
            layout.dp,
            f"{product} x dp {layout.dp} = {layout.dp * model_parallel}, but there are {devices} devices",
            f"{devices // model_parallel}, or null to take what the devices leave",
        )


def check_tensor_parallel(run: RunConfig) -> Iterator[Problem]:
    """tp divides the query heads and the FFN; tp and the KV heads divide one another."""
    model, tp = run.model, run.layout.tp
    heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
    valid = [
        size
        for size in range(1, MOST_TP + 1)
        if heads % size == 0 and model.intermediate_size % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)
    ]
    right = ", ".join(map(str, valid))
    if heads % tp:
        yield Problem("layout.tp", tp, f"does not divide the {heads} attention heads", right)
    if kv_heads % tp and tp % kv_heads:
        yield Problem("layout.tp", tp, f"and the {kv_heads} KV heads do not divide one another", right)
    if model.intermediate_size % tp:
        yield Problem("layout.tp", tp, f"does not divide the FFN size {model.intermediate_size}", right)


def check_node_boundary(run: RunConfig) -> Iterator[Problem]:
    """Tensor parallelism stays inside a node."""
    layout, trainer = run.layout, run.trainer
    if trainer.nnodes > 1 and layout.tp > trainer.n_gpus_per_node:
        yield Problem(
            "layout.tp",
            layout.tp,
            f"leaves the node ({trainer.n_gpus_per_node} devices); every layer would wait for the network",
            f"at most {trainer.n_gpus_per_node}, with a larger pp",
            "warning",
        )


def check_stages(run: RunConfig) -> Iterator[Problem]:
    """Every stage has a layer, virtual ones included; a virtual pipeline needs a pipeline.

    Layers need not divide by stages: stages then differ by one layer (`layout/stages.py`).
    """
    layout, layers = run.layout, run.model.num_hidden_layers
    if layout.vpp > 1 and layout.pp == 1:
        yield Problem(
            "layout.vpp", layout.vpp, "interleaves the stages of a pipeline, and pp is 1", "1, or pp of 2 or more"
        )
    elif layers < layout.pp * layout.vpp:
        path, value = ("layout.vpp", layout.vpp) if layers >= layout.pp else ("layout.pp", layout.pp)
        stages = f"pp {layout.pp}" + (f" x vpp {layout.vpp}" if layout.vpp > 1 else "")
        right = f"at most {layers // layout.pp if path == 'layout.vpp' else layers}"
        yield Problem(path, value, f"{layers} layers leave a stage of {stages} without any", right)


def check_sequence_parallel(run: RunConfig) -> Iterator[Problem]:
    """Sequence parallelism goes with tensor parallelism, and only with it."""
    layout = run.layout
    if layout.tp > 1 and layout.sequence_parallel is False:
        yield Problem(
            "layout.sequence_parallel",
            False,
            "with tp > 1 Megatron sums the gradients of norms and vision tower over tp only under sequence parallelism",
            "true, or null",
        )
    if layout.tp == 1 and layout.sequence_parallel:
        yield Problem("layout.sequence_parallel", True, "has nothing to split when tp is 1", "null", "warning")


def check_vocabulary(run: RunConfig) -> Iterator[Problem]:
    """Padding of the vocabulary stays small."""
    model, layout = run.model, run.layout
    padded = padded_vocab_size(model.vocab_size, layout.vocab_multiple, layout.tp)
    if padded > model.vocab_size * 1.1:
        fitting = [
            m
            for m in (64, 32, 16, 8, 4, 2, 1)
            if padded_vocab_size(model.vocab_size, m, layout.tp) <= model.vocab_size * 1.1
        ]
        yield Problem(
            "layout.vocab_multiple",
            layout.vocab_multiple,
            f"pads {model.vocab_size} rows to {padded} at tp {layout.tp}; more than a tenth is padding",
            str(fitting[0]) if fitting else "a smaller tp",
        )


def check_pack_divides(run: RunConfig) -> Iterator[Problem]:
    """A pack of tokens splits evenly over tp and, zig-zag, over cp.

    Without `use_dynamic_bsz` there is nothing to check: each row is padded to the divisor inside its pack, so any
    lengths divide.
    """
    layout, trainer = run.layout, run.trainer
    step = lcm(2, layout.tp) if layout.cp > 1 else layout.tp
    if trainer.use_dynamic_bsz and trainer.ppo_max_token_len_per_gpu % step:
        yield Problem(
            "trainer.ppo_max_token_len_per_gpu",
            trainer.ppo_max_token_len_per_gpu,
            f"a pack is cut into {step} parts (tp {layout.tp}, cp {layout.cp})",
            neighbours(trainer.ppo_max_token_len_per_gpu, step),
        )
