"""The lookup task, solved by a scripted policy: exact ids, masks and turn ids, whatever drives it.

Not covered: a model; the vocabulary of a real checkpoint.
"""

import asyncio
import dataclasses

import pytest
from lookup_world import SAMPLING, Scripted, inproc, kit_of, lookup, turns, write_corpus

from hpt_megatron.data.record import Source
from hpt_megatron.embedded.vocabulary import token_ids
from hpt_megatron.errors import HptError, UserError
from hpt_megatron.rewards.turns import Format
from hpt_megatron.rollout.agent.collect import Agent
from hpt_megatron.rollout.agent.views import View
from hpt_megatron.rollout.engine.role import EngineDiedError, RequestRefusedError, Sampled
from hpt_megatron.rollout.to_sample import sample_of
from hpt_megatron.rollout.tools.tool import Outcome
from hpt_megatron.rollout.trajectory import collapsed

T = token_ids()
FIRST = "<think>look</think><search>k07</search>"
SECOND = "<think>4</think><answer>4</answer>"


def ids_of(*spelled):
    """Ids by the written form of tokens; a bare text of one letter is a byte."""
    return [ord(token) if len(token) == 1 else T[token.replace(" ", "\u0120")] for token in spelled]


PROMPT = ids_of(
    *("<|im_start|>", "system", "\n", "You", " are", " a", " helpful", " assistant", ".", "<|im_end|>", "\n"),
    *("<|im_start|>", "user", "\n", "value", " ", "k07", " ", "?", "<|im_end|>", "\n"),
    *("<|im_start|>", "assistant", "\n"),
)
TURN_1 = ids_of("<think>", "look", "</think>", "<search>", "k07", "</search>", "<|im_end|>")
OBSERVATION = ids_of(
    *("\n", "<|im_start|>", "user", "\n", "<|vision_start|>", *["<|image_pad|>"] * 4, "<|vision_end|>", "<|im_end|>"),
    *("\n", "<|im_start|>", "assistant", "\n"),
)
TURN_2 = ids_of("<think>", "4", "</think>", "<answer>", "4", "</answer>", "<|im_end|>")


def run(chat, corpus, script, *, driver="lockstep", tasks=None, samples=1, step=3, **settings):
    client = inproc(corpus)
    engine = Scripted(chat, script, slow=driver == "async")
    with Agent(kit_of(chat, engine, client, **settings), client, driver) as agent:
        groups = agent.collect(tasks or [("7", lookup("k07"))], SAMPLING, samples, step)
    return groups, engine


@pytest.mark.parametrize("driver", ["lockstep", "async"])
def test_the_lookup_task_has_exactly_these_ids_masks_and_turns(chat, corpus, driver):
    groups, engine = run(chat, corpus, turns(FIRST, SECOND), driver=driver)
    (done,) = groups[0]
    assert list(done.ids) == PROMPT + TURN_1 + OBSERVATION + TURN_2
    parts = (len(PROMPT), len(TURN_1), len(OBSERVATION), len(TURN_2))
    assert done.loss_mask == tuple(m for n, m in zip(parts, (0, 1, 0, 1), strict=True) for _ in range(n))
    assert done.turn_id == tuple(t for n, t in zip(parts, (-1, 1, -2, 2), strict=True) for _ in range(n))
    assert all((p == 0.0) == (m == 0) for p, m in zip(done.rollout_logprobs, done.loss_mask, strict=True))
    assert [p for p in done.rollout_logprobs if p] == [-(i % 7) / 10 - 0.1 for i in TURN_1 + TURN_2]
    assert {v for v, m in zip(done.versions, done.loss_mask, strict=True) if m} == {"5"}
    assert (done.finish, done.retrieved, done.num_prompt) == ("answered", ("deck/k07",), len(PROMPT))
    assert [(view.page, view.region, view.grid) for view in done.images] == [("deck/k07", (0, 0, 56, 56), (1, 4, 4))]
    second = engine.asked[1][1]
    assert list(second.ids) == list(collapsed(PROMPT + TURN_1 + OBSERVATION, T["<|image_pad|>"]))
    assert [image.size for image in second.images] == [(56, 56)]


