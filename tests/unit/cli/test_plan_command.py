"""`hpt plan`: the same plan as text, JSON and a page, and bad input in one line."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from hpt_megatron.cli.main import main
from hpt_megatron.cli.plan import kind_of, run
from hpt_megatron.planning.amounts import in_words
from hpt_megatron.planning.page import page


def planned(capsys, *arguments):
    code = run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def seven(capsys):
    code, plan = planned(capsys, "devices=h100:8", "experiment=hpt-7b")
    assert code == 0
    return plan


def test_the_text_says_what_the_json_says(capsys, seven):
    assert run(["experiment=hpt-7b", "devices=h100:8"]) == 0
    text = capsys.readouterr().out
    assert "own layout  tp 4, pp 1, vpp 1, cp 1, dp 2, recompute selective, engines of 2" in text
    for phase in seven["memory"]:
        assert f"  {phase['phase']:<10}{in_words(phase['bytes']):>11}  {phase['role']}, stage" in text
        for term in phase["terms"]:
            assert f"{in_words(term['bytes']):>23}  {term['name']}\n" in text
    for part in seven["step"]["parts"]:
        assert f"{part['phase']}: {part['name']}" in text
    assert f"{seven['step']['tokens_per_s']:,.0f} tokens/s" in text
    assert f"layouts: {len(seven['layouts']['ranked'])} fit, {len(seven['layouts']['refused'])} refused" in text
    for one in seven["layouts"]["ranked"][:5]:
        assert one["text"] in text
    assert max(map(len, text.splitlines())) < 170


def test_the_json_adds_up(seven):
    for phase in seven["memory"]:
        assert phase["bytes"] == sum(term["bytes"] for term in phase["terms"])
    assert seven["host"]["bytes"] == sum(term["bytes"] for term in seven["host"]["terms"])
    step = seven["step"]
    assert step["seconds"] == pytest.approx(sum(part["seconds"] for part in step["parts"]))
    assert step["seconds"] == pytest.approx(sum(step["phases"].values()))
    assert step["tokens_per_s"] == pytest.approx(seven["workload"]["rows"] * 4608 / step["seconds"])


def test_a_layout_that_does_not_fit_is_refused_and_the_best_one_is_planned(capsys):
    code, plan = planned(capsys, "experiment=hpt-72b", "devices=h100:64", "trainer.recompute=selective")
    assert code == 2
    assert plan["own"]["legal"]
    assert not plan["own"]["fits"]
    assert plan["own"]["reason"].startswith("update needs ")
    assert plan["planned"]["text"] == plan["layouts"]["ranked"][0]["text"]
    assert all(phase["fits"] for phase in plan["memory"])
    code, plan = planned(capsys, "experiment=hpt-72b", "devices=h100:64")
    assert code == 0
    assert plan["planned"]["text"] == plan["own"]["text"]


def test_an_illegal_layout_leaves_the_question_which_one_is_legal(capsys):
    code, plan = planned(capsys, "experiment=hpt-32b", "devices=h100:24")
    assert code == 2
    assert "which tp 8 x pp 2 x cp 1 = 16 does not divide" in plan["own"]["reason"]
    assert plan["layouts"]["ranked"]
    assert plan["planned"]["dp"] * plan["planned"]["tp"] * plan["planned"]["pp"] * plan["planned"]["cp"] == 24


def test_the_tiny_model_is_planned_for_this_host(capsys):
    code, plan = planned(capsys)
    assert code == 0
    assert (plan["devices"]["kind"], plan["devices"]["count"], plan["devices"]["nodes"]) == ("host", 2, 1)
    assert plan["devices"]["flops"] > 0
    names = {term["name"] for phase in plan["memory"] for term in phase["terms"]}
    assert "gloo's copies of gradients" in names


def test_split_devices_are_beside_the_trainers(capsys):
    code, plan = planned(capsys, "experiment=hpt-7b", "devices=h100:8", "--split", "4")
    assert code == 0
    assert plan["engine"]["engines"] == 2
    by_name = {phase["phase"]: {term["name"] for term in phase["terms"]} for phase in plan["memory"]}
    assert "weights" not in by_name["publish"]
    assert "engine weights" not in by_name["update"]
    assert "moves" not in plan["step"]["phases"]


class Outside(HTMLParser):
    """Everything in a page that would be fetched or run."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        names = {name for name, _ in attributes}
        if tag in ("script", "link", "img", "iframe", "object") or names & {"src", "href", "onload", "onclick"}:
            self.found.append(tag)


