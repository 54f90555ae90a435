"""A loop of your own over the parts of `hpt train`: generate, reward, step. A minute on two cores, from nothing.

python examples/own_loop.py
"""

from hpt_megatron.data.record import Record
from hpt_megatron.driver.loop.rl import RlLoop
from hpt_megatron.observe.display import line_of
from hpt_megatron.observe.step import Step
from hpt_megatron.recipes.open_loop import open_loop, rescored, responses

WARM_UP, STEPS = 16, 40
RUN = [
    *("experiment=tiny-grpo", "layout=tp1", "trainer.n_gpus_per_node=1", "trainer.run_dir=runs/own-loop"),
    *("algorithm.offline_loss_type=sft", f"trainer.sft_warmup_steps={WARM_UP}"),  # without a warm-up: none, and 0
    *("data.make=pref", f"trainer.total_training_steps={STEPS}", "trainer.total_epochs=null"),
]


def reward(prompt: Record, response: str) -> float:
    """Yours: the right answer, and a little less for every token too many."""
    return float(f"<answer>{prompt.golds[0]}</answer>" in response) - 0.01 * len(response.split())


def own_step(loop: RlLoop, number: int) -> Step:
    """One step: rollouts of some prompts, what they are worth, an update."""
    log = Step(number)
    loop.begin(number)
    prompts = loop.supply.take(loop.run.data.train_batch_size)
    rollouts = loop.generate(prompts, number, log)
    scores = [reward(prompts[place].record, text) for place, text in responses(loop, rollouts)]
    made = loop.decided(prompts, rescored(rollouts, scores), number, log)
    log.add({"reward/mean": sum(scores) / len(scores)})
    loop.learn(made, number, log)
    return log


def main() -> None:
    with open_loop(RUN) as loop:
        for number in range(1, STEPS + 1):
            if number > WARM_UP:
                log = own_step(loop, number)
            else:
                log = Step(number)
                loop.step(number, log)  # imitation, as it is
            print(line_of(number, STEPS, log.metrics()))


if __name__ == "__main__":
    main()
