"""What vLLM is started and asked with, from the words of a run. That vLLM obeys is shown in tests/engines."""

from hpt_megatron.config.load import load_run
from hpt_megatron.rollout.engine.role import Sampling
from hpt_megatron.rollout.engine.vllm_settings import FORBIDDEN, engine_settings


def test_a_runs_settings_reach_the_engine():
    words = {
        "gpu_memory_utilization": 0.35,
        "enable_prefix_caching": False,
        "mm_processor_cache_gb": 1.5,
        "max_num_seqs": 48,
        "max_model_len": 2000,
        "tensor_parallel_size": 2,
        "mm_encoder_tp_mode": "weights",
    }
    run = load_run([*(f"rollout.{name}={value}" for name, value in words.items()), "rollout.max_images=3"])
    told = engine_settings(run, "somewhere", (5, 6), on_gpu=True)
    assert {name: told[name] for name in words} == words
    assert told["limit_mm_per_prompt"] == {"image": 3, "video": 0}
    assert told["additional_config"] == {FORBIDDEN: [5, 6]}
    assert (told["logprobs_mode"], told["trust_remote_code"]) == ("processed_logprobs", False)
    assert (told["enable_sleep_mode"], told["enforce_eager"]) == (True, False)
    host = engine_settings(run, "somewhere", (), on_gpu=False)
    assert (host["enable_sleep_mode"], host["enforce_eager"]) == (False, True)


def test_training_and_validation_are_drawn_each_its_own_way():
    run = load_run(["rollout.n_val=3", "rollout.val_temperature=0.5", "rollout.val_top_p=0.9", "rollout.top_k=7"])
    training = Sampling.of_training(run.rollout, n=8, max_tokens=6, seed=1)
    validation = Sampling.of_validation(run.rollout, max_tokens=6)
    assert (training.n, training.temperature, training.top_p, training.top_k) == (8, 1.0, 1.0, 7)
    assert (validation.n, validation.temperature, validation.top_p, validation.top_k) == (3, 0.5, 0.9, -1)
