"""The page about runs: one file, no requests, all figures drawn in a real browser, hostile names run nothing."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from agents import Evaluation
from scripts import report
from scripts.analysis.page.page import require_packages
from scripts.common.usage import UsageError
from scripts.runs import Run
from scripts.runs.files import write_json
from scripts.runs.protocol import describe
from scripts.runs.results import latest_evaluation, write_result
from scripts.runs.tables import STEP
from tests.helpers import exit_code
from tests.run_folders import CONFIG, make_run

pytest.importorskip("plotly", reason="needs plotly: pip install -c constraints.txt -e '.[report]'")
pytest.importorskip("jinja2", reason="needs jinja2: pip install -c constraints.txt -e '.[report]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = (
    "</script><script>document.title='ran'</script>",
    "<img src=x onerror=\"document.title='ran'\">",
    "<b>{{ 7*7 }}</b>",
)


def write(*words, out):
    assert report.main([*map(str, words), "--out", str(out)]) == 0
    return out.read_text()


def numbers(text):
    return json.loads(re.search(r'id="numbers">(.*?)</script>', text, re.DOTALL)[1])


def suite_of(path, tasks, seed, rows=10, **settings):
    """A finished run with all logs of so many tasks."""
    goals = {name: np.arange(6.0).reshape(2, 3) for name in tasks}
    config = replace(CONFIG, goals=2, eval_goals=2, final_goals=2, seed=seed, steps_per_task=100 * rows, **settings)
    run = Run.new(path, config, describe(config, tasks, goals), goals).save()
    generator = np.random.default_rng(seed)
    pairs = [f"{a}|{b}" for i, a in enumerate(tasks) for b in tasks[i + 1 :]]
    metrics, conflicts = [], []
    for step in range(100, 100 * rows + 1, 100):
        outcomes = generator.integers(0, 2, (len(tasks), 2)).astype(float)
        run.add_evaluation(step, Evaluation(tasks, *5 * [outcomes]))
        names = ("ent_coef", "critic_norms", "actor_norms", "critic_loss")
        row = {
            f"train/{name}/{task}": f"{x:.5g}"
            for name in names
            for task, x in zip(tasks, generator.random(len(tasks)), strict=True)
        }
        metrics.append({STEP: step, **row, "time/env_steps_per_task": step, "time/seconds_learn": step})
        cosines = zip(pairs, generator.uniform(-1, 1, len(pairs)), strict=True)
        conflicts += [{STEP: step, "network": "critic", **{pair: f"{x:.4f}" for pair, x in cosines}}]
    run.metrics.append(metrics)
    run.conflicts.append(conflicts)
    write_result(run, "finished", [], 100 * rows, latest_evaluation(run), {"learn": 3600.0})
    return run


def test_a_page_has_the_numbers_of_its_runs(tmp_path):
    runs = [
        make_run(tmp_path / f"{name}{seed}", aggregator=name, seed=seed, logs=True).path
        for name in ("mean", "pcgrad")
        for seed in (0, 1)
    ]
    write_json(runs[0] / "versions.json", {"torch": "9.9"})
    text = write(*runs, out=tmp_path / "page.html")
    found = numbers(text)
    assert found["tasks"] == ["reach-v3", "push-v3"]
    assert [(method["label"], method["seeds"]) for method in found["methods"]] == [("mean", [0, 1]), ("pcgrad", [0, 1])]
    assert found["methods"][0]["steps"] == [100, 200]
    assert found["methods"][0]["success"] == [[[0.2, 0.5], [0.4, 0.7]]] * 2
    assert found["methods"][0]["training"][0]["train/ent_coef"]["values"] == [[0.002, 0.001, 0.000667, 0.0005]] * 2
    assert found["methods"][0]["conflicts"]["critic"]["shares"][0] == [
        [None, None],
        [None, None],
    ]  # nothing measured yet
    assert found["methods"][0]["conflicts"]["critic"]["shares"][1] == [[None, 100], [100, None]]
    for word in ("<strong>0.600 ", "9.9", runs[0].name, "McLean et al. 2025", "0.50 [0.30, 0.70]"):
        assert word in text


def test_seeds_of_unequal_length_are_told_as_they_are_at_their_last_common_step(tmp_path):
    """Intervals are of the episodes there, not of the more that one has at its end; and so are the hours."""
    long = make_run(tmp_path / "a", {100: (0.5, 0.5), 200: (0.9, 0.9)}, logs=True)
    rows = long.evaluations.read()
    long.evaluations.replace([{**row, "episodes": 50 if row[STEP] == "200" else 10} for row in rows])
    short = make_run(tmp_path / "b", {100: (0.5, 0.5)}, seed=1, status="interrupted", logs=True)
    for run in (long, short):
        run.metrics.replace([{**row, "time/seconds_evaluate": 0} for row in run.metrics.read()])
    text = write(tmp_path, out=tmp_path / "page.html")
    assert "0.50 [0.30, 0.70]" in text  # Wilson's interval of 10 of 20
    assert "<td>0.500</td><td>1.00</td>" in text  # best, and hours at step 100


def test_a_page_needs_nothing_from_elsewhere(tmp_path):
    text = write(make_run(tmp_path / "run").path, out=tmp_path / "page.html")
    assert (
        re.findall(r'(?:src|href)="(?!#|https?://(?:arxiv|openreview)|data:)[^"]*"', text.partition('id="numbers"')[0])
        == []
    )
    assert "default-src 'none'" in text


def test_films_are_in_the_page_if_they_are_small(tmp_path):
    run = make_run(tmp_path / "run").path
    (run / "video.mp4").write_bytes(b"film")
    (run / "long.gif").write_bytes(bytes(2_000_001))
    text = write(run, out=tmp_path / "page.html")
    assert 'src="data:video/mp4;base64,ZmlsbQ=="' in text
    assert "Not in this file, as it is large" in text


def test_a_run_without_logs_has_a_page_too(tmp_path):
    found = numbers(write(make_run(tmp_path / "run").path, out=tmp_path / "page.html"))
    assert found["methods"][0]["hours"] is None
    assert found["methods"][0]["conflicts"] == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "--out", "page.pdf"], "--out: expected a file that ends in .html; found the ending '.pdf'"),
        (["RUN", "--out", "nowhere/page"], "there is no folder nowhere"),
        (["nothing"], "expected the folder of a run"),
    ],
)
def test_what_cannot_be_is_told_and_writes_nothing(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "RUN")
    before = sorted(tmp_path.iterdir())
    assert exit_code(monkeypatch, report.main, words) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_package_is_told_with_its_installation(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"plotly and jinja2 not installed here.*pip install -c constraints.txt -e '\.\[report\]'"
    ):
        require_packages()


@pytest.fixture(scope="module")
def browsed(tmp_path_factory):
    """Two methods with three seeds each on fifty tasks, some with hostile names: the file, its DOM, its console.

    Such tasks are refused when a run is opened; the page does not rely on it.
    """
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    folder = tmp_path_factory.mktemp("page")
    tasks = (*EVIL, *(f"task-{i}" for i in range(47)))
    for name in ("mean", "pcgrad"):
        for seed in range(3):
            suite_of(folder / f"{name}-{seed}-<img src=x onerror=alert(1)>", tasks, seed, aggregator=name)
    path = folder / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripts.runs.files.TASK_NAME", re.compile(".*", re.DOTALL))
        write(folder, "--title", EVIL[0], out=path)
    words = "--headless --no-sandbox --disable-gpu --enable-logging=stderr --virtual-time-budget=20000 --dump-dom"
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *words.split(), profile, path.as_uri()], capture_output=True, text=True, timeout=600, check=True
    )
    return path, done.stdout, done.stderr


def test_every_figure_is_drawn_in_a_browser_without_an_error(browsed):
    path, dom, console = browsed
    assert 'data-drawn="4"' in dom
    assert len(re.findall(r'<g class="trace scatter', dom)) >= 2 * 4 + 6  # methods and seeds; runs
    assert len(re.findall(r'<g class="hm"', dom)) == 2
    assert "CONSOLE" not in console
    assert path.stat().st_size < 6_000_000


def test_hostile_names_run_nothing(browsed):
    _, dom, _ = browsed
    assert re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1].startswith("&lt;/script&gt;")
    assert "<img" not in re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)
    assert ">49<" not in dom