def test_the_rewards_see_the_two_turns_and_nothing_else(chat, corpus):
    groups, _ = run(chat, corpus, turns(FIRST, SECOND))
    seen = sample_of(groups[0][0], lookup("k07", golds=("4",)), chat.text)
    assert seen.turns == (FIRST, SECOND)
    assert (seen.answer, seen.retrieved, seen.reference, seen.golds) == ("4", ("deck/k07",), ("deck/k07",), ("4",))
    assert seen.tokens == len(TURN_1) + len(TURN_2)
    assert Format(think="every_turn", strict=True).score(seen).score == 1.0


def random_script(uid, sample, turn, seed):
    """Different for every seed: searches, crops, invalid turns, answers."""
    kinds = [
        f"<search>{uid} k0{seed % 8}</search>",
        "<bbox>[0, 0, 28, 28]</bbox>",
        "so",
        f"<answer>{seed % 10}</answer>",
    ]
    return kinds[seed % 4]


def test_lock_step_and_async_give_the_same_trajectories_for_the_same_seeds(chat, corpus):
    tasks = [(key, lookup(key)) for key in ("k00", "k01", "k02", "k03")]
    told = []
    for driver in ("lockstep", "async"):
        groups, engine = run(chat, corpus, random_script, driver=driver, tasks=tasks, samples=4)
        told.append(
            (
                [
                    [dataclasses.asdict(one) | {"seconds": None, "images": [v.region for v in one.images]} for one in g]
                    for g in groups
                ],
                {(key, s.seed) for key, _, s in engine.asked},
            )
        )
    for group in (*told[0][0], *told[1][0]):
        for one in group:
            one["turns"] = [{k: v for k, v in note.items() if not k.endswith("_s")} for note in one["turns"]]
    assert told[0] == told[1]
    assert len({one["finish"] for group in told[0][0] for one in group}) > 1
    assert len({one["ids"] for group in told[0][0] for one in group}) > 4


def test_lock_step_hands_each_turn_over_whole(chat, corpus):
    """So that an engine that holds its requests meets them in the same batches in every run."""
    tasks = [(key, lookup(key)) for key in ("k00", "k01")]
    _, engine = run(chat, corpus, turns(FIRST, SECOND), tasks=tasks, samples=3)
    assert engine.held_back == [6, 6]
    assert [key for key, _, _ in engine.asked] == 2 * [f"{uid}/{i}" for uid, _ in tasks for i in range(3)]


def test_a_group_is_told_as_soon_as_it_is_complete(chat, corpus):
    """The quick group is scored while the other still samples."""
    order = []

    def script(uid, sample, turn, seed):
        if uid == "slow" and turn == 1:
            return FIRST
        order.append(uid)
        return SECOND

    client = inproc(corpus)
    with Agent(kit_of(chat, Scripted(chat, script), client), client, "lockstep") as agent:
        tasks = [("slow", lookup("k07")), ("quick", lookup("k01"))]
        agent.collect(tasks, SAMPLING, 2, on_group=lambda uid, group: order.append((uid, len(group))))
    assert order == ["quick", "quick", ("quick", 2), "slow", "slow", ("slow", 2)]


def test_what_scores_a_group_and_fails_ends_the_collection(chat, corpus):
    def fails(uid, group):
        raise ValueError("no score")

    client = inproc(corpus)
    for driver in ("lockstep", "async"):
        kit = kit_of(chat, Scripted(chat, turns(SECOND)), client)
        with Agent(kit, None, driver) as agent, pytest.raises(ValueError, match="no score"):
            agent.collect([("1", lookup("k07"))], SAMPLING, 1, on_group=fails)


