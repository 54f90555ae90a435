"""The agent: where it searches, what it may do, and budgets that let it do something."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hpt_megatron.config.address import address_problems
from hpt_megatron.config.problem import Problem
from hpt_megatron.config.run import RunConfig
from hpt_megatron.registry import plugged

TOOLS = ("calculator",)
WITH_PAGES = ("lookup", "lookup2", "search")  # embedded tasks that bring a corpus
RESERVED = ("think", "search", "bbox", "answer", "search_complete")  # tags that have a meaning without a tool


def check_agent(run: RunConfig) -> Iterator[Problem]:
    """An agent that searches needs somewhere to search and at least one turn."""
    rollout = run.rollout
    if rollout.max_turns < 1:
        yield Problem("rollout.max_turns", rollout.max_turns, "must be at least 1", "5")
    inside = rollout.search_protocol == "inproc"
    if rollout.agent != "single_turn" and rollout.search_url is None and not inside:
        why = f"the {rollout.agent} agent searches"
        yield Problem("rollout.search_url", None, why, "http://127.0.0.1:8002/search, for example")
    made = run.data.make in WITH_PAGES and not run.data.train_files
    if inside and rollout.agent != "single_turn" and rollout.search_corpus_root is None and not made:
        yield Problem("rollout.search_corpus_root", None, "inproc searches the pages of this folder", "a corpus folder")
    if run.reward.number == 7 and rollout.agent == "single_turn":
        why = "reward 7 scores what was retrieved, and a single turn retrieves nothing"
        yield Problem("rollout.agent", rollout.agent, why, "vrag or searcher", "warning")


def check_addresses(run: RunConfig) -> Iterator[Problem]:
    """Addresses are addresses, and a run that is recorded holds no credentials."""
    rollout = run.rollout
    if rollout.search_url is not None:
        yield from address_problems("rollout.search_url", rollout.search_url, "http://HOST:PORT/search")
    if rollout.generator_url is not None:
        yield from address_problems("rollout.generator_url", rollout.generator_url, "http://HOST:PORT/v1")


def check_health_path(run: RunConfig) -> Iterator[Problem]:
    """It is a path on the server, not an address of its own."""
    path = run.rollout.search_health_path
    if not path.startswith("/") or path.startswith("//") or not path.isprintable() or set(path) & set("?# "):
        yield Problem("rollout.search_health_path", path, "is no path", "/health")


def check_agent_prompt(run: RunConfig) -> Iterator[Problem]:
    """An instruction is a name or a file that is there."""
    prompt = run.rollout.agent_prompt
    if prompt not in ("own", "vrag_compat", "none") and not Path(prompt).is_file():
        yield Problem("rollout.agent_prompt", prompt, "no such instruction and no such file", "own, vrag_compat, none")


def check_tools(run: RunConfig) -> Iterator[Problem]:
    """A further tool is built in or another package's, is named once, and has a tag of its own."""
    rollout = run.rollout
    known = [name for name in (*TOOLS, *plugged("hpt_megatron.tools")) if name not in RESERVED]
    for place, (name, count) in enumerate(Counter(rollout.tools).items()):
        path = f"rollout.tools[{place}]"
        if name in RESERVED:
            yield Problem(path, name, "is a tag that agents have without it", ", ".join(known))
        elif name not in known:
            yield Problem(path, name, "no such tool", ", ".join(known))
        elif count > 1:
            yield Problem(path, name, f"is named {count} times", "once")
    if rollout.tools and rollout.agent == "single_turn":
        yield Problem("rollout.tools", list(rollout.tools), "a single turn uses no tool", "vrag or searcher", "warning")


def check_generator(run: RunConfig) -> Iterator[Problem]:
    """A generator has a model's name, and belongs to the searcher."""
    rollout = run.rollout
    if rollout.generator_url is not None and not rollout.generator_model:
        why = "the generator is asked for a model by name"
        yield Problem("rollout.generator_model", None, why, "the name under which it is served")
    if rollout.generator_url is not None and rollout.agent != "searcher":
        why = f"in mode {rollout.agent} nobody asks it"
        yield Problem("rollout.generator_url", rollout.generator_url, why, "rollout.agent=searcher, or null", "warning")


def check_agent_budgets(run: RunConfig) -> Iterator[Problem]:
    """Budgets are not negative, and pictures have a size."""
    rollout = run.rollout
    least = {
        "max_visual_tokens": (rollout.max_visual_tokens, "0 (no limit) or more"),
        "invalid_limit": (rollout.invalid_limit, "0 or more"),
        "wall_time_per_traj_s": (rollout.wall_time_per_traj_s, "0 (no limit) or more"),
        "crop_pad_px": (rollout.crop_pad_px, "0 or more"),
        "search_max_retries": (rollout.search_max_retries, "0 or more"),
        "search_backoff_s": (rollout.search_backoff_s, "0 or more"),
        "search_batch_wait_ms": (rollout.search_batch_wait_ms, "0 or more"),
        "search_cache_size": (rollout.search_cache_size, "0 (none) or more"),
    }
    for key, (value, right) in least.items():
        if value < 0:
            yield Problem(f"rollout.{key}", value, "must not be negative", right)
    for key, seconds in (
        ("search_connect_timeout_s", rollout.search_connect_timeout_s),
        ("search_timeout_s", rollout.search_timeout_s),
        ("search_deadline_s", rollout.search_deadline_s),
    ):
        if seconds <= 0:
            yield Problem(f"rollout.{key}", seconds, "no search could ever answer", "15")
    if not 0 <= rollout.search_failure_budget <= 1:
        yield Problem(
            "rollout.search_failure_budget", rollout.search_failure_budget, "is a share of searches", "0 to 1"
        )


def check_agent_images(run: RunConfig) -> Iterator[Problem]:
    """A page is shown at a size that leaves room for more than one."""
    if run.rollout.agent != "single_turn" and run.data.image_max_pixels is None:
        why = "a scanned page may take thousands of visual tokens of every trajectory that sees it"
        yield Problem("data.image_max_pixels", None, why, "401408 (512 visual tokens)", "warning")
