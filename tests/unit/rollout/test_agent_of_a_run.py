"""From keys to an agent, the sources' names over it, and what a step's log says."""

import pytest
from lookup_world import SAMPLING, Scripted, inproc, kit_of, lookup, turns

from hpt_megatron.config.load import load
from hpt_megatron.config.rules import agent as rule
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.errors import UserError
from hpt_megatron.rewards.turns import ACTIONS
from hpt_megatron.rollout.agent.build import agent_of
from hpt_megatron.rollout.agent.collect import Agent
from hpt_megatron.rollout.agent.metrics import metrics
from hpt_megatron.rollout.agent.source_names import GenerationConfig, LLMGenerationManager
from hpt_megatron.rollout.marks import marks_of
from hpt_megatron.rollout.tools.tool import TOOLS

ANSWER = "<answer>4</answer>"
FIXED = ["rollout.agent_prompt=none", "data.image_max_pixels=3136"]


def run_of(corpus, *more):
    loaded = load(
        ["rollout=vrag", "rollout.search_protocol=inproc", f"rollout.search_corpus_root={corpus}", *FIXED, *more]
    )
    assert not [problem for problem in loaded.problems if problem.severity == "error"], loaded.problems
    return loaded.run


def test_an_agent_built_from_a_run_solves_the_lookup_task_within_the_runs_budgets(chat, tiny, corpus):
    run = run_of(corpus, "rollout.max_turns=1", "data.max_response_length=60", "rollout.tools=[calculator]")
    engine = Scripted(chat, turns("<search>k07</search>", ANSWER))
    with agent_of(run, engine, str(tiny)) as agent:
        agent.probe()
        (done,) = agent.collect([("1", lookup("k07"))], SAMPLING, 1)[0]
        assert (done.finish, done.retrieved) == ("answered", ("deck/k07",))
        rules = agent.kit.rules
    assert (rules.max_turns, rules.max_response_tokens, rules.max_new_tokens_per_turn) == (1, 60, 2048)
    assert (rules.actions, rules.max_images) == (("search", "bbox", "calculator", "answer"), 25)
    assert engine.asked[0][2].max_tokens == 60


def test_what_a_run_records_of_its_agent_changes_with_tokens_images_and_the_mask(chat, tiny, corpus):
    engine = Scripted(chat, turns(ANSWER))
    with agent_of(run_of(corpus), engine, str(tiny)) as agent:
        kit = agent.kit
        told = marks_of(kit.chat, kit.viewer.rules, engine.forbidden)
        assert (told["pictures"], told["chat"]) == (PictureRules.of_folder(tiny).fingerprint, chat.fingerprint)
        other = marks_of(kit.chat, kit.viewer.rules, (3, 4, 5))
    assert [name for name in told if told[name] != other[name]] == ["forbidden"]


def test_a_searcher_without_a_generator_ends_with_its_search(chat, tiny, corpus):
    """The first of the two phases: format and retrieval alone are rewarded."""
    run = run_of(corpus, "rollout=searcher", "rollout.search_on_failure=abort")
    with agent_of(run, Scripted(chat, turns("<search_complete>true</search_complete>")), str(tiny)) as agent:
        (done,) = agent.collect([("1", lookup("k07"))], SAMPLING, 1)[0]
        assert (done.finish, done.valid, agent.kit.rules.generator) == ("search_complete", True, False)
    asked = ["rollout.generator_url=http://127.0.0.1:9/v1", "rollout.generator_model=m"]
    with agent_of(run_of(corpus, "rollout=searcher", *asked), Scripted(chat, turns(ANSWER)), str(tiny)) as agent:
        assert agent.kit.rules.generator
        assert agent.kit.generator.settings.model == "m"


def test_the_rule_about_tools_knows_the_tools_and_tags_that_there_are():
    """It lies below them, so it has their names a second time."""
    assert tuple(name for name in TOOLS.names() if name not in rule.RESERVED) == rule.TOOLS
    assert ("think", *ACTIONS) == rule.RESERVED


def test_the_names_of_the_sources_run_the_same_agent(chat, tiny, corpus, tmp_path):
    script = turns("<search>k07</search>", "<bbox>[0, 0, 28, 28]</bbox>", ANSWER)
    config = GenerationConfig(max_turns=4, max_prompt_length=200, max_model_len=512, crops_dir=str(tmp_path / "c"))
    run = run_of(corpus, "data.max_response_length=200", "rollout.n_val=3")
    for is_validation, number in ((False, 2), (True, 3)):
        engine = Scripted(chat, script)
        manager = LLMGenerationManager(str(tiny), engine, config, is_validation, run=run)
        try:
            (group,) = manager.run_llm_loop([("a/1", lookup("k07"))], SAMPLING, n=2)
        finally:
            manager.close()
        assert [done.finish for done in group] == ["answered"] * number
        rules = manager.agent.kit.rules
        assert (rules.max_turns, rules.max_prompt_tokens, rules.max_model_len) == (4, 200, 512)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [f"a_1_{sample}_1.png" for sample in range(3)]


def test_the_sources_generator_settings_reach_the_generator(chat, tiny, corpus):
    run = run_of(corpus, "rollout=searcher", "rollout.generator_url=http://127.0.0.1:9/v1", "rollout.generator_model=m")
    config = GenerationConfig(
        max_turns=4, frozen_model="big", frozen_max_tokens=9, generator_max_images=3, generator_batch_workers=2
    )
    manager = LLMGenerationManager(str(tiny), Scripted(chat, turns(ANSWER)), config, run=run)
    settings = manager.agent.kit.generator.settings
    manager.close()
    assert (settings.model, settings.max_tokens, settings.max_images, settings.workers) == ("big", 9, 3, 2)
    assert (settings.retries, settings.backoff_base_s) == (3, 0.5)