def test_seeds_differ_by_sample_turn_prompt_and_step_alone(chat, corpus):
    tasks = [("1", lookup("k07")), ("2", lookup("k07"))]

    def seeds(**more):
        _, engine = run(chat, corpus, turns(FIRST, SECOND), tasks=tasks, samples=2, **more)
        return sorted((key, sampling.seed) for key, _, sampling in engine.asked)

    first = seeds()
    assert len({seed for _, seed in first}) == 2 * 2 * 2
    assert first == seeds(driver="async")
    assert not {seed for _, seed in first} & {seed for _, seed in seeds(step=4)}
    assert not {seed for _, seed in first} & {seed for _, seed in seeds(more={"seed": 1})}


def test_the_final_turn_has_no_tools_and_is_told_so(chat, corpus):
    groups, engine = run(chat, corpus, turns(FIRST, "<search>k01</search>", "<search>k02</search>"), max_turns=2)
    (done,) = groups[0]
    assert (done.finish, done.retrieved, done.counters["turns"]) == ("max_turns", ("deck/k07", "deck/k01"), 3.0)
    assert "No tool is left" in chat.text(engine.asked[2][1].ids)
    assert "No tool is left" not in chat.text(engine.asked[1][1].ids)
    assert done.loss_mask[-1] == 1


def test_without_a_final_turn_a_search_that_nobody_could_see_is_not_made(chat, corpus):
    groups, engine = run(chat, corpus, turns(FIRST, "<search>k01</search>"), max_turns=2, final_turn=False)
    (done,) = groups[0]
    assert (done.finish, done.retrieved, len(engine.asked), done.loss_mask[-1]) == ("max_turns", ("deck/k07",), 2, 1)


def test_an_observation_that_does_not_fit_leaves_no_trace(chat, corpus):
    """One token less, and the last token is still the policy's."""
    whole = len(PROMPT) + len(TURN_1) + len(OBSERVATION) + 1
    groups, _ = run(chat, corpus, turns(FIRST, "<"), max_model_len=whole)
    assert (groups[0][0].finish, len(groups[0][0].ids)) == ("length", whole)
    groups, _ = run(chat, corpus, turns(FIRST, SECOND), max_model_len=whole - 1)
    (done,) = groups[0]
    assert (done.finish, list(done.ids), done.images, done.retrieved) == ("obs_overflow", PROMPT + TURN_1, (), ())


def test_budgets_of_images_and_visual_tokens_end_a_trajectory_before_the_image(chat, corpus):
    for rules in ({"max_images": 1}, {"max_visual_tokens": 7}):
        groups, _ = run(chat, corpus, turns(FIRST, "<search>k01</search>", SECOND), **rules)
        assert (groups[0][0].finish, len(groups[0][0].images), groups[0][0].loss_mask[-1]) == ("image_limit", 1, 1)


def test_too_many_invalid_turns_end_a_trajectory(chat, corpus):
    groups, engine = run(chat, corpus, lambda *_: "so", invalid_limit=2, max_turns=9)
    assert (groups[0][0].finish, groups[0][0].counters["invalid"], len(engine.asked)) == ("invalid_limit", 2.0, 3)


def test_a_turn_that_ran_out_of_tokens_ends_the_trajectory(chat, corpus):
    groups, _ = run(chat, corpus, turns("so " * 100))
    assert (groups[0][0].finish, groups[0][0].num_sampled) == ("length", 64)


def test_an_action_that_is_complete_counts_although_the_turn_ran_out_of_tokens_behind_it(chat, corpus):
    groups, _ = run(chat, corpus, turns("<answer>4</answer>" + "so " * 100))
    done = groups[0][0]
    assert (done.finish, chat.text(done.ids[done.num_prompt :])) == ("answered", "<answer>4</answer>")


