"""Every rule, by a run that breaks it and one that does not; and no rule ever raises."""

import dataclasses
from functools import cache
from typing import get_type_hints

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hpt_megatron.config.address import address_problems
from hpt_megatron.config.load import load
from hpt_megatron.config.model import Count
from hpt_megatron.config.rules import RULES, check
from hpt_megatron.config.run import RunConfig


@cache
def loaded_from(*given):
    """Composing costs more than checking, so each run is composed once."""
    return load(list(given))


SEVEN = "experiment=hpt-7b"
# (overrides, path of the problem, a part of why, a part of what would be right, severity)
BROKEN = [
    ([SEVEN, "layout.tp=8"], "layout.tp", "28 attention heads", "1, 2, 4", "error"),
    (["experiment=hpt-3b", "layout.tp=16"], "trainer.n_gpus_per_node", "does not divide", "multiple of 16", "error"),
    (
        ["experiment=hpt-32b", "layout.tp=10", "trainer.n_gpus_per_node=10", "trainer.nnodes=2"],
        "layout.tp",
        "KV heads do not",
        "8",
        "error",
    ),
    ([SEVEN, "model.intermediate_size=18946"], "layout.tp", "FFN size 18946", "1, 2", "error"),
    ([SEVEN, "layout.dp=3"], "layout.dp", "there are 8 devices", "2, or null", "error"),
    ([SEVEN, "layout.cp=0"], "layout.cp", "does not fit", "at least 1", "error"),
    (
        ["experiment=hpt-3b", "layout.pp=4", "model.num_hidden_layers=3"],
        "layout.pp",
        "3 layers leave a stage",
        "at most 3",
        "error",
    ),
    (["experiment=hpt-72b", "layout.vpp=21"], "layout.vpp", "80 layers leave a stage", "at most 20", "error"),
    ([SEVEN, "layout.vpp=2"], "layout.vpp", "pp is 1", "pp of 2", "error"),
    ([SEVEN, "layout.sequence_parallel=false"], "layout.sequence_parallel", "only under", "true", "error"),
    ([SEVEN, "layout=tp1", "layout.sequence_parallel=true"], "layout.sequence_parallel", "nothing", "null", "warning"),
    (
        ["experiment=hpt-72b", "trainer.n_gpus_per_node=4", "trainer.nnodes=16"],
        "layout.tp",
        "leaves the node",
        "4",
        "warning",
    ),
    (["data.image_min_pixels=99", "data.image_max_pixels=9"], "data.image_min_pixels", "above", "at most 9", "error"),
    (["data.image_cache_mb=-1"], "data.image_cache_mb", "negative", "0 for no cache", "error"),
    (["data.image_root=/no/such"], "data.image_root", "no such folder", "null", "error"),
    (["data.augment=[flip]"], "data.augment[0]", "no such change", "crop_pad", "error"),
    (["data.sampler=staged"], "data.difficulty", "orders prompts", "PassRate", "error"),
    (["data.difficulty=level"], "data.difficulty", "not read", "staged", "warning"),
    (["data.promote_at=0"], "data.promote_at", "share", "above 0", "error"),
    (["trainer.lr_floor=1.5"], "trainer.lr_floor", "share of lr", "0 to 1", "error"),
    (["trainer.weight_decay=-1"], "trainer.weight_decay", "negative", "0.01", "error"),
    (["trainer.adam_betas=[0.9]"], "trainer.adam_betas", "two numbers", "0.999", "error"),
    (
        ["trainer.lr_schedule=cosine", "trainer.total_training_steps=null"],
        *("trainer.lr_schedule", "does not say when", "constant", "error"),
    ),
    (["trainer.freeze=['*']"], "trainer.freeze[0]", "nothing to train", "visual", "error"),
    (["trainer.freeze=['']"], "trainer.freeze[0]", "is empty", "visual", "error"),
    (["layout.vocab_multiple=400"], "layout.vocab_multiple", "more than a tenth", "64", "error"),
    (
        [SEVEN, "trainer.ppo_max_token_len_per_gpu=16386"],
        "trainer.ppo_max_token_len_per_gpu",
        "cut into 4",
        "16384 or 16388",
        "error",
    ),
    ([SEVEN, "trainer.ppo_max_token_len_per_gpu=3"], "trainer.ppo_max_token_len_per_gpu", "cut into 4", "4", "error"),
    (
        [SEVEN, "trainer.ppo_max_token_len_per_gpu=8192"],
        "trainer.ppo_max_token_len_per_gpu",
        "9216 tokens",
        "9216",
        "error",
    ),
    ([SEVEN, "data.train_batch_size=100"], "data.train_batch_size", "mini-batches of 64", "64 or 128", "error"),
    ([SEVEN, "trainer.ppo_mini_batch_size=256"], "trainer.ppo_mini_batch_size", "larger than", "128", "warning"),
    (
        [SEVEN, "rollout.n_verify=3", "trainer.ppo_mini_batch_size=1"],
        "trainer.ppo_mini_batch_size",
        "3 rows",
        "2 prompts",
        "error",
    ),
    (
        [SEVEN, "trainer.use_dynamic_bsz=false", "trainer.ppo_micro_batch_size=48"],
        "trainer.ppo_mini_batch_size",
        "micro-batches of 48",
        "60 or 72",
        "error",
    ),
    (
        ["experiment=hpt-32b", "layout.vpp=2", "trainer.use_dynamic_bsz=false", "trainer.ppo_micro_batch_size=256"],
        *("trainer.ppo_micro_batch_size", "multiple of pp 2", "128", "error"),
    ),
    (
        [SEVEN, "algorithm.switch_gate=9", "algorithm.switch_gate_off=9"],
        "algorithm.switch_gate",
        "among 8 rollouts",
        "-1 to 7",
        "error",
    ),
    (
        [SEVEN, "algorithm.switch_gate=8", "algorithm.switch_gate_off=8"],
        "algorithm.switch_gate",
        "never reach RL",
        "7",
        "warning",
    ),
    (
        ["experiment=seed_debug", "algorithm.switch_gate=3"],
        "algorithm.switch_gate",
        "among 1 rollouts",
        "-1 to 0",
        "error",
    ),
    (
        [SEVEN, "algorithm.unify_strategy=balance"],
        "algorithm.unify_strategy",
        "no such name",
        "switch, soft, no",
        "error",
    ),
    ([SEVEN, "algorithm.adv_estimator=grop"], "algorithm.adv_estimator", "no such name", "grpo, grpo_split", "error"),
    (
        [SEVEN, "algorithm.switch_gate=1", "algorithm.switch_gate_rate=0.2"],
        *("algorithm.switch_gate_rate", "a count or a rate", "algorithm.switch_gate=0", "error"),
    ),
    (
        [SEVEN, "algorithm.switch_gate_rate=1.5"],
        "algorithm.switch_gate_rate",
        "share of the rollouts",
        "below 1",
        "error",
    ),
    ([SEVEN, "algorithm.switch_gate_rate=1"], "algorithm.switch_gate_rate", "never reach RL", "below 1", "warning"),
    ([SEVEN, "algorithm.soft.table=mine"], "algorithm.soft.table", "no such table", "published_0", "error"),
    ([SEVEN, "algorithm.soft.table=[[0,0,1],[1,0]]"], "algorithm.soft.table", "for each number", "[[0, 0, 1]", "error"),
    ([SEVEN, "algorithm.adaptive.low=0.9"], "algorithm.adaptive.low", "bound a chance", "low < high", "error"),
    ([SEVEN, "algorithm.adaptive.rate=0"], "algorithm.adaptive.rate", "rate a share", "above 0", "error"),
    ([SEVEN, "algorithm.anneal.start=2"], "algorithm.anneal.start", "shares of imitation", "0 to 1", "error"),
    ([SEVEN, "algorithm=anneal", "algorithm.anneal.steps=900"], "algorithm.anneal.steps", "step 500", "500", "warning"),
    ([SEVEN, "algorithm.success=[]"], "algorithm.success", "what a success is", "accuracy", "error"),
    (
        [SEVEN, "algorithm.n_prefix=1"],
        "algorithm.n_prefix",
        "adds demonstrations by itself",
        "unify_strategy=no",
        "error",
    ),
    (
        [SEVEN, "algorithm=luffy", "rollout=vrag", "rollout.search_url=http://h:1/s", "algorithm.prefix.min_ratio=0.5"],
        *("algorithm.n_prefix", "start of a single response", "agent=single_turn", "error"),
    ),
    (
        [SEVEN, "algorithm=luffy", "algorithm.prefix.strategy=none"],
        *("algorithm.prefix.strategy", "asks for a prefix", "random", "error"),
    ),
    (
        [SEVEN, "algorithm=luffy", "algorithm.prefix.strategy=linear_max"],
        *("algorithm.prefix.strategy", "the whole target", "random or fixed", "error"),
    ),
    ([SEVEN, "algorithm=luffy", "algorithm.n_prefix=9"], "algorithm.n_prefix", "8 rows", "at most 8", "error"),
    ([SEVEN, "algorithm=luffy", "algorithm.n_prefix=-1"], "algorithm.n_prefix", "leaves none", "at most 7", "error"),
    (
        [SEVEN, "algorithm=luffy", "algorithm.offline_loss_type=none"],
        *("algorithm.offline_loss_type", "sets a row aside", "off_policy", "error"),
    ),
    ([SEVEN, "rollout.n_verify=1"], "rollout.n_verify", "group of one", "2", "warning"),
    ([SEVEN, "algorithm=grpo", "rollout.n=1"], "rollout.n", "group of one", "2", "warning"),
    (
        [SEVEN, "algorithm=grpo", "algorithm.remove_sfted_data=true"],
        "algorithm.remove_sfted_data",
        "none is removed",
        "false",
        "warning",
    ),
    (
        [SEVEN, "algorithm.offline_loss_type=none"],
        "algorithm.offline_loss_type",
        "none of their losses",
        "sft",
        "error",
    ),
    ([SEVEN, "algorithm.sft_loss_coef=-1"], "algorithm.sft_loss_coef", "negative", "0 or more", "error"),
    ([SEVEN, "algorithm.sft_loss_coef=0"], "algorithm.sft_loss_coef", "learn nothing", "above 0", "warning"),
    ([SEVEN, "algorithm.entropy_coeff=0.1"], "algorithm.entropy_coeff", "usual range", "0.01", "warning"),
    (
        ["experiment=tiny-sft", "algorithm.entropy_ctrl.target=0.3"],
        *("algorithm.entropy_ctrl.target", "on no rollouts", "null", "error"),
    ),
    (
        [SEVEN, "algorithm.entropy_ctrl.target=0"],
        *("algorithm.entropy_ctrl.target", "no entropy lies below", "null", "error"),
    ),
    (
        [SEVEN, "algorithm.entropy_ctrl.target=0.3", "algorithm.entropy_ctrl.step=0"],
        *("algorithm.entropy_ctrl.step", "not be raised", "0.001", "error"),
    ),
    (
        [SEVEN, "algorithm.entropy_ctrl.target=0.3", "algorithm.entropy_coeff=0.01"],
        *("algorithm.entropy_ctrl.high", "where the coefficient begins", "0.01", "error"),
    ),
    ([SEVEN, "algorithm.use_kl_loss=true"], "algorithm.use_kl_loss", "only cost", "false", "warning"),
    ([SEVEN, "algorithm.kl_loss_coef=0.1"], "algorithm.kl_loss_coef", "acts on nothing", "0", "error"),
    ([SEVEN, "algorithm.kl_ctrl.type=adaptive"], "algorithm.kl_ctrl.kl_coef", "0 stays 0", "0.05", "error"),
    (
        [SEVEN, "algorithm.kl_ctrl.type=ppo_rule", "algorithm.kl_ctrl.target_kl=0"],
        "algorithm.kl_ctrl.target_kl",
        "steers",
        "6.0",
        "error",
    ),
    (
        [SEVEN, "algorithm.kl_ctrl.type=adaptive", "algorithm.kl_ctrl.horizon=0"],
        "algorithm.kl_ctrl.horizon",
        "1 row",
        "10000",
        "error",
    ),
    (
        [SEVEN, "algorithm.off_policy_loss_impl=seq", "algorithm.normalize=official"],
        "algorithm.off_policy_loss_impl",
        "cannot run",
        "token",
        "error",
    ),
    (
        [SEVEN, "algorithm.adv_estimator=rloo", "algorithm.grpo_use_std=true"],
        "algorithm.grpo_use_std",
        "does not divide",
        "false",
        "warning",
    ),
    ([SEVEN, "algorithm.kl_ctrl.low=2"], "algorithm.kl_ctrl.low", "no range with high 1", "low <= high", "error"),
    (
        [SEVEN, "algorithm.kl_ctrl.kl_coef=3"],
        "algorithm.kl_ctrl.kl_coef",
        "outside its bounds 0 to 1",
        "within",
        "error",
    ),
    ([SEVEN, "algorithm.kl_ctrl.update_period=5"], "algorithm.kl_ctrl.update_period", "never updated", "1", "warning"),
    ([SEVEN, "algorithm.clip_ratio_low=1.5"], "algorithm.clip_ratio_low", "outside its range", "0 to 1", "error"),
    ([SEVEN, "algorithm.pass_k=9"], "algorithm.pass_k", "outside its range", "8 rollouts", "error"),
    ([SEVEN, "algorithm.groups.min_valid=9"], "algorithm.groups.min_valid", "outside its range", "8 rollouts", "error"),
    ([SEVEN, "algorithm.correction.low=3"], "algorithm.correction.low", "outside its range", "high 2", "error"),
    (
        [SEVEN, "algorithm.overlong.buffer_share=2"],
        "algorithm.overlong.buffer_share",
        "outside its range",
        "1",
        "error",
    ),
    ([SEVEN, "algorithm.groups.truncated_at_most=2"], "algorithm.groups.truncated_at_most", "outside", "null", "error"),
    (
        [SEVEN, "algorithm.use_sft_prefix_reward=true"],
        *("algorithm.use_sft_prefix_reward", "n_prefix is 0", "n_prefix=-1", "error"),
    ),
    (
        [SEVEN, "algorithm.sft_prefix_reward_weight=-1"],
        *("algorithm.sft_prefix_reward_weight", "away from the target", "0 or more", "error"),
    ),
    (
        [SEVEN, "algorithm.reward_scale.statistics=nowhere.json"],
        *("algorithm.reward_scale.statistics", "no such file", '"mean"', "error"),
    ),
    (
        [SEVEN, "algorithm.reward_scale.r_min=1", "algorithm.reward_scale.r_max=1"],
        *("algorithm.reward_scale.r_min", "between it and r_max 1", "below r_max", "error"),
    ),
    ([SEVEN, "algorithm.srft.on_scale=-0.1"], "algorithm.srft.on_scale", "away from it", "0 or more", "error"),
    ([SEVEN, "algorithm.srft.sft_scale=-1"], "algorithm.srft.sft_scale", "away from it", "0 or more", "error"),
    ([SEVEN, "algorithm.srft.negative_floor=0"], "algorithm.srft.negative_floor", "is a log-prob", "null", "error"),
    (
        [SEVEN, "algorithm.srft.clip=true", "algorithm.clip_ratio_low=1"],
        *("algorithm.srft.clip", "no lower bound", "below 1", "error"),
    ),
    ([SEVEN, "algorithm.kl_ctrl.type=adptive"], "algorithm.kl_ctrl.type", "no such name", "fixed, adaptive", "error"),
    ([SEVEN, "algorithm.kl_ctrl.estimator=full"], "algorithm.kl_ctrl.estimator", "no such name", "k1", "error"),
    (
        [SEVEN, "algorithm.normalize=paper", "algorithm.loss_agg=sequence"],
        "algorithm.loss_agg",
        "own",
        "token",
        "warning",
    ),
    ([SEVEN, "algorithm.policy_loss=cispo"], "algorithm.clip_ratio_high", "weight of a token", "4.0", "warning"),
    ([SEVEN, "reward.reward_impl_version=7"], "algorithm.success", "gives no accuracy", "reward=rag", "error"),
    (
        [SEVEN, "reward=rag", "reward.weights.format=0.3"],
        *("algorithm.success", "format alone earns 0.3", "op: '>', value: 0.3", "error"),
    ),
    (
        [SEVEN, "reward=rag", "algorithm.success=[{component: score, op: '>=', value: 0.1}]"],
        *("algorithm.success", "format alone earns 0.1", "op: '>', value: 0.1", "error"),
    ),
    (
        [SEVEN, "algorithm.off_policy_reshape=logp"],
        "algorithm.off_policy_reshape",
        "nothing to shape",
        "no_",
        "warning",
    ),
    ([SEVEN, "algorithm.policy_loss=srft_rl"], "algorithm.policy_loss", "offline_loss_type is sft", "srft", "warning"),
    ([SEVEN, "algorithm.policy_loss=ppo"], "algorithm.policy_loss", "no such name", "none, clip", "error"),
    ([SEVEN, "algorithm.policy_loss=gspo"], "algorithm.clip_ratio_high", "whole rows", "0.0004", "warning"),
    ([SEVEN, "reward.reward_impl_version=12"], "reward.reward_impl_version", "no such reward", "100", "error"),
    ([SEVEN, "reward.file=nowhere.json"], "reward.file", "no such file", "JSON", "error"),
    ([SEVEN, "reward.preset=systematic"], "reward.preset", "no such preset", "balanced, accuracy", "error"),
    ([SEVEN, "reward.run_code=true"], "reward.run_code", "runs code", "reward.file", "warning"),
    ([SEVEN, "reward=rag", "reward.weights.ndcg=-1"], "reward.weights.ndcg", "opposite", "0 or more", "error"),
    ([SEVEN, "reward=rag", "reward.weights.answer=1"], "reward.weights.answer", "does not read", "7 to 9", "warning"),
    ([SEVEN, "reward.timeout_s=0"], "reward.timeout_s", "leaves no time", "5.0", "error"),
    ([SEVEN, "reward.reward_impl_version=9"], "reward.judge.url", "asks a judge", "/v1/chat/completions", "error"),
    ([SEVEN, "reward.reward_impl_version=8"], "reward.judge.url", "ANLS", "/v1/chat/completions", "warning"),
    ([SEVEN, "reward.judge.url=here"], "reward.judge.url", "not a web address", "http", "error"),
    ([SEVEN, "reward.judge.timeout_s=0"], "reward.judge.timeout_s", "leaves no time", "30", "error"),
    ([SEVEN, "reward.judge.retries=9"], "reward.judge.retries", "for ever", "0 to 3", "error"),
    ([SEVEN, "reward.judge.votes=2"], "reward.judge.votes", "draw", "1 or 3", "error"),
    ([SEVEN, "rollout.name=sglang"], "rollout.name", "no such engine", "vllm", "error"),
    ([SEVEN, "rollout.max_model_len=9000"], "rollout.max_model_len", "= 9216", "at least 9216", "error"),
    (["model.max_position_embeddings=256"], "rollout.max_model_len", "positions for 256", "at most 256", "error"),
    ([SEVEN, "data.max_prefix_len=9000"], "data.max_prefix_len", "8192", "at most 8192", "error"),
    ([SEVEN, "rollout.temperature=0"], "rollout.temperature", "the same", "1.0", "error"),
    ([SEVEN, "rollout.top_p=0"], "rollout.top_p", "share", "at most 1", "error"),
    ([SEVEN, "rollout.top_k=0"], "rollout.top_k", "number of tokens", "-1", "error"),
    ([SEVEN, "rollout.val_temperature=-1"], "rollout.val_temperature", "negative", "0", "error"),
    ([SEVEN, "rollout.n_val=4"], "rollout.n_val", "same answer", "1", "warning"),
    ([SEVEN, "reward.modality_weights.text=-1"], "reward.modality_weights.text", "the opposite", "0 or more", "error"),
    ([SEVEN, "rollout.max_images=-1"], "rollout.max_images", "number of images", "0 (none)", "error"),
    ([SEVEN, "rollout.mm_processor_cache_gb=-1"], "rollout.mm_processor_cache_gb", "memory", "0 (none)", "error"),
    ([SEVEN, "rollout=vrag"], "rollout.search_url", "vrag agent searches", "http", "error"),
    (
        [SEVEN, "rollout=vrag", "rollout.search_url=localhost"],
        "rollout.search_url",
        "not a web address",
        "http",
        "error",
    ),
    (
        [SEVEN, "rollout=vrag", "rollout.search_protocol=inproc"],
        *("rollout.search_corpus_root", "inproc searches", "corpus folder", "error"),
    ),
    ([SEVEN, "rollout.generator_url=host"], "rollout.generator_url", "not a web address", "http", "error"),
    ([SEVEN, "rollout.agent_prompt=mine.txt"], "rollout.agent_prompt", "no such file", "vrag_compat", "error"),
    (
        [SEVEN, "rollout.generator_url=http://127.0.0.1:1/v1"],
        *("rollout.generator_model", "by name", "served", "error"),
    ),
    (
        [SEVEN, "rollout.generator_url=http://127.0.0.1:1/v1", "rollout.generator_model=m"],
        *("rollout.generator_url", "nobody asks", "searcher", "warning"),
    ),
    *[
        ([SEVEN, f"rollout.tools=[{tools}]"], "rollout.tools[0]", why, right, "error")
        for tools, why, right in (
            ("telephone", "no such tool", "calculator"),
            ("answer", "have without it", "calculator"),
            ("search,calculator", "have without it", "calculator"),
            ("calculator,calculator", "named 2 times", "once"),
        )
    ],
    ([SEVEN, "rollout.tools=[calculator]"], "rollout.tools", "single turn", "vrag", "warning"),
    (
        *(["experiment=tiny-grpo", "trainer.sft_warmup_steps=5"], "algorithm.offline_loss_type"),
        *("would show demonstrations and learn nothing", "sft, or trainer.sft_warmup_steps=0", "error"),
    ),
    ([SEVEN, "trainer.sft_warmup_steps=-1"], "trainer.sft_warmup_steps", "number of steps", "null for all", "error"),
    ([SEVEN, "data.hold_out=-1"], "data.hold_out", "number of demonstrations", "0 or more", "error"),
    ([SEVEN, "trainer.staleness=2"], "trainer.staleness", "number of steps", "0 or 1", "error"),
    ([SEVEN, "trainer.staleness=1"], "trainer.staleness", "engines sleep", "placement=split", "error"),
    ([SEVEN, "trainer.staleness=1"], "algorithm.correction.kind", "nothing corrects", "tis or mis", "error"),
    (
        [SEVEN, "trainer.staleness=1", "trainer.deterministic=true"],
        *("trainer.staleness", "from newer weights", "deterministic=false", "error"),
    ),
    ([SEVEN, "trainer.deterministic=true"], "rollout.agent_driver", "own pace", "lockstep", "error"),
    ([SEVEN, "rollout.invalid_limit=-1"], "rollout.invalid_limit", "negative", "0 or more", "error"),
    ([SEVEN, "rollout.search_timeout_s=0"], "rollout.search_timeout_s", "ever answer", "15", "error"),
    ([SEVEN, "rollout.search_connect_timeout_s=0"], "rollout.search_connect_timeout_s", "ever answer", "15", "error"),
    ([SEVEN, "rollout.search_cache_size=-1"], "rollout.search_cache_size", "negative", "none", "error"),
    ([SEVEN, "rollout.search_health_path=http://h/s"], "rollout.search_health_path", "is no path", "/health", "error"),
    ([SEVEN, "rollout.search_failure_budget=2"], "rollout.search_failure_budget", "share", "0 to 1", "error"),
    (
        [SEVEN, "rollout=vrag", "rollout.search_url=http://h/s"],
        *("data.image_max_pixels", "thousands of visual tokens", "401408", "warning"),
    ),
    ([SEVEN, "rollout.max_turns=0"], "rollout.max_turns", "at least 1", "5", "error"),
    ([SEVEN, "reward=rag"], "rollout.agent", "retrieves nothing", "vrag", "warning"),
    (
        [SEVEN, "rollout.tensor_parallel_size=8"],
        "rollout.tensor_parallel_size",
        "28 attention heads",
        "1, 2, 4, 7",
        "error",
    ),
    (
        ["experiment=hpt-3b", "rollout.tensor_parallel_size=8", "rollout.mm_encoder_tp_mode=weights"],
        "rollout.mm_encoder_tp_mode",
        "3420 FFN size",
        "data",
        "error",
    ),
    ([SEVEN, "rollout.gpu_memory_utilization=1.2"], "rollout.gpu_memory_utilization", "share", "below 1", "error"),
    (
        ["experiment=hpt-72b", "rollout.publish_bucket_mb=2048"],
        "rollout.publish_bucket_mb",
        "2,376.0 MiB",
        "2376",
        "warning",
    ),
    (
        [SEVEN, "trainer.total_training_steps=null", "trainer.total_epochs=null"],
        "trainer.total_training_steps",
        "when to end",
        "500",
        "error",
    ),
    ([SEVEN, "rollout.verify_every=-1"], "rollout.verify_every", "publishes", "0 (never)", "error"),
    ([SEVEN, "trainer.lr=0"], "trainer.lr", "nothing", "1e-6", "error"),
    ([SEVEN, "trainer.lr=0.001"], "trainer.lr", "far above", "1e-6", "warning"),
    ([SEVEN, "trainer.max_grad_norm=0.5"], "trainer.max_grad_norm", "skips a step", "80.0", "error"),
    ([SEVEN, "trainer.clip_grad=-1"], "trainer.clip_grad", "negative", "1.0", "error"),
    ([SEVEN, "trainer.lr_warmup_steps=600"], "trainer.lr_warmup_steps", "500 steps ends", "below 500", "warning"),
    ([SEVEN, "trainer.save_freq=501"], "trainer.save_freq", "ends at step 500", "500", "warning"),
    ([SEVEN, "trainer.monitors.kl_times=0.5"], "trainer.monitors.kl_times", "is met by every run", "2.0", "error"),
    ([SEVEN, "trainer.monitors.habits_times=0.5"], "trainer.monitors.habits_times", "met by every run", "2.0", "error"),
    ([SEVEN, "trainer.monitors.judge_fall=-1.0"], "trainer.monitors.judge_fall", "be negative", "0 or more", "error"),
    (
        [SEVEN, "trainer.monitors.repetition_above=1.0"],
        "trainer.monitors.repetition_above",
        "is a share",
        "below 1",
        "error",
    ),
    ([SEVEN, "trainer.monitors.judge=stop"], "trainer.monitors.judge", "nothing to watch", "second=COMPONENT", "error"),
    (
        [SEVEN, "trainer.monitors.entropy_share=1.5"],
        "trainer.monitors.entropy_share",
        "is a share",
        "0 to below 1",
        "error",
    ),
    (
        [SEVEN, "trainer.monitors.reward_fall=-1.0"],
        "trainer.monitors.reward_fall",
        "must not be negative",
        "0 or more",
        "error",
    ),
    (
        [SEVEN, "trainer.log_val_generations=-1"],
        "trainer.log_val_generations",
        "must not be negative",
        "0 for none",
        "error",
    ),
    ([SEVEN, "trainer.seed=-1"], "trainer.seed", "negative", "0", "error"),
    ([SEVEN, "trainer.critic_warmup=5"], "trainer.critic_warmup", "no critic", "gae", "error"),
    ([SEVEN, "data.train_files=[nowhere.parquet]"], "data.train_files[0]", "no such file", "existing", "error"),
    ([SEVEN, "data.val_files=[x.csv]"], "data.val_files[0]", "neither parquet", ".jsonl", "error"),
    ([SEVEN, "model.path=nowhere"], "model.path", "no config.json", "Hugging Face", "error"),
    ([SEVEN, "model.num_key_value_heads=5"], "model.num_attention_heads", "5 KV heads", "multiple of 5", "error"),
    ([SEVEN, "model.mrope_section=[16,24,23]"], "model.mrope_section", "half of head_dim", "64", "error"),
    (["model=qwen2.5-7b", "model.mrope_section=[1,2,3]"], "model.mrope_section", "one dimension", "null", "error"),
    ([SEVEN, "model.attention_bias=false"], "model.attention_bias", "other way round", "true", "error"),
    ([SEVEN, "model.vision=null"], "model.vision", "qwen2_5_vl", "tower", "error"),
    ([SEVEN, "model.vision.out_hidden_size=2048"], "model.vision.out_hidden_size", "3584", "3584", "error"),
    ([SEVEN, "model.vision.window_size=100"], "model.vision.window_size", "28 pixels", "28", "error"),
    (
        [SEVEN, "model.vision.fullatt_block_indexes=[7,40]"],
        "model.vision.fullatt_block_indexes",
        "0 to 31",
        "existing",
        "error",
    ),
    ([SEVEN, "model.vision.num_heads=17"], "model.vision.num_heads", "multiple of 4", "16", "error"),
    (["trainer.lr_warmup_share=2.0"], "trainer.lr_warmup_share", "share", "0.03", "error"),
    (["algorithm=dpo", "trainer.ppo_epochs=2"], "trainer.ppo_epochs", "compared anew", "1", "error"),
    (["algorithm=dpo", "algorithm.preference.beta=0.0"], "algorithm.preference.beta", "range", "above 0", "error"),
    (
        ["algorithm=reward_model", "algorithm.preference.pairs=rollouts"],
        "algorithm.preference.pairs",
        "no words",
        "file",
        "error",
    ),
    (["algorithm=ppo", "reward.learned.runs=[nowhere]"], "reward.learned.runs", "no such folder", "reward", "error"),
    (["experiment=tiny-online-dpo", "reward.turn_coef=0.1"], "reward.turn_coef", "whole answers", "0", "error"),
    (["reward.constraint.how=gate"], "reward.constraint.component", "no reward model", "component", "error"),
    (["algorithm.share_critic=true"], "algorithm.share_critic", "no critic", "gae", "error"),
    (["trainer.ppo_epochs=2", "algorithm.policy_loss=none"], "trainer.ppo_epochs", "holds", "clip", "warning"),
    ([SEVEN, "trainer.sft_warmup_steps=null", "trainer.lr=1e-3"], "trainer.lr", "fine-tuning", "1.0e-5", "warning"),
    (["model=llama-3.1-8b", "model.rope_scaling.factor=0.5"], "model.rope_scaling", "factor >= 1", "8", "error"),
]


