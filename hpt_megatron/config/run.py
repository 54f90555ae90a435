"""A run, as frozen dataclasses. Defaults live in `configs/` alone; a field here only says what a value must be.

By convention a variable that holds a group carries the group's name (`layout.tp`, `run.layout.tp`), so that a test
can see that every key is read by something.
"""

from dataclasses import dataclass
from typing import Literal

from hpt_megatron.config.agent import AgentConfig
from hpt_megatron.config.algorithm import AlgorithmConfig
from hpt_megatron.config.model import Count, ModelConfig
from hpt_megatron.config.monitors import MonitorsConfig


@dataclass(frozen=True, kw_only=True)
class LayoutConfig:
    """How the trainer is spread over devices; the data-parallel size is what is left of them."""

    tp: Count
    pp: Count
    vpp: Count
    cp: Count
    dp: Count | None
    sequence_parallel: bool | None
    vocab_multiple: Count


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which prompts, how many at a time, how long."""

    make: str | None
    train_files: tuple[str, ...]
    warmup_files: tuple[str, ...]
    hold_out: int
    val_files: tuple[str, ...]
    base_files: tuple[str, ...]
    train_batch_size: Count
    max_prompt_length: Count
    max_response_length: Count
    max_prefix_len: Count
    drop_system: bool
    suffix_prompt: str
    response_prefix: str
    image_root: str | None
    image_limit: Count
    image_min_pixels: Count | None
    image_max_pixels: Count | None
    image_threads: Count
    image_cache_mb: int
    augment: tuple[str, ...]
    sampler: Literal["shuffled", "staged", "by_success", "hard"]
    difficulty: str | None
    stages: Count
    promote_at: float


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """Shares of the rewards that are mixed; null: the number's own."""

    answer: float | None
    format: float | None
    ndcg: float | None


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """A language model that judges answers, behind an OpenAI-compatible address."""

    url: str | None
    model: str
    token_env: str | None
    timeout_s: float
    retries: int
    votes: Count
    concurrency: Count
    fallback: Literal["anls", "exclude"]


@dataclass(frozen=True, kw_only=True)
class ModalityConfig:
    """What the reward of a row is multiplied by, by what its prompt shows."""

    text: float
    image: float
    images: float


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The share of one head of a reward model."""

    head: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class LearnedConfig:
    """Reward models beside the rules: where they are, and what their scores count."""

    runs: tuple[str, ...]
    weight: float
    rules_weight: float
    heads: tuple[HeadConfig, ...]
    ensemble: Literal["mean", "min", "uncertainty"]
    uncertainty: float
    normalize: bool
    devices: Literal["shared", "own"]


@dataclass(frozen=True, kw_only=True)
class ConstraintConfig:
    """What has to hold before anything else is paid for."""

    how: Literal["off", "gate", "lagrange"]
    component: str
    at_least: float
    gate_score: float
    rate: float
    most: float


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """What a rollout is worth, and who works that out."""

    reward_impl_version: int
    file: str | None
    preset: str | None
    weights: WeightsConfig
    modality_weights: ModalityConfig
    turn_coef: float
    workers: Count
    timeout_s: float
    run_code: bool
    judge: JudgeConfig
    learned: LearnedConfig
    constraint: ConstraintConfig

    @property
    def number(self) -> int | None:
        """The number that counts; None where a file or a preset stands in its place."""
        return self.reward_impl_version if self.file is None and self.preset is None else None


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(AgentConfig):
    """How the engine samples, alone or as an agent, and how it takes new weights."""

    name: str
    agent: Literal["single_turn", "vrag", "searcher"]
    max_turns: int
    search_url: str | None
    n: Count
    n_verify: Count
    n_val: Count
    temperature: float
    top_p: float
    top_k: int
    val_temperature: float
    val_top_p: float
    replicas: Count | None
    tensor_parallel_size: Count
    mm_encoder_tp_mode: Literal["weights", "data"]
    max_model_len: Count
    max_num_seqs: Count
    max_images: int
    enable_prefix_caching: bool
    mm_processor_cache_gb: float
    gpu_memory_utilization: float
    publish_bucket_mb: int
    verify_every: int


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Where, how long, on how many devices, in which steps."""

    run_dir: str
    resume: str
    placement: Literal["colocated", "split", "host"]
    nnodes: Count
    n_gpus_per_node: Count
    dtype: Literal["bf16", "fp32"]
    seed: int
    total_epochs: Count | None
    total_training_steps: Count | None
    sft_warmup_steps: int | None
    staleness: int
    deterministic: bool
    save_freq: int
    async_save: bool
    keep_last: Count
    best_metric: str | None
    record_freq: int
    max_restarts: int
    test_freq: int
    logger: tuple[Literal["console", "jsonl", "tensorboard", "wandb", "mlflow"], ...]
    project_name: str
    experiment_name: str | None
    log_val_generations: int
    generation_log_dir: str | None
    profile_memory: bool
    monitors: MonitorsConfig
    freeze: tuple[str, ...]
    lr: float
    lr_schedule: Literal["constant", "linear", "cosine"]
    lr_warmup_steps: int
    lr_warmup_share: float | None
    lr_floor: float
    weight_decay: float
    adam_betas: tuple[float, ...]
    clip_grad: float
    max_grad_norm: float | None
    recompute: Literal["none", "selective", "full"]
    optimizer_offload: bool
    overlap_communication: bool
    critic_warmup: int
    critic_lr: float | None
    offload_frozen: bool
    ppo_epochs: Count
    ppo_mini_batch_size: Count
    ppo_micro_batch_size: Count
    use_dynamic_bsz: bool
    ppo_max_token_len_per_gpu: Count
    max_patches_per_gpu: Count | None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that makes a run; saved with it, and enough to repeat it."""

    model: ModelConfig
    layout: LayoutConfig
    data: DataConfig
    algorithm: AlgorithmConfig
    reward: RewardConfig
    rollout: RolloutConfig
    trainer: TrainerConfig

    @property
    def devices(self) -> int:
        """All devices of the trainer; on a host without an accelerator, its processes."""
        return self.trainer.nnodes * self.trainer.n_gpus_per_node

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps of a step over all its prompts: what a schedule in steps is counted in."""
        trainer = self.trainer
        return -(-self.data.train_batch_size // trainer.ppo_mini_batch_size) * trainer.ppo_epochs

    @property
    def supervised(self) -> bool:
        """Whether every step imitates, so that nobody has to generate what is trained on."""
        warmup, steps = self.trainer.sft_warmup_steps, self.trainer.total_training_steps
        return warmup is None or (steps is not None and warmup >= steps)

    @property
    def engines(self) -> int:
        """As many as are asked for; else as many as the trainer's devices hold, where they share them, or 1."""
        shared = self.devices // self.rollout.tensor_parallel_size if self.trainer.placement == "colocated" else 1
        return self.rollout.replicas or max(1, shared)

    def imitates(self, step: int) -> bool:
        """Whether this step shows demonstrations and generates nothing."""
        warmup = self.trainer.sft_warmup_steps
        return warmup is None or step <= warmup

    @property
    def dp(self) -> int:
        """The data-parallel size: as stated, or what the devices leave (at least 1)."""
        layout = self.layout
        return layout.dp or max(1, self.devices // (layout.tp * layout.pp * layout.cp))

    @property
    def rollouts_per_prompt(self) -> int:
        """`switch` samples `n_verify` rollouts before it decides; the other strategies sample `n`."""
        return self.rollout.n_verify if self.algorithm.unify_strategy == "switch" else self.rollout.n
