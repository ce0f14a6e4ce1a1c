"""A list of Gymnasium environments on the command line: trained, resumed, evaluated, filmed and compared."""

import importlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scripts import compare, evaluate, record, sweep, train
from scripts.common.usage import UsageError
from scripts.runs import Run, rendering
from scripts.runs.files import write_json
from scripts.runs.protocol import Protocol
from scripts.setup.parse import parse_train

SHORT = (
    "--horizon 9 --warmup-steps 20 --eval-every 20 --eval-goals 1 --final-goals 2 --checkpoint-every 20 --batch-size 8 "
    "--actor-width 8 --critic-width 8 --no-progress --log-every 10"
).split()


def start(path, suite, *flags, steps=40):
    words = ["toy", "--suite", f"tests.listed_tasks:{suite}", "--steps-per-task", str(steps), *SHORT]
    assert train.main([*words, "--run-dir", str(path), *flags]) == 0
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return start(tmp_path_factory.mktemp("runs") / "run", "kept")


def test_it_leaves_a_run_that_says_what_it_was(run):
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["protocol"]["tasks"] == ["left", "right"]
    assert "no value is beyond" in result["protocol"]["termination"]
    assert Run(run).verified().status == "finished"
    with pytest.raises(UsageError, match="expected --run-code"):
        Run(run).env()
    env = Run(run).env(workers=0, run_code=True)
    assert env.reset().shape == (2, 2 + 2)
    env.close()


def test_in_workers_and_resumed_it_is_the_same_run(run, tmp_path):
    half = start(tmp_path / "half", "kept", "--workers", "2", steps=20)
    with pytest.raises(UsageError, match=r"expected --run-code, as going on with .* tests\.listed_tasks:kept"):
        train.main(["--resume", str(half), "--steps-per-task", "40"])
    assert train.main(["--resume", str(half), "--steps-per-task", "40", "--run-code", "--no-progress"]) == 0
    whole = start(tmp_path / "whole", "kept", "--workers", "1", "--final-goals", "1")
    steps = [row["env_steps_per_task"] for row in Run(whole).metrics.read()]
    assert [row["env_steps_per_task"] for row in Run(half).metrics.read()] == steps
    for table in ("metrics", "conflicts"):
        one, two, three = (getattr(Run(path), table).read() for path in (run, half, whole))
        assert timeless(one) == timeless(two) == timeless(three)


def timeless(rows):
    return [{name: cell for name, cell in row.items() if not name.startswith("time/")} for row in rows]


def test_it_is_evaluated_where_its_code_may_run(run, tmp_path, capsys):
    with pytest.raises(UsageError, match=r"expected --run-code, as evaluating this run runs code"):
        evaluate.main([str(run)])
    out = tmp_path / "a.json"
    assert evaluate.main([str(run), "--run-code", "--episodes", "2", "--workers", "0", "--json", str(out)]) == 0
    result = json.loads((run / "result.json").read_text())
    assert json.loads(out.read_text())["tasks"] == result["evaluation"]["tasks"], "the same episodes"


OWN = """
from functools import partial
from gymnasium.spaces import Box
from tests.listed_tasks import Kept
class Own(Kept):
    def __init__(self, mark):
        super().__init__(mark)
        self.action_space = Box({actions})
    observation_space = Box(-9.0, 9.0, ({width},), "f8")
    def _observation(self):
        return self.observation_space.sample()
def tasks():
    return {{"left": partial(Own, -0.5), "right": partial(Own, 0.5)}}
"""