@pytest.mark.parametrize(("given", "path", "why", "right", "severity"), BROKEN, ids=lambda value: str(value)[:60])
def test_a_broken_rule_says_where_why_and_what_would_be_right(given, path, why, right, severity):
    loaded = loaded_from(*given)
    found = [p for p in loaded.problems if p.path == path and why in p.why]
    assert found, [str(problem) for problem in loaded.problems]
    assert right in found[0].right
    assert found[0].severity == severity


def test_the_table_above_breaks_every_rule():
    """Each rule function has at least one run above that it alone answers to."""
    answered = set()
    for given_strings, path, why, *_ in BROKEN:
        run = loaded_from(*given_strings).run
        answered |= {rule for rule in RULES if any(p.path == path and why in p.why for p in rule(run))}
    assert not [rule.__name__ for rule in RULES if rule not in answered]


def test_a_pack_shorter_than_its_parts_is_not_advised_to_be_empty():
    found = [p.right for p in loaded_from(SEVEN, "trainer.ppo_max_token_len_per_gpu=3").problems if "cut" in p.why]
    assert found == ["4"]


def test_credentials_in_an_address_are_refused_and_not_repeated():
    loaded = load(["rollout=vrag", "rollout.search_url=http://user:secret@host:1/search"])
    problem = next(p for p in loaded.problems if p.path == "rollout.search_url")
    assert "credentials" in problem.why
    assert "secret" not in str(problem)


