"""Where the time of a step goes, beside its parts measured alone, and TRL's GRPO trainer on the same model folder.

    python benchmarks/step.py [--steps N] [--without-trl] [OVERRIDE...]

A step of the embedded default: 16 prompts with a picture, 8 rollouts of up to 32 tokens, one update over all rows, new
weights to the engine; real Megatron, vLLM and Ray. Then, in the same processes, generation of the same prompts, the
update with the same rows and a publish, each alone. What a step takes beyond their sum is what the loop adds.

TRL (it comes with the extra `dev`) generates with transformers, in this process, with two threads. Its prompts have no
picture, so its forward passes are a little shorter. Nothing is asserted: the figures depend on the host.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from clock import times

from hpt_megatron.config.load import load_run
from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.build import build_sampler, train_prompts
from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.driver.loop.algorithm import Algorithm
from hpt_megatron.driver.loop.rl import RlLoop
from hpt_megatron.driver.loop.supply import Supply
from hpt_megatron.observe.step import Step
from hpt_megatron.recipes.files import with_files
from hpt_megatron.rollout.engine.forbidden import forbidden_ids

PROMPTS, ROLLOUTS, TOKENS = 16, 8, 32
GIVEN = [
    *("algorithm=grpo", "layout=tp1", "trainer.n_gpus_per_node=2", "algorithm.entropy_coeff=0.001"),
    *(f"data.train_batch_size={PROMPTS}", f"trainer.ppo_mini_batch_size={PROMPTS}", "data.make=count"),
    *(f"rollout.n={ROLLOUTS}", f"data.max_response_length={TOKENS}", "trainer.ppo_max_token_len_per_gpu=8192"),
    *("trainer.total_epochs=null", "trainer.total_training_steps=1000", "rollout.max_num_seqs=128"),
]
WARM = 3
"""Steps before the first that counts."""


class Kept:
    """A role, with what it was last asked kept for asking it again."""

    def __init__(self, role: object, method: str) -> None:
        self._role, self._method, self.asked = role, method, ()

    def __getattr__(self, name: str) -> object:
        found = getattr(self._role, name)
        if name != self._method:
            return found

        def keep(*arguments: object) -> object:
            self.asked = arguments
            return found(*arguments)

        return keep


def ours(given: list[str], folder: Path, steps: int) -> str:
    """Prints a step and its parts; answers the model's folder."""
    from hpt_megatron.driver.ray.start import open_roles

    began = time.perf_counter()
    run: RunConfig = with_files(load_run([*GIVEN, *given]), folder)
    chat = Chat.open(str(run.model.path))
    prompts = train_prompts(run.data, chat, PictureRules.of_folder(str(run.model.path)))
    with open_roles(run, forbidden_ids(chat, run.model.vocab_size), folder) as roles:
        policy, rollout = Kept(roles.policy, "update"), Kept(roles.rollout, "collect")
        loop = RlLoop(
            run,
            replace(roles, policy=policy, rollout=rollout),
            Algorithm(run),
            Supply(prompts, build_sampler(run.data, 1, prompts)),
        )
        told = []
        for number in range(1, WARM + steps + 1):
            log = Step(number)
            loop.step(number, log)
            log.end()
            told.append(log.metrics())
            if number == 1:
                print(f"start to the end of the first step  {time.perf_counter() - began:6.1f} s")
        counted = told[WARM:]
        whole = statistics.median(each["timing_s/step"] for each in counted)
        print(f"a step, median of {steps}                {whole:6.3f} s")
        for stage in sorted({name for each in counted for name in each if name.startswith("timing_s/")}):
            if stage != "timing_s/step":
                print(
                    f"  of which {stage[9:]:<12}           {statistics.median(e.get(stage, 0) for e in counted):6.3f} s"
                )
        versions = iter(range(10**6, 2 * 10**6))

        def publish() -> None:
            with roles.engines.at(str(next(versions))):
                pass

        alone = {
            "generation": statistics.median(times(lambda: roles.rollout.collect(replace(rollout.asked[0])), steps)),
            "forward and backward": statistics.median(times(lambda: roles.policy.update(*policy.asked), steps)),
            "publishing": statistics.median(times(publish, steps)),
        }
        for name, value in alone.items():
            print(f"alone: {name:<22}     {value:6.3f} s")
        tokens = statistics.median(each["agent/sampled_tokens_mean"] for each in counted) * PROMPTS * ROLLOUTS
        print(f"a step is {whole / sum(alone.values()):.2f} x the sum of the three; {tokens:.0f} tokens are sampled")
    return str(run.model.path)


def theirs(folder: str, steps: int) -> None:
    """TRL's GRPO trainer: the same folder, as many prompts, rollouts and tokens."""
    import torch
    import transformers
    import trl
    from datasets import Dataset

    torch.set_num_threads(2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    taken: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: object, **__: object) -> None:
            taken.append(time.perf_counter() - self.began)

    config = trl.GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=PROMPTS * ROLLOUTS,
        num_generations=ROLLOUTS,
        max_completion_length=TOKENS,
        max_steps=WARM + steps,
        learning_rate=1e-3,
        temperature=1.0,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        generation_kwargs={"min_new_tokens": TOKENS},
    )
    rows = Dataset.from_dict({"prompt": ["count the dots: how many are there in the picture ?"] * 512})
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [float(len(set(text))) for text in completions],
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.train()
    print(f"TRL {trl.__version__}, generating with transformers   {statistics.median(taken[WARM:]):6.3f} s a step")


def main() -> None:
    """Both, one after the other."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--without-trl", action="store_true")
    options.add_argument("--trl-alone", metavar="FOLDER", help=argparse.SUPPRESS)
    options.add_argument("overrides", nargs="*")
    asked = options.parse_intermixed_args(sys.argv[1:])
    if asked.trl_alone:
        theirs(asked.trl_alone, asked.steps)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = ours(asked.overrides, Path(made), asked.steps)
        if not asked.without_trl:
            command = [sys.executable, __file__, "--trl-alone", folder, "--steps", str(asked.steps)]
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"})


if __name__ == "__main__":
    main()