@pytest.mark.parametrize("changed", [{"actions": "-4.0, 4.0, (1,)"}, {"width": 3}])
def test_environments_that_have_changed_are_refused_by_all_that_plays_them(changed, run, tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.evaluate.evaluate", lambda *_: pytest.fail("played"))
    path, file = shutil.copytree(run, tmp_path / "run"), tmp_path / "own.py"
    before = {"actions": "-2.0, 2.0, (1,)", "width": 2}
    file.write_text(OWN.format(**before | changed))
    for name in ("config.json", "protocol.json"):
        (path / name).write_text((path / name).read_text().replace("tests.listed_tasks:kept", f"{file}:tasks"))
    protocol = Protocol.from_json(
        {k: v for k, v in json.loads((path / "protocol.json").read_text()).items() if k != "id"}
    )
    write_json(path / "protocol.json", {"id": protocol.id, **protocol.to_json()})
    message = r"expected the environments that this run was trained in, with observations of 2 numbers, .*; found obs"
    with pytest.raises(UsageError, match=message):
        evaluate.main([str(path), "--run-code", "--workers", "0"])
    film = pytest.importorskip("scripts.runs.film", reason="needs imageio")
    with pytest.raises(UsageError, match=message):
        film.Scene(Run(path), None, "left", 0, 16)


def test_other_software_is_told_and_saved(run, tmp_path, capsys):
    path = shutil.copytree(run, tmp_path / "run")
    protocol = replace(Run(run).protocol, gymnasium="0.9")
    write_json(path / "protocol.json", {"id": protocol.id, **protocol.to_json()})
    out = tmp_path / "a.json"
    assert evaluate.main([str(path), "--run-code", "--episodes", "2", "--workers", "0", "--json", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search("Other software than the run was trained with, .* gymnasium 0.9 -> .*gymnasium", printed)
    told = json.loads(out.read_text())["protocol"]
    assert told["gymnasium"] == Run(run).protocol.gymnasium
    assert told["id"] == replace(Run(run).protocol, episodes_final=2).id


def test_it_is_compared_without_its_code(run, capsys):
    assert compare.main([str(run)]) == 0
    printed = capsys.readouterr().out
    assert "tests.listed_tasks:kept" in printed
    assert "Horizon 9" in printed
    assert "gymnasium" in printed


def test_its_code_is_not_run_unasked_to_film_it(run):
    with pytest.raises(UsageError, match="expected --run-code, as filming"):
        record.main([str(run)])


def test_each_task_by_itself(tmp_path):
    run = start(tmp_path / "run", "made_later", "--independent", steps=20)
    assert Run(run).verified().status == "finished"
    with pytest.raises(UsageError, match="expected --run-code"):
        train.main(["--resume", str(run)])


def test_a_path_is_kept_in_full_and_the_folder_of_the_run_is_named_after_the_function(monkeypatch, tmp_path):
    from scripts.setup.build import run_path

    monkeypatch.chdir(tmp_path)
    config = parse_train(["toy", "--suite", "sub/mine.py:tasks"])
    assert config.suite == f"{tmp_path}/sub/mine.py:tasks"
    assert str(run_path(config)) == "runs/toy-mine-py-tasks-pcgrad-seed0"


@pytest.mark.parametrize("suite", ["silent", "unequal", "twice", "raises", "nosuch"])
def test_what_does_not_fit_is_told_and_leaves_nothing(suite, tmp_path):
    with pytest.raises(UsageError, match=f"tests.listed_tasks:{suite}"):
        train.main(["toy", "--suite", f"tests.listed_tasks:{suite}", "--run-dir", str(tmp_path / "run")])
    assert not list((tmp_path / "run").glob("*.*"))


@pytest.mark.parametrize("flags", ["--suite mine:tasks", "--suite=mine:tasks"])
def test_a_file_of_a_sweep_runs_no_suite_unasked(flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(f'presets = ["toy"]\nflags = "{flags}"')
    with pytest.raises(UsageError, match="expected --run-code"):
        sweep.main(["s.toml", "--dry-run"])
    assert sweep.main(["s.toml", "--dry-run", "--run-code"]) == 0


def test_the_page_about_it_keeps_its_word_and_films_by_its_own_render(tmp_path, monkeypatch, capfd):
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    code, commands = re.search(r"```python\n(# my_tasks.py\n.*?)```.*?```bash\n(.*?)```", page, re.DOTALL).groups()
    lines = commands.splitlines()
    shorter = {
        "train": "--steps-per-task 40 --eval-goals 1 --final-goals 1 --no-progress".split(),
        "record": "--size 32 --tasks right --goal 1".split(),
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rendering, "PROBE", "raise SystemExit(1)")  # nothing for MuJoCo: it need not be loaded
    (tmp_path / "my_tasks.py").write_text(code)
    for line in lines:
        python, _, name, *words = line.split()
        assert python == "python"
        more = shorter.get(name.removeprefix("scripts."), [])
        assert importlib.import_module(name).main([*words, *more]) == 0
    frames = np.array(list(imageio.get_reader(tmp_path / "runs" / "walks" / "video.mp4").iter_data()))
    assert frames.shape[1:] == (32, 32, 3)
    assert len(frames) > 40, "a second of the end, and what comes before it"
    assert frames[0].std() > 10, "the walker is to be seen"
