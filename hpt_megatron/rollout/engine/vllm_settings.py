"""What vLLM is started with and asked with: a run's words in its words.

Invariants
    1. Every setting that changes numbers is stated here or in the run, none is left to a default of a checkpoint.
    2. vLLM's own model runner of the first kind is used on every device: it is the one that runs without a GPU, and
       the mask of forbidden ids is written for it.
"""

import os
from collections.abc import Sequence
from typing import Any

from hpt_megatron.config.run import RunConfig
from hpt_megatron.rollout.engine.publish import TORCH_NAMES
from hpt_megatron.rollout.engine.role import Sampling

FORBIDDEN = "hpt_forbidden"
"""The list's name in `additional_config`."""
ON_GPU = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_USE_V2_MODEL_RUNNER": "0"}
WITHOUT_GPU = {
    # What vLLM and torch warn of without a GPU is what the settings here ask for.
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore::FutureWarning",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
"""Whoever sets any of these otherwise is obeyed."""
ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""An engine of one rank without a GPU computes in the process that schedules: vLLM would start another for the sake of
binding threads, which is off here, and the two would wait for each other in busy loops at every token."""


def set_environment(on_gpu: bool) -> None:
    """Before vLLM is imported."""
    for name, value in (ON_GPU if on_gpu else WITHOUT_GPU).items():
        os.environ.setdefault(name, value)


def engine_settings(run: RunConfig, folder: str, forbidden: Sequence[int], on_gpu: bool) -> dict[str, Any]:
    """The arguments of `AsyncEngineArgs`."""
    rollout = run.rollout
    return {
        "model": folder,
        "dtype": TORCH_NAMES[run.trainer.dtype],
        "seed": run.trainer.seed,
        "tensor_parallel_size": rollout.tensor_parallel_size,
        "distributed_executor_backend": None if on_gpu or rollout.tensor_parallel_size > 1 else ONE_PROCESS,
        "mm_encoder_tp_mode": rollout.mm_encoder_tp_mode,
        "max_model_len": rollout.max_model_len,
        "max_num_seqs": rollout.max_num_seqs,
        "gpu_memory_utilization": rollout.gpu_memory_utilization,
        "enable_prefix_caching": rollout.enable_prefix_caching,
        "mm_processor_cache_gb": rollout.mm_processor_cache_gb,
        "limit_mm_per_prompt": {"image": rollout.max_images, "video": 0},
        "enforce_eager": not on_gpu,
        "enable_sleep_mode": on_gpu,
        "logprobs_mode": "processed_logprobs",  # under the temperature and the mask that sampled
        "logits_processors": ["hpt_megatron.rollout.engine.vllm_mask:Forbidden"],
        "additional_config": {FORBIDDEN: list(forbidden)},
        "weight_transfer_config": {"backend": "hpt"},
        "worker_extension_cls": "hpt_megatron.rollout.engine.vllm_worker.Extension",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "trust_remote_code": False,
    }


def sampling_params(sampling: Sampling) -> Any:
    """vLLM's own form of it; text is never made, ids are all that leaves the engine."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=sampling.n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=0.0,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
        stop_token_ids=list(sampling.stop_ids),
        ignore_eos=sampling.ignore_eos,
        logprobs=0,  # of the sampled token alone
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
