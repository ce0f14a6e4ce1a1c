"""Presets are files: those of the package, those of the user, and what a wrong one gets."""

import contextlib
import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from agents.fields import settings_of
from scripts import train
from scripts.common.usage import InUse, UsageError
from scripts.runs.claim import claimed
from scripts.setup.build import run_path
from scripts.setup.config import TrainConfig
from scripts.setup.parse import parse_train
from scripts.setup.presets import FOLDER, PRESETS, find, to_toml
from scripts.sweeps.plan import make_jobs
from scripts.sweeps.request import SweepConfig
from scripts.sweeps.request import parse as parse_sweep
from tests.helpers import exit_code
from tests.run_folders import make_run

TOY = PRESETS["toy"].config


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


# ------------------------------------------------------------------------------------------------------ of the package
def test_every_file_of_the_package_is_a_preset_and_says_what_it_is():
    assert PRESETS.keys() == {path.stem for path in FOLDER.iterdir()}
    for name, preset in PRESETS.items():
        assert preset.name == preset.config.preset == name
        assert 20 < len(preset.summary) < 200
        assert "summary" in tomllib.loads((FOLDER / f"{name}.toml").read_text())


NUMBERS = {  # some of the numbers of the literature and of docs/recipe.md, by preset
    "mt10": {
        "batch_size": 128,
        "actor_width": 400,
        "max_grad_norm": 1.0,
        "steps_per_task": 2_000_000,
        "log_every": 500,
    },
    "mt10-quick": {"high_reward_fraction": 0.25, "return_scale": "brc", "noise_hold": 8, "adam_eps": 1e-5},
    "mt50-best": {"suite": "MT50", "critic_width": 512, "gradient_steps": 4, "workers": "auto", "n_steps": 3},
    "mt50-paper2020": {"reward_version": "v1", "horizon": 150, "actor_depth": 6, "critic_width": 300, "adam_eps": 1e-8},
    "push-goals": {"suite": "push-goals", "batch_size": 128, "goal_size": 6, "episode_batches": True, "n_steps": 3},
    "toy": {"horizon": 25, "gamma": 0.9, "log_every": 100, "max_grad_norm": 1.0, "adam_eps": 1e-5},
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_preset_has_the_numbers_of_its_source(name):
    values = PRESETS[name].config.to_json()
    assert {key: values[key] for key in NUMBERS[name]} == NUMBERS[name]


# ---------------------------------------------------------------------------------------------------- files of the user
def test_a_preset_by_its_path_is_called_after_its_file(tmp_path):
    path = write(tmp_path / "mine.toml", 'base = "toy"\nsummary = "mine"\ngamma = 0.5\n')
    config = parse_train([path, "--seed", "3"])
    assert config == replace(TOY, preset="mine", gamma=0.5, seed=3, aggregator_options={"reduction": "mean", "seed": 3})
    assert run_path(config).name == "mine-pcgrad-seed3"


def test_a_preset_may_begin_from_a_file_beside_it_and_from_nothing(tmp_path):
    write(tmp_path / "first.toml", 'base = "toy"\ngamma = 0.5\ntau = 0.5\n')
    path = write(tmp_path / "second.toml", 'base = "first.toml"\ntau = 0.25\n')
    assert find(path).config == replace(TOY, preset="second", gamma=0.5, tau=0.25)
    assert find(write(tmp_path / "empty.toml", "")).config == TrainConfig(preset="empty")


def test_what_a_file_says_is_what_flags_say(tmp_path):
    text = 'base = "toy"\ntasks = ["point-0"]\nreward_scale = [1, 0.5]\nent_coef = 0.1\nreset_at = [10, 20]\n'
    flags = "toy --tasks point-0 --reward-scale 1,0.5 --ent-coef 0.1 --reset-at 10,20".split()
    assert parse_train([write(tmp_path / "x.toml", text)]) == replace(parse_train(flags), preset="x")


def test_options_of_an_aggregator_stand_in_the_file(tmp_path):
    path = write(tmp_path / "x.toml", 'base = "toy"\naggregator = "cagrad"\naggregator_options = { c = 0.3 }\n')
    assert parse_train([path]).aggregator_options == {"reduction": "mean", "c": 0.3, "rescale": True}
    assert parse_train([path, "--aggregator.c", "0.7"]).aggregator_options["c"] == 0.7
    assert parse_train([path, "--aggregator", "mean"]).aggregator_options == {"reduction": "mean"}  # of another method
    path = write(tmp_path / "y.toml", 'base = "toy"\naggregator_options = { seed = 7 }\n')
    assert parse_train([path, "--seed", "3"]).aggregator_options["seed"] == 7


def test_diff_and_help_take_files_too(tmp_path, capsys):
    path = write(tmp_path / "mine.toml", 'base = "toy"\nsummary = "of my own"\ngamma = 0.5\n')
    assert parse_train(["toy", "--diff", path]) is None
    assert ["--gamma", "0.9", "0.5"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    with pytest.raises(SystemExit):
        parse_train([path, "--help"])
    assert "of my own" in capsys.readouterr().out


def test_a_sweep_over_a_preset_of_ones_own(tmp_path):
    path = write(tmp_path / "mine.toml", 'base = "toy"\n')
    jobs = make_jobs(SweepConfig((path,), arms=("mean",), seeds=(0, 1), out=tmp_path))
    assert [job.name for job in jobs] == ["mine-mean-seed0", "mine-mean-seed1"]
    assert jobs[0].argv[0] == path


# ----------------------------------------------------------------------------------------------------------- round trip
@pytest.mark.parametrize(
    "words", ["toy", "mt10-quick --gamma 0.5", "toy --aggregator cagrad --aggregator.c 0.3 --seed 4"]
)
def test_a_preset_that_is_printed_is_the_same_when_given_back(words, tmp_path, capsys):
    assert parse_train([*words.split(), "--print-preset"]) is None
    path = write(tmp_path / "mine.toml", capsys.readouterr().out)
    assert parse_train([path]) == replace(parse_train(words.split()), preset="mine")
    other = parse_train([path, "--seed", "9"])
    assert other == replace(parse_train([*words.split(), "--seed", "9"]), preset="mine")  # the method's draws, too


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_survives_its_own_file(preset, tmp_path):
    config = PRESETS[preset].config
    assert find(write(tmp_path / "x.toml", to_toml(config, "x"))).config == replace(config, preset="x")


def test_a_printed_file_explains_every_key(capsys):
    parse_train(["toy", "--print-preset"])
    lines = capsys.readouterr().out.splitlines()
    keys = [i for i, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    assert all(
        lines[i - 1].startswith("# ") for i in keys if not lines[i].startswith(("summary", "aggregator_options"))
    )
    assert max(map(len, lines)) <= 100


def test_a_run_is_repeated_from_its_config(tmp_path):
    run = make_run(tmp_path / "run", seed=1, gamma=0.5, run_dir="elsewhere", capture=False, threads=3)
    config = parse_train([str(run.path / "config.json"), "--seed", "2"])
    own = {"seed": 2, "run_dir": "", "aggregator_options": {"reduction": "mean"}}
    assert config == replace(run.config, **own)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(summary=text, task=text, number=st.floats(0, 1), whole=st.integers(1, 2**62))
def test_any_text_and_number_survives_a_file(summary, task, number, whole):
    config = replace(TOY, tasks=(task,), gamma=number, batch_size=whole, aggregator_options={task: number})
    found = tomllib.loads(to_toml(config, summary))
    assert (found["summary"], found["tasks"], found["gamma"], found["batch_size"]) == (summary, [task], number, whole)
    assert found["aggregator_options"] == {task: number}


# ---------------------------------------------------------------------------------------------------------- wrong files
BAD = {  # what is in the file bad.toml -> what is said, besides its name
    "gama = 0.5": "unknown key in bad.toml 'gama': did you mean gamma",
    "preset = 'x'": "unknown key in bad.toml 'preset'",
    "run_dir = 'x'": "unknown key in bad.toml 'run_dir'",
    "gamma = 'x'": "bad.toml: gamma: expected a number; found 'x'",
    "gamma = 1.5": "bad.toml: gamma: expected between 0 and 1; found 1.5",
    "gamma = nan": "bad.toml: gamma: expected between 0 and 1; found nan",
    "batch_size = 1.5": "bad.toml: batch_size: expected a whole number; found 1.5",
    "batch_size = true": "bad.toml: batch_size: expected a whole number; found True",
    "batch_size = 0": "bad.toml: batch_size: expected at least 1; found 0",
    "tasks = 'reach-v3'": "bad.toml: tasks: expected a list of texts",
    "tasks = ['a', 'a']": "bad.toml: tasks: expected every task once",
    "reset_at = [20, 10]": "bad.toml: reset_at: expected growing whole numbers",
    "critic_torso = 'resnet'": "bad.toml: critic_torso: expected one of mlp, bronet",
    "aggregator_options = 'c'": "bad.toml: aggregator_options: expected a table",
    "horizon = 501": "bad.toml: horizon: expected at most 500",
    "suite = 'MT11'": "bad.toml: expected a suite",
    "return_scale = 'popart'": "bad.toml: return_scale='popart' rescales each task's own output layer: it needs",
    "return_scale = 'brc'\nreward_scale = [0.5]": "bad.toml: return_scale='brc' undoes any reward_scale",
    "goals = 5": "bad.toml: eval_goals: expected at most --goals (5)",
    "algorithm = 'independent'\naggregator = 'pcgrad'": "bad.toml: aggregator: expected 'mean' with --algorithm",
    "aggregator = 'evil.py:Mine'": "bad.toml: expected settings that run no code; found 'evil.py:Mine'",
    "summary = 'a\\nb'": None,
    'summary = "a\\nb"': "bad.toml: summary: expected one line",
    "summary = 5": "bad.toml: summary: expected one line of text; found 5",
    "aggregator = 'pcgrat'": "with bad.toml: unknown aggregator 'pcgrat': did you mean pcgrad",
    "aggregator = ''": "with bad.toml: unknown aggregator '': choose one of",
    "aggregator_options = { reduction = 3 }": "options of preset bad: reduction must be one of mean, sum",
    "critic_aggregator_options = { c = 0.5 }": "bad.toml: critic_aggregator_options: expected none, as no critic_aggr",
    "actor_aggregator = 'db_mtl'": "with bad.toml: the actor's aggregator: expected one for losses of any sign",
    "suite = 'MT1'": "with bad.toml: --tasks: expected one task name for MT1",
    "loggers = ['csv', 'tb']": "with bad.toml: unknown logger 'tb': choose one of csv",
    "loggers = ['tensorboard']": "with bad.toml: --loggers: expected csv among them",
    "base = 'toy'\ntasks = ['a']": "with bad.toml: expected toy tasks point-0, point-1, ... in order, found a",
    "base = 'toy'\nreward_scale = [1.0, 2.0]": "with bad.toml: reward_scale takes one number or one per task (4)",
    "base = 'toy'\nloss_limit = 3.0": "with bad.toml: --loss-limit: expected 0, as no task can begin anew in Mlp",
    "base = 'toy'\nactor_torso = 'moe'\nconditioning = 'film'": "with bad.toml: conditioning='film' is an architecture",
    "base = 'mt11'": "bad.toml: base: unknown preset 'mt11': did you mean",
    "base = 'nowhere.toml'": "expected a preset at nowhere.toml; found nothing",
    "base = 5": "bad.toml: base: expected the name or the path of a preset; found 5",
    "base = 'bad.toml'": "bad.toml: base: expected another preset to begin from; found a circle",
    "gamma =": "expected a preset at bad.toml; found: Invalid value",
    "gamma = 0.5\ngamma = 0.5": "expected a preset at bad.toml; found: Cannot overwrite",
    "#" * 2**21: "expected a preset at bad.toml; found: more than 1,048,576 characters",
    "x = " + "[" * 100_000: "expected a preset at bad.toml; found:",
}


@pytest.mark.parametrize(("content", "message"), BAD.items(), ids=[content[:30] for content in BAD])
def test_a_wrong_file_is_told_in_one_line_and_nothing_is_written(content, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "bad.toml", content)
    if message is None:  # a text with a backslash in it
        assert find("bad.toml").summary == "a\\nb"
        return
    assert exit_code(monkeypatch, train.main, ["bad.toml"]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.startswith("error: ")
    assert len(printed.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bad.toml"]


def test_a_folder_in_use_is_not_the_fault_of_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "mine.toml", 'base = "toy"\n')
    with claimed(Path("runs/mine-pcgrad-seed0")), pytest.raises(InUse, match=r"^(?!with )"):
        train.main([path])


def test_an_aggregator_that_is_taken_back_takes_its_options_with_it(tmp_path):
    text = 'base = "toy"\ncritic_aggregator = "cagrad"\ncritic_aggregator_options = { c = 0.3 }\n'
    path = write(tmp_path / "x.toml", text)
    assert parse_train([path]).critic_aggregator_options["c"] == 0.3
    assert parse_train([path, "--critic-aggregator", ""]).critic_aggregator_options == {}
    assert parse_train([path, "--independent"]).critic_aggregator_options == {}


def test_an_ending_may_be_written_in_capitals(tmp_path):
    write(tmp_path / "first.TOML", 'base = "toy"\ngamma = 0.5\n')
    path = write(tmp_path / "second.Toml", 'base = "first.TOML"\n')
    assert find(path).config == replace(TOY, preset="second", gamma=0.5)
    assert find(write(tmp_path / "x.JSON", json.dumps({"gamma": 0.5}))).config.gamma == 0.5
    sweep = write(tmp_path / "sweep.TOML", 'presets = ["toy"]\n')
    assert parse_sweep([sweep], "").presets == ("toy",)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "mine.toml")
    with pytest.raises(UsageError, match=r"expected a preset at .*found a folder, a pipe or a device"):
        find(str(tmp_path / "mine.toml"))


def test_circles_over_several_files(tmp_path):
    write(tmp_path / "a.toml", 'base = "b.toml"')
    write(tmp_path / "b.toml", 'base = "a.toml"')
    with pytest.raises(UsageError, match="circle"):
        find(str(tmp_path / "a.toml"))


def test_a_link_to_itself_is_told(tmp_path):
    (tmp_path / "a.toml").symlink_to("a.toml")
    with pytest.raises(UsageError, match=r"expected a preset at .*a\.toml; found: "):
        find(str(tmp_path / "a.toml"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("c = 'x'", "c must be a number; found 'x'"),
        ("gama = 1", "has no option 'gama'; its options: reduction, c, rescale"),
        ("'' = 1", "has no option ''"),
    ],
)
def test_wrong_options_of_an_aggregator_are_told(options, message, tmp_path):
    path = write(tmp_path / "x.toml", f'base = "toy"\naggregator = "cagrad"\naggregator_options = {{ {options} }}\n')
    with pytest.raises(UsageError, match=message):
        parse_train([path])


@pytest.mark.parametrize("content", [b"\xff\xfe", b"gamma = 0.5\x00", b"\xef\xbb\xbfgamma = 0.5"])
def test_bytes_that_are_no_text(content, tmp_path):
    (tmp_path / "x.toml").write_bytes(content)
    if content.endswith(b".5"):  # a mark that editors on Windows begin with
        assert find(str(tmp_path / "x.toml")).config.gamma == 0.5
        return
    with pytest.raises(UsageError, match=r"x\.toml; found"):
        find(str(tmp_path / "x.toml"))


@pytest.mark.parametrize("word", ["nowhere.toml", "nowhere/config.json", "."])
def test_files_that_are_not_there(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"found nothing|unknown preset"):
        find(word)


def test_a_config_that_is_damaged_is_no_preset(tmp_path):
    path = tmp_path / "config.json"
    twice = '{"gamma": 0.5, "gamma": 0.9}'
    for damaged in ("[]", "{", twice, *map(json.dumps, ({"gama": 1}, {"gamma": "x"}, {"preset": 5}))):
        path.write_text(damaged)
        with pytest.raises(UsageError, match=r"config\.json"):
            find(str(path))


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(0, 3))


@limits(max_examples=100)
@given(name=st.sampled_from(sorted(settings_of(TrainConfig))), value=values)
def test_any_value_of_any_key_is_taken_or_told(name, value, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**TOY.to_json(), name: value}))
    with contextlib.suppress(UsageError):
        config = find(str(path)).config
        assert TrainConfig.from_json(config.to_json()) == config