def test_an_engine_that_fails_once_is_asked_again_with_the_same_seed_and_then_given_up(chat, corpus):
    failures = iter([RuntimeError("gone"), None, *[RuntimeError("gone")] * 9])
    groups, engine = run(chat, corpus, lambda *_: next(failures) or SECOND)
    assert (groups[0][0].finish, groups[0][0].counters["engine_failures"]) == ("answered", 1.0)
    assert engine.asked[0][2].seed == engine.asked[1][2].seed
    groups, engine = run(chat, corpus, lambda *_: next(failures))
    assert (groups[0][0].finish, groups[0][0].valid, len(engine.asked)) == ("infra_error", False, 3)
    died = iter([EngineDiedError("gone", where="engine"), Sampled((), (), (), "abort"), SECOND])
    groups, engine = run(chat, corpus, lambda *_: next(died))
    assert (groups[0][0].finish, groups[0][0].counters["engine_failures"]) == ("answered", 2.0)


@pytest.mark.parametrize("driver", ["lockstep", "async"])
def test_a_request_that_the_engine_refuses_ends_its_trajectory_at_once_and_no_other(chat, corpus, driver):
    def script(uid, sample, turn, seed):
        return RequestRefusedError("refuses a request: too long", where="engine") if sample == 1 else SECOND

    groups, engine = run(chat, corpus, script, driver=driver, samples=3)
    ends = [("answered", True), ("refused", False), ("answered", True)]
    assert [(done.finish, done.valid) for done in groups[0]] == ends
    assert sorted(key for key, _, _ in engine.asked) == ["7/0", "7/1", "7/2"]


@pytest.mark.parametrize("driver", ["lockstep", "async"])
def test_an_error_of_the_run_ends_the_collection_with_its_own_line(chat, corpus, driver):
    """An engine that sleeps would be asked for every trajectory, three times each; and nobody would hear its mend."""
    asleep = HptError("it sleeps", where="engine", mend="wake its weights")
    with pytest.raises(HptError) as raised:
        run(chat, corpus, lambda *_: asleep, driver=driver, tasks=[("1", lookup("k07")), ("2", lookup("k07"))])
    assert raised.value is asleep


@pytest.mark.parametrize("driver", ["lockstep", "async"])
def test_a_tool_that_raises_has_failed_and_the_other_trajectories_go_on(chat, corpus, driver):
    class Broken:
        async def use(self, body, scene):
            raise KeyError(body)

    def script(uid, sample, turn, seed):
        return "<calculator>3+5</calculator>" if sample and turn == 1 else SECOND

    client, engine = inproc(corpus), Scripted(chat, script)
    kit = kit_of(chat, engine, client, tools=("calculator",))
    kit = dataclasses.replace(kit, tools={**kit.tools, "calculator": Broken()})
    with Agent(kit, client, driver) as agent:
        (group,) = agent.collect([("1", lookup("k07"))], SAMPLING, 2)
    assert [done.finish for done in group] == ["answered", "answered"]
    assert (group[1].turns[0].outcome, group[1].counters["infra_events"]) == ("KeyError", 1.0)
    assert "The calculator is unavailable." in chat.text(engine.asked[-1][1].ids)


@pytest.mark.parametrize(("limit", "finish"), [(0.05, "wall_time"), (60.0, "answered"), (0.0, "answered")])
def test_a_trajectory_that_took_too_long_is_not_gone_on_with(chat, corpus, limit, finish):
    """Its clock runs while tools do, and what came too late leaves no trace."""

    class Slow:
        async def use(self, body, scene):
            await asyncio.sleep(0.1)
            return Outcome("shown", text="8")

    kit = kit_of(chat, Scripted(chat, turns("<calculator>3+5</calculator>", SECOND)), None, tools=("calculator",))
    kit = dataclasses.replace(
        kit, tools={"calculator": Slow()}, rules=dataclasses.replace(kit.rules, wall_time_s=limit)
    )
    with Agent(kit) as agent:
        (done,) = agent.collect([("1", lookup("k07"))], SAMPLING, 1)[0]
    assert (done.finish, done.valid, done.loss_mask[-1]) == (finish, True, 1)
    assert (done.num_sampled == done.num_response) is (finish == "wall_time")