def test_the_sources_configuration_is_checked():
    bad = [
        ({"max_turns": 0}, "max_turns = 0"),
        ({"max_turns": True}, "max_turns = True"),
        ({"max_turns": 5, "frozen_max_tokens": "9"}, "frozen_max_tokens = '9'"),
        ({"max_turns": 5, "generator_max_images": 0}, "generator_max_images = 0"),
        ({"max_turns": 5, "generator_batch_workers": 0}, "generator_batch_workers = 0"),
        ({"max_turns": 5, "frozen_max_retries": -1}, "frozen_max_retries = -1"),
        ({"max_turns": 5, "frozen_backoff_base": -0.5}, "frozen_backoff_base = -0.5"),
        ({"max_turns": 5, "use_system_prompt": 1}, "use_system_prompt = 1"),
        ({"max_turns": 5, "search_url": "localhost"}, "search_url: is not a web address"),
        ({"max_turns": 5, "max_prompt_length": 10240}, "no room in max_model_len 10240"),
    ]
    for given, why in bad:
        with pytest.raises(UserError, match=why.replace("(", r"\(")):
            GenerationConfig(**given)


def test_a_steps_log_says_rates_of_what_they_are_rates_of(chat, corpus):
    client = inproc(corpus)

    def script(uid, sample, turn, seed):
        if sample == 1:
            return RuntimeError("gone")
        return ["<search>k07</search>", "<search>K07</search>", "so", ANSWER][turn - 1]

    with Agent(kit_of(chat, Scripted(chat, script), client), client) as agent:
        group = agent.collect([("1", lookup("k07"))], SAMPLING, 2)[0]
    told = metrics(group, {"1": ["deck/k07.png"]}, client.stats.metrics())
    assert (told["agent/finish/answered"], told["agent/finish/infra_error"], told["agent/valid_share"]) == (1, 1, 0.5)
    assert (told["agent/turns_mean"], told["agent/searches_per_trajectory"]) == (4.0, 2.0)
    assert (told["agent/valid_action_rate"], told["agent/invalid_rate"]) == (0.75, 0.25)
    assert (told["agent/repeated_query_rate"], told["agent/no_new_result_rate"]) == (0.5, 0.5)
    assert (told["agent/recall"], told["agent/ndcg"]) == (1.0, 1.0)
    assert told["agent/visual_tokens_per_trajectory"] == 4.0
    assert 0 < told["agent/observation_token_share"] < 1
    assert {"agent/seconds/actor_generation", "agent/seconds/tool_execution", "agent/seconds/frozen_generator"} <= set(
        told
    )
    assert told["search/queries"] == 2.0
    assert metrics([])["agent/valid_share"] == 0.0


def test_the_embedded_tasks_demonstrations_are_what_an_agent_makes_of_the_same_words(chat, tiny, tmp_path):
    """Lookup, two lookups, zoom: the policy says what the teacher says, and gets the teacher's row token for token."""
    from hpt_megatron.data.tasks.make import make, records
    from hpt_megatron.rollout.to_rows import demonstration

    for task in ("lookup", "lookup2", "zoom"):
        made = make(task, tmp_path / task, count=64, val_count=1)
        rows = [row for row in records(task, "train", 64, 0) if row.target][:4]
        assert len(rows) >= 2
        script = {row.index: [m.content for m in row.target if m.role == "assistant"] for row in rows}
        pages = tmp_path / (task if "corpus/pages.jsonl" in made else "lookup") / "corpus"
        run = run_of(pages, "data.max_response_length=120")
        engine = Scripted(chat, lambda uid, sample, turn, seed, script=script: script[uid][turn - 1])
        with agent_of(run, engine, str(tiny)) as agent:
            groups = agent.collect([(row.index, row) for row in rows], SAMPLING, 1)
            for row, (done,) in zip(rows, groups, strict=True):
                taught = demonstration(row, 0, agent.kit.prompting)
                assert list(done.ids) == list(taught.ids)
                assert [bool(mask) for mask in done.loss_mask] == list(taught.trained)
                assert list(done.turn_id) == list(taught.turn)
                assert done.grids == [view.grid for view in taught.images]
                assert [view.image.tobytes() for view in done.images] == [
                    view.image.tobytes() for view in taught.images
                ]
                assert (done.finish, set(done.retrieved)) == ("answered", set(row.reference))


TELEPHONE = """
from hpt_megatron.rollout.tools.tool import Outcome


class Telephone:
    def __init__(self, equipment):
        self.viewer = equipment.viewer

    async def use(self, body, scene):
        return Outcome("shown", text=f"you have called {body}")
"""


def test_another_package_brings_a_tool_as_the_page_shows(chat, tiny, corpus, installed, monkeypatch):
    points = "[hpt_megatron.tools]\ntelephone = hpt_telephone:Telephone\n"
    monkeypatch.syspath_prepend(installed("hpt_telephone", TELEPHONE, points))
    engine = Scripted(chat, turns("<telephone>me</telephone>", ANSWER))
    with agent_of(
        run_of(corpus, "data.max_response_length=120", "rollout.tools=[telephone]"), engine, str(tiny)
    ) as agent:
        (done,) = agent.collect([("1", lookup("k07"))], SAMPLING, 1)[0]
        assert "<telephone>" in agent.kit.mode.instruction
    assert (done.finish, [note.action for note in done.turns]) == ("answered", ["telephone", "answer"])
    assert "you have called me" in chat.text(engine.asked[1][1].ids)