@pytest.mark.parametrize(
    "address",
    [
        "ftp://user:secret@host/s",
        "user:secret@host",
        "http://user:secret@[::1",
        "http://user:sec/ret@host",
        "http://user:secret@host:99999/s",
        "http://user:secret@/s",
        "http://user:secret@host/a b",
        "http://:secret@host/",
        "secret://a@host",
    ],
)
def test_no_problem_of_an_address_repeats_a_password(address):
    (problem,) = address_problems("rollout.search_url", address, "http://HOST")
    assert "sec" not in str(problem)


def test_an_address_has_a_port_that_is_one_and_no_space():
    for address in ("http://host:99999/s", "http://host:0/s", "http://host:x/s", "http://ho st/s", "http://host/s\n"):
        assert [p.why for p in address_problems("reward.judge.url", address, "")] == ["is not a web address"], address
    for address in ("http://host:65535/s", "https://[::1]:80/", "http://host/a@b"):
        assert list(address_problems("reward.judge.url", address, "")) == []


def test_a_token_in_the_place_of_its_variables_name_is_refused_and_not_repeated():
    loaded = load(["reward.judge.token_env=sk-secret-1"])
    problem = next(p for p in loaded.problems if p.path == "reward.judge.token_env")
    assert "variable of the environment" in problem.why
    assert "secret" not in str(problem)


