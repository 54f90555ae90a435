"""Another package's credit estimator, as the page shows it."""

import re

import pytest

pytestmark = pytest.mark.slow  # a process of its own
USE = """
from hpt_megatron.algorithms.build import credit
from hpt_megatron.config.load import load, load_run
from hpt_megatron.protocol.rows import Rows

trained = [[True, True], [True], [True], [True]]
reward = [[0.0, 1.0], [0.5], [0.5], [9.0]]
rows = Rows.from_lists({"trained": trained, "reward": reward}, prompt=[0, 0, 0, 1], off=[False] * 4, valid=[True] * 4)
found = credit(rows, load_run(["algorithm.adv_estimator=ranks"]).algorithm)
print([round(number, 3) for number in found.advantage.tolist()])
print(load(["algorithm.adv_estimator=rank"]).problems[0].right)
"""


def test_another_package_brings_an_estimator_as_the_page_shows(with_plugin, checkout):
    """Of three rows the best beats two, the others lose to one; a prompt's only row beats nobody."""
    page = (checkout / "docs" / "algorithms.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# my_package/ranks.py\n(.*?)```", page, re.DOTALL)
    said = with_plugin("ranks", code, "[hpt_megatron.credit]\nranks = ranks:ranks\n", USE).splitlines()
    assert said[0] == "[0.667, 0.667, -0.333, -0.333, 0.0]"
    assert said[1].endswith(", ranks")
