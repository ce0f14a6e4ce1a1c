"""Multi-task TD3 from the command line: trained, resumed, evaluated and shared like any other run."""

import pytest

from agents import MTTD3
from scripts import doctor, evaluate, share, train
from scripts.analysis.methods import find_runs, group
from scripts.common.usage import UsageError
from scripts.runs import Run
from scripts.runs.files import read_json
from scripts.setup.parse import parse_train
from tests.runs import TINY, rows

FLAGS = [*TINY, "--algorithm", "td3", "--policy-delay", "2", "--critic-head", "c51", "--return-scale", "brc"]
FLAGS += ["--log-conflicts", "4", "--no-progress"]


def start(path, steps, *flags):
    assert train.main([*FLAGS, "--steps-per-task", str(steps), "--run-dir", str(path), *flags]) == 0


def test_a_run_is_one_like_any_other(tmp_path, capsys):
    whole, path = tmp_path / "whole", tmp_path / "run"
    start(whole, 60, "--workers", "2")
    start(path, 40)
    assert train.main(["--resume", str(path), "--steps-per-task", "60", "--no-progress"]) == 0
    assert rows(path / "metrics.csv") == rows(whole / "metrics.csv")
    assert rows(path / "conflicts.csv") == rows(whole / "conflicts.csv")
    assert not [name for name in rows(path / "metrics.csv")[0] if name.startswith("train/ent")]  # no temperature
    run = Run(path).verified()
    assert type(run.agent()) is MTTD3
    assert group(find_runs([path]))[0].label == "td3-pcgrad"
    assert share.main([str(path), "--to", str(tmp_path / "shared")]) == 0
    assert "The actor of a multi-task TD3 agent" in (tmp_path / "shared" / "README.md").read_text()
    tables = []
    for folder in (path, tmp_path / "shared"):
        assert evaluate.main([str(folder), "--episodes", "2", "--json", str(tmp_path / "table.json")]) == 0
        tables.append(read_json(tmp_path / "table.json")["tasks"])
    assert tables[0] == tables[1]


def test_a_change_of_algorithm_takes_what_is_its_own_along():
    """What a preset says of SAC's entropy means nothing to TD3, and what it says of TD3 nothing to SAC."""
    there = parse_train(["mt10-quick", "--algorithm", "td3"])
    assert (there.ent_coef, there.target_entropy, there.gamma) == ("0.0", 0.0, 0.97)
    back = parse_train(["mt10-td3", "--algorithm", "mtsac"])
    assert (back.ent_coef, back.target_entropy, back.exploration_noise, back.n_critics) == ("auto", "auto", 0.1, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--algorithm td3 --ent-coef 0.2", "--ent-coef: expected 0.0 with --algorithm td3, as the policy of TD3"),
        ("--algorithm td3 --log-std-max 1", "--log-std-max: expected 2.0 with --algorithm td3"),
        ("--algorithm independent --target-noise 0.1", "--target-noise: expected 0.2 with --algorithm independent"),
        ("--exploration-noise 0.3", "--exploration-noise: expected 0.1 with --algorithm mtsac, as SAC draws"),
        ("--algorithm td3 --target-noise -1", "--target-noise: expected 0 or more"),
    ],
)
def test_what_means_nothing_is_refused(words, message):
    with pytest.raises(UsageError, match=message):
        parse_train(["toy", *words.split()])


def test_a_file_may_leave_out_what_means_nothing(tmp_path):
    (tmp_path / "mine.toml").write_text('algorithm = "td3"\ngamma = 0.9')
    config = parse_train([str(tmp_path / "mine.toml")])
    assert (config.ent_coef, config.gamma) == ("0.0", 0.9)


def test_the_doctor_trains_it(tmp_path):
    text = 'base = "toy"\nalgorithm = "td3"\nactor_width = 8\ncritic_width = 8'
    (tmp_path / "mine.toml").write_text(text)
    assert doctor.main([str(tmp_path / "mine.toml"), "--steps", "50", "--run-dir", str(tmp_path)]) == 0