@pytest.mark.parametrize("name", ["tiny-hpt", "hpt-3b", "hpt-7b", "hpt-32b", "hpt-72b"])
def test_every_experiment_is_valid_without_a_warning(name):
    assert [str(problem) for problem in load([f"experiment={name}"]).problems] == []


SIZES = st.integers(1, 70) | st.integers(1, 2**40)
NUMBERS = st.integers(-3, 70) | st.integers(-(2**40), 2**40)
NUMERIC = [
    (group, key)
    for group, part in get_type_hints(RunConfig).items()
    for key, hint in get_type_hints(part, include_extras=True).items()
    if hint in (Count, int, float)
]


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(data=st.data(), model=st.sampled_from(["tiny", "qwen2.5-vl-7b", "llama-3.1-8b"]))
def test_no_numbers_make_a_rule_raise(data, model):
    """Sizes come from the door as at least 1; every other number is anything at all."""
    run = loaded_from(f"model={model}").run
    for group, key in data.draw(st.lists(st.sampled_from(NUMERIC), unique=True, min_size=1, max_size=8)):
        part = getattr(run, group)
        hint = get_type_hints(type(part), include_extras=True)[key]
        changed = dataclasses.replace(part, **{key: data.draw(SIZES if hint == Count else NUMBERS)})
        run = dataclasses.replace(run, **{group: changed})
    for problem in check(run):
        assert str(problem)
