"""`hpt explain [ALGORITHM | EXPERIMENT] [OVERRIDE...]`: what an algorithm does with a prompt, and with a token.

Example:
    $ hpt explain luffy
    $ hpt explain hpt-7b algorithm.switch_gate=2 algorithm.switch_gate_off=2
"""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.errors import UserError

if TYPE_CHECKING:
    from hpt_megatron.algorithms.explain import ExplainedPairs, Explanation
    from hpt_megatron.config.run import RunConfig


def run(arguments: list[str]) -> int:
    """Prints the explanation of one run."""
    from hpt_megatron.config.files import groups
    from hpt_megatron.config.load import load_run

    parser = Parser(prog="hpt explain", description=__doc__.splitlines()[0])
    parser.takes_run()
    parser.add_argument("--json", action="store_true", help="JSON instead of tables")
    asked = parser.read(arguments)
    choices = groups()
    words = []
    for word in asked.overrides:
        group = next((name for name in ("algorithm", "experiment") if word in choices[name]), "")
        if not group and "=" not in word:
            known = ", ".join([*choices["algorithm"], *choices["experiment"]])
            raise UserError(f"no algorithm or experiment {word}", where="hpt explain", mend=f"one of {known}")
        words.append(f"{group}={word}" if group else word)
    chosen = load_run(words, asked.config_dir)

    from hpt_megatron.algorithms.explain import explain, explain_pairs

    if chosen.algorithm.preference.loss is not None:
        pairs = explain_pairs(chosen.algorithm)
        print(json.dumps(asdict(pairs), indent=2)) if asked.json else show_pairs(" ".join(words), pairs)
        return 0
    explanation = explain(chosen.algorithm, chosen.rollouts_per_prompt)
    if asked.json:
        print(json.dumps(asdict(explanation), indent=2))
    else:
        show(" ".join(words) or "experiment=tiny-hpt", chosen, explanation)
    return 0


def show_pairs(title: str, pairs: "ExplainedPairs") -> None:
    """Prints the formula of a loss over pairs, and a worked table."""
    print(f"{title}: {pairs.loss}, a loss over pairs\nmodels: {', '.join(pairs.models)}\n\n{pairs.formula}\n")
    print("Answers of one token each; `apart` is by how much the preferred one lies above the other:\n")
    print("".join(f"{head:>12}" for head in ("apart", "loss", "preferred", "rejected")))
    for gap in pairs.gaps:
        print("".join(f"{number(cell):>12}" for cell in (gap.apart, gap.loss, gap.chosen, gap.rejected)))
    print(
        "\nThe last two are the weights of a token: above 0 it is made more likely (of a reward model: scored higher)."
    )


def show(title: str, chosen: "RunConfig", explanation: "Explanation") -> None:
    """Prints the worked table, then the parts of every component."""
    from hpt_megatron.algorithms.explain import PROBABILITIES

    algorithm = chosen.algorithm
    settings = f"{algorithm.unify_strategy}, credit {algorithm.adv_estimator}, normalize {algorithm.normalize}"
    print(f"{title}: {settings}")
    absent = [name for name in ("reference", "critic") if name not in explanation.models]
    print(f"models: {', '.join(explanation.models)}" + "".join(f", no {name}" for name in absent) + "\n")
    print(f"A prompt of {explanation.n} rollouts, k of them right, with a target that is right:\n")
    heads = ["on", "off", "sft", "rollouts", "success", "failure", *(f"demo p={p}" for p in PROBABILITIES)]
    print(f"{'k':>3}  {'decision':<11}" + "".join(f"{head:>11}" for head in heads))
    for case in explanation.cases:
        mix = case.decision.mix
        cells = [mix.on, mix.off, mix.sft, float(case.kept), case.success, case.failure, *case.demonstration]
        print(f"{case.k:>3}  {case.decision.arm:<11}" + "".join(f"{number(cell):>11}" for cell in cells))
    print(
        "\nThe last columns are what the gradient of a token's log-prob is multiplied by, before normalisation: of a\n"
        "right rollout, of a wrong one, and of a demonstration's token that the policy gives probability p. Old and\n"
        "new policy are the same here, and the entropy of a row is 1."
    )
    if algorithm.unify_strategy == "adaptive":
        print("The strategy remembers: this is a prompt seen for the first time, in a batch that does as it does.")
    if algorithm.unify_strategy == "anneal":
        print("The strategy follows a schedule: this is step 0.")
    for stream, kind, parts in explanation.components:
        print(f"\n{kind} (weights of the stream {stream})")
        for name, text in asdict(parts).items():
            print(f"  {name:<11}{text}")


def number(value: float | None) -> str:
    """A number without needless digits; a dash where there is none."""
    return "-" if value is None else f"{value:.4g}"