def test_the_page_is_one_file_and_its_pictures_are_to_scale(capsys, tmp_path):
    file = tmp_path / "plans" / "seven.html"
    assert run(["experiment=hpt-7b", "devices=h100:8", "--html", str(file), "--json"]) == 0
    plan, text = json.loads(capsys.readouterr().out), file.read_text(encoding="utf-8")
    outside = Outside()
    outside.feed(text)
    assert outside.found == []
    assert "url(" not in text
    assert "@import" not in text
    bars, line = (ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    tag = "{http://www.w3.org/2000/svg}"
    widths = {}
    for rect in bars.iter(f"{tag}rect"):
        widths.setdefault(float(rect.get("y")), []).append(float(rect.get("width")))
    sizes = [phase["bytes"] for phase in plan["memory"]]
    scale = 960 / max(*sizes, plan["devices"]["room_bytes"])
    assert [sum(row) for _, row in sorted(widths.items())] == pytest.approx([each * scale for each in sizes], abs=0.2)
    assert sum(float(rect.get("width")) for rect in line.iter(f"{tag}rect")) == pytest.approx(960, abs=0.2)
    titles = [title.text for title in bars.iter(f"{tag}title")]
    for phase in plan["memory"]:
        for term in phase["terms"]:
            assert f"{term['name']}: {in_words(term['bytes'])}" in titles


def test_a_page_escapes_what_it_is_given(seven):
    seven["asked"] = "<script>alert(1)</script>"
    seven["own"]["text"] = 'a "<b>"'
    seven["memory"][0]["terms"][0]["name"] = "<i>&"
    text = page(seven)
    assert "<script" not in text
    assert "<b>" not in text
    assert "<i>" not in text
    assert "&lt;i&gt;&amp;" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["devices=v100:8"], "no device is named 'v100'"),
        (["devices=h100:12"], "12 devices leave a node half used"),
        (["devices=h100:8", "devices=h100:16"], "devices are given 2 times"),
        (["model.path=/nowhere/at/all"], "no config.json there"),
        (["experiment=hpt-9b"], "hpt-9b"),
        (["experiment=hpt-7b", "--split", "3"], "3 devices make no engines of 2"),
        (["experiment=hpt-7b", "--grid", "36"], "is no grid"),
        (["experiment=hpt-7b", "--response", "100000"], "--response"),
        (["--layouts", "many"], "invalid int value"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, arguments, said):
    assert main(["plan", *arguments]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert "Traceback" not in told.err
    assert told.out == ""


def test_reasons_are_counted_without_their_numbers():
    assert (
        kind_of("update needs 1,234.5 GiB of 70.8")
        == kind_of("update needs 7 GiB of 70.8")
        == "update needs # GiB of #"
    )


def test_validation_refuses_a_run_that_fits_on_no_device(capsys):
    words = ["config", "validate", "experiment=hpt-72b", "layout=tp2"]
    assert main(words) == 2
    told = capsys.readouterr().out
    assert "error: layout = tp 2, pp 1, vpp 1, cp 1, dp 32, recompute full, engines of 8: update needs " in told
    assert "no larger device is known than B200 HGX 192 GB" in told
    assert "invalid: 1 error, 0 warnings" in told
    assert main([*words, "--json"]) == 2
    assert not json.loads(capsys.readouterr().out)["ok"]
    assert main(["config", "validate", "experiment=hpt-72b"]) == 0