def test_an_action_of_another_mode_is_no_valid_action(chat, corpus):
    last = "<search_complete>true</search_complete>"
    groups, _ = run(chat, corpus, turns("<answer>4</answer>", FIRST, last), mode="searcher")
    (done,) = groups[0]
    assert (done.counters["valid_actions"], done.counters["turns"], done.counters["invalid"]) == (2.0, 3.0, 1.0)
    assert [note.action for note in done.turns] == ["", "search", "search_complete"]


def test_two_prompts_of_one_id_are_refused(chat, corpus):
    """Their requests and seeds would be the same, and whoever scores by id would meet the wrong group."""
    with pytest.raises(UserError, match="more than once, the first is 2"):
        run(chat, corpus, turns(SECOND), tasks=[(uid, lookup("k07")) for uid in "1223"])


def test_a_prompt_that_does_not_fit_or_cannot_be_read_has_no_turn_and_counts_as_no_rollout(chat, corpus):
    groups, engine = run(chat, corpus, turns(SECOND), max_prompt_tokens=len(PROMPT) - 1)
    assert (groups[0][0].finish, groups[0][0].valid, engine.asked) == ("prompt_overflow", False, [])
    broken = lookup("k07", images=(Source(data=b"no"),))
    groups, engine = run(chat, corpus, turns(SECOND), tasks=[("1", broken), ("2", lookup("k07"))])
    assert [group[0].finish for group in groups] == ["bad_prompt", "answered"]


def test_a_single_turn_is_one_response_whatever_tags_it_holds(chat, corpus):
    groups, _engine = run(chat, corpus, turns(FIRST + SECOND), mode="single_turn", samples=3)
    assert [(done.finish, done.counters["turns"]) for done in groups[0]] == [("stop", 1.0)] * 3
    assert chat.text(groups[0][0].ids[len(PROMPT) :]) == FIRST + SECOND


def test_a_calculator_is_used_in_the_same_way(chat, corpus):
    groups, engine = run(chat, corpus, turns("<calculator>3+5</calculator>", SECOND), tools=("calculator",))
    (done,) = groups[0]
    assert (done.finish, done.turns[0].action, done.retrieved) == ("answered", "calculator", ())
    assert chat.text(engine.asked[1][1].ids).endswith("user\n8\nassistant\n")


def test_the_searcher_ends_when_its_search_is_complete(chat, corpus):
    last = "<search_complete>true</search_complete>"
    groups, _ = run(chat, corpus, turns(FIRST, last), mode="searcher")
    assert (groups[0][0].finish, groups[0][0].answer) == ("search_complete", None)
    other = "<search_complete>not yet</search_complete>"
    groups, _ = run(chat, corpus, turns(other), mode="searcher")
    assert groups[0][0].finish == "search_complete"
    groups, _ = run(chat, corpus, turns(other, last), mode="searcher", on_complete_false="invalid")
    assert (groups[0][0].finish, groups[0][0].counters["invalid"]) == ("search_complete", 1.0)
    groups, _ = run(chat, corpus, turns("<answer>4</answer>", last), mode="searcher")
    assert groups[0][0].counters["invalid"] == 1.0, "an answer is no action of the searcher"


def test_zooming_twice_shows_the_part_of_the_part(chat, tmp_path):
    corpus = write_corpus(tmp_path, size=(224, 224))
    script = turns(FIRST, "<bbox>[28, 28, 56, 56]</bbox>", "<bbox>[0, 0, 28, 28]</bbox>", SECOND)
    groups, _ = run(chat, corpus, script)
    views: tuple[View, ...] = groups[0][0].images
    assert [view.region for view in views] == [(0, 0, 224, 224), (112, 112, 224, 224), (112, 112, 168, 168)]
    assert {view.page for view in views} == {"deck/k07"}
    assert groups[0][0].retrieved == ("deck/k07",), "a crop is no page"
