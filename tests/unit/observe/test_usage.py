"""Memory and use by stage, of this process and of children that really take memory and time; idle time by role.

Not covered: a real device under NVML.
"""

import doctest
import json
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from hpt_megatron.observe import gpu_monitor, idle, names
from hpt_megatron.observe.gpu_monitor import GPUMonitor, Report, stage_numbers
from hpt_megatron.observe.idle import Span
from hpt_megatron.observe.idle import idle as idle_of
from hpt_megatron.observe.step import Step
from hpt_megatron.observe.usage import Devices, Usage, Usages

pytestmark = pytest.mark.fast
MIB = 1 << 20


def test_the_examples_hold():
    assert all(doctest.testmod(module).failed == 0 for module in (gpu_monitor, idle, names))


def test_memory_of_a_child_is_counted_in_the_stage_that_it_was_there_in():
    code = "import time; held = bytearray(b'x' * (80 << 20)); print('ready', flush=True); time.sleep(60)"
    watch = GPUMonitor(interval=60.0).start()
    watch.relabel("before")
    watch.read.processes._walked = float("-inf")
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        watch.relabel("between")
        assert child.stdout.readline() == b"ready\n"
        watch.read.processes._walked = float("-inf")  # the tree is walked every two seconds
        watch.relabel("with")
        watch.relabel("")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    watch.stop()
    numbers = stage_numbers(watch.taken())
    assert numbers["memory/with/host"] - numbers["memory/before/host"] > 70 * MIB
    assert watch.taken() == {}, "what was taken is not told again"


def test_work_shows_in_the_share_of_the_stage_that_did_it():
    watch = GPUMonitor(interval=0.05).start()
    watch.relabel("work")
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    watch.relabel("rest")
    time.sleep(0.2)
    watch.stop()
    reports = watch.taken()
    assert reports["work"].cpu.mean > 2 * reports["rest"].cpu.mean
    assert 0 < reports["work"].cpu.mean <= 1


def test_the_line_in_a_file_has_duration_use_and_memory_and_says_what_they_are_of(tmp_path):
    for label in ("actor generation", "tool execution", "frozen generator"):
        with GPUMonitor(device_index=0, log_file=tmp_path / "usage.log", label=label, interval=0.01):
            time.sleep(0.03)
    lines = (tmp_path / "usage.log").read_text().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["actor generation", "tool execution", "frozen generator"]
    form = r": \d+\.\d s, .*mean \d+ % max \d+ %, resident mean [\d.]+ GiB max [\d.]+ GiB \(.+\)"
    assert all(re.search(form, line) for line in lines)
    if not Devices().handles:
        assert all("process tree" in line and "no NVML here" in line for line in lines)


def test_devices_are_reported_where_they_are_read():
    usage = Usage(cpu=0.5, resident=MIB, seconds=1.0, device=0.25, device_memory=8 * MIB)
    report = Report(2.0).plus(usage, began=True).plus(usage)
    assert stage_numbers({"update": report}) == {
        "memory/update/host": MIB,
        "util/update/host": 0.5,
        "memory/update/device": 8 * MIB,
        "util/update/device": 0.25,
    }
    assert "device mean 25 % max 25 %, device memory mean 0.01 GiB max 0.01 GiB" in report.line("update", "NVML")


def test_devices_are_read_through_nvml_where_it_answers(monkeypatch):
    """The names and units of NVML's own interface; the library stands in, for this host may have no device."""
    library = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=[20, 60][handle]),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=[3, 4][handle] * MIB),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    usages = Usages()
    assert usages.source.startswith("NVML, 2 devices; ")
    usage = usages()
    assert (usage.device, usage.device_memory) == (pytest.approx(0.4), 7 * MIB)
    assert Devices([1])() == (pytest.approx(0.6), 4 * MIB)

    def gone(handle):
        raise OSError

    library.nvmlDeviceGetMemoryInfo = gone
    assert usages().device is None, "a device that is gone ends no run"


def test_a_process_that_is_gone_is_no_failure():
    read = Usages()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    read()
    read.processes._walked = float("-inf")
    read()
    assert child.pid in read.processes._known
    child.communicate(b"\n")
    assert read().resident > 0
    assert child.pid not in read.processes._known


def test_each_role_idles_where_none_of_its_stages_runs():
    """Also where stages overlap, and within one another."""
    spans = [
        Span("prepare", 0, 1),
        Span("publish", 1, 2),
        Span("generate", 2, 6),
        Span("update", 5, 9),
        Span("values", 6, 7),
    ]
    assert idle_of(spans, 12.0) == {"trainer": 12 - 1 - 4, "rollout": 12 - 1 - 4}
    assert idle_of([], 3.0) == {"trainer": 3.0, "rollout": 3.0}


def test_a_step_tells_its_stages_as_they_happen_and_what_its_roles_waited():
    heard = []
    log = Step(1, heard.append)
    with log.stage("generate"):
        assert heard == ["generate"]
        time.sleep(0.01)
    with log.stage("update"):
        time.sleep(0.01)
    log.tokens(100)
    log.sampled(10)
    log.end()
    assert heard == ["generate", "", "update", ""]
    told = log.metrics()
    assert told["idle_s/trainer"] == pytest.approx(told["timing_s/step"] - told["timing_s/update"])
    assert told["idle_s/rollout"] == pytest.approx(told["timing_s/step"] - told["timing_s/generate"])
    assert told["timing_per_token_ms/generate"] == pytest.approx(1000 * told["timing_s/generate"] / 10)
    assert told["timing_per_token_ms/update"] == pytest.approx(1000 * told["timing_s/update"] / 100)


def test_memory_over_time_is_a_line_for_each_sample(tmp_path):
    import io

    from hpt_megatron.observe.journal import Journal, Watchers

    watch = GPUMonitor(interval=0.01)
    journal = Journal(tmp_path, 1, io.StringIO(), Watchers(usage=watch))
    watch.sampled = journal.sampled
    watch.start()
    log = journal.open_step(1)
    with log.stage("update"):
        time.sleep(0.05)
    journal.close()
    told = [json.loads(line) for line in (tmp_path / "memory.jsonl").read_text().splitlines()]
    assert {"update", ""} == {line["stage"] for line in told}
    assert set(told[0]) == {"at", "step", "stage", "host", "cpu", "device", "device_memory"}
    assert all(line["host"] > MIB for line in told)
    assert [line["at"] for line in told] == sorted(line["at"] for line in told)
