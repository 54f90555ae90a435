"""The engine: lengths, sampling, its own layout, and how it takes new weights."""

from collections.abc import Iterator

from hpt_megatron.config.geometry import largest_tensor
from hpt_megatron.config.problem import Problem, divisors
from hpt_megatron.config.run import RunConfig
from hpt_megatron.registry import plugged

ENGINES = ("vllm",)
BYTES = {"bf16": 2, "fp32": 4}
MIB = 1024 * 1024


def check_engine(run: RunConfig) -> Iterator[Problem]:
    """One engine is built in; another package may bring one."""
    rollout = run.rollout
    if rollout.name in ENGINES:
        return
    others = plugged("hpt_megatron.engines")
    if rollout.name not in others:
        yield Problem("rollout.name", rollout.name, "no such engine is built in", ", ".join([*ENGINES, *others]))


def check_lengths(run: RunConfig) -> Iterator[Problem]:
    """prompt + response <= the engine's maximum <= the model's positions; a demonstration fits a response."""
    data, rollout, model = run.data, run.rollout, run.model
    needed = data.max_prompt_length + data.max_response_length
    if needed > rollout.max_model_len:
        yield Problem(
            "rollout.max_model_len",
            rollout.max_model_len,
            f"max_prompt_length {data.max_prompt_length} + max_response_length {data.max_response_length} = {needed}",
            f"at least {needed}",
        )
    if rollout.max_model_len > model.max_position_embeddings:
        yield Problem(
            "rollout.max_model_len",
            rollout.max_model_len,
            f"the model has positions for {model.max_position_embeddings} tokens",
            f"at most {model.max_position_embeddings}",
        )
    if data.max_prefix_len > data.max_response_length:
        yield Problem(
            "data.max_prefix_len",
            data.max_prefix_len,
            f"a demonstration takes the place of a response, of at most {data.max_response_length} tokens",
            f"at most {data.max_response_length}",
        )


def check_sampling(run: RunConfig) -> Iterator[Problem]:
    """Sampling parameters lie where the engine accepts them; training never samples greedily."""
    rollout = run.rollout
    if rollout.temperature <= 0:
        why = "rollouts of a prompt would all be the same"
        yield Problem("rollout.temperature", rollout.temperature, why, "1.0")
    if rollout.val_temperature < 0:
        yield Problem("rollout.val_temperature", rollout.val_temperature, "must not be negative", "0 (greedy) or more")
    for path, share in (("rollout.top_p", rollout.top_p), ("rollout.val_top_p", rollout.val_top_p)):
        if not 0 < share <= 1:
            yield Problem(path, share, "is a share of the probability", "above 0, at most 1")
    if rollout.top_k == 0 or rollout.top_k < -1:
        yield Problem("rollout.top_k", rollout.top_k, "is a number of tokens", "1 or more, or -1 for all")
    if rollout.val_temperature == 0 and rollout.n_val > 1:
        why = "greedy validation gives the same answer every time"
        yield Problem("rollout.n_val", rollout.n_val, why, "1, or val_temperature above 0", "warning")


def check_engine_layout(run: RunConfig) -> Iterator[Problem]:
    """The engine's tensor parallelism divides heads, devices and, unless images are spread whole, the vision tower."""
    rollout, model, tp = run.rollout, run.model, run.rollout.tensor_parallel_size
    path = "rollout.tensor_parallel_size"
    heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
    if heads % tp:
        yield Problem(path, tp, f"does not divide the {heads} attention heads", divisors(heads, 8))
    if kv_heads % tp and tp % kv_heads:
        yield Problem(path, tp, f"and the {kv_heads} KV heads do not divide one another", divisors(kv_heads, 8))
    if run.devices % tp:
        yield Problem(path, tp, f"does not divide the {run.devices} devices", divisors(run.devices, 8))
    vision = model.vision
    if vision is not None and rollout.mm_encoder_tp_mode == "weights":
        for what, size in (("FFN size", vision.intermediate_size), ("heads", vision.num_heads)):
            if size % tp:
                why = f"the engine would cut the vision tower's {size} {what} into {tp} parts"
                yield Problem("rollout.mm_encoder_tp_mode", "weights", why, "data (each rank takes whole images)")


def check_engine_memory(run: RunConfig) -> Iterator[Problem]:
    """The engine's share of a device is a share."""
    share = run.rollout.gpu_memory_utilization
    if not 0 < share < 1:
        yield Problem("rollout.gpu_memory_utilization", share, "is the engine's share of a device", "above 0, below 1")


def check_engine_batch(run: RunConfig) -> Iterator[Problem]:
    """Images of a row, and the memory to keep them processed, are not negative."""
    rollout = run.rollout
    if rollout.max_images < 0:
        yield Problem("rollout.max_images", rollout.max_images, "is a number of images", "0 (none) or more")
    if rollout.mm_processor_cache_gb < 0:
        yield Problem("rollout.mm_processor_cache_gb", rollout.mm_processor_cache_gb, "is memory", "0 (none) or more")


def check_deterministic(run: RunConfig) -> Iterator[Problem]:
    """Batches can only be the same every time where a turn is handed over whole."""
    rollout, trainer = run.rollout, run.trainer
    if trainer.deterministic and rollout.agent_driver != "lockstep":
        why = "each trajectory asks at its own pace, so requests meet in other batches every time"
        yield Problem("rollout.agent_driver", rollout.agent_driver, why, "lockstep, or trainer.deterministic=false")


def check_publish_bucket(run: RunConfig) -> Iterator[Problem]:
    """A tensor that fits into no bucket travels alone; publishes are counted from 1."""
    rollout = run.rollout
    name, elements = largest_tensor(run.model)
    size = elements * BYTES[run.trainer.dtype]
    if size > rollout.publish_bucket_mb * MIB:
        yield Problem(
            "rollout.publish_bucket_mb",
            rollout.publish_bucket_mb,
            f"{name} alone has {size / MIB:,.1f} MiB in {run.trainer.dtype}",
            f"at least {-(-size // MIB)}, or it travels alone, with no other bucket beside it",
            "warning",
        )
    if rollout.verify_every < 0:
        yield Problem("rollout.verify_every", rollout.verify_every, "is a number of publishes", "0 (never) or more")
