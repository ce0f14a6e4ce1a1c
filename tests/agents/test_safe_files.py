"""Files of strangers: nothing in them is run, nothing is written where they say, and damage is a clear error."""

import contextlib
import io
import json
import os
import pickle
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import MTSAC, StateFileError, latest_checkpoint, load_checkpoint, save_checkpoint
from agents.algorithms import ALGORITHMS
from agents.saving.state_file import JSON, TENSORS, read_state
from scripts import compare, evaluate, plot, train
from scripts.common.usage import UsageError
from scripts.runs import Run
from scripts.runs.protocol import Protocol
from scripts.runs.resuming import rewind
from scripts.setup.config import TrainConfig
from tests.helpers import Bomb, toy_agent
from tests.run_folders import make_run

SMALL = (
    "--steps-per-task 30 --warmup-steps 10 --eval-every 15 --checkpoint-every 15 --final-goals 1 --eval-goals 1".split()
)
SMALL += "--actor-width 8 --critic-width 8 --batch-size 4 --horizon 10 --no-progress".split()
SMALL += "--log-every 10 --log-conflicts 5".split()


@pytest.fixture(scope="module")
def agent():
    agent = toy_agent(policy_kwargs={"actor_width": 4, "actor_depth": 1, "critic_width": 4, "critic_depth": 1})
    agent.learn(2 * 25)
    return agent


@pytest.fixture(scope="module")
def saved(agent, tmp_path_factory):
    """The bytes of an agent's file, and a path to write worse ones to."""
    path = tmp_path_factory.mktemp("agent") / "agent.zip"
    agent.save(path)
    return path.read_bytes(), path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    assert train.main(["toy", *SMALL, "--run-dir", str(path)]) == 0
    return path


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def refused(path):
    """Give a file to everything that reads one of its kind."""
    agent = toy_agent()
    readers = (MTSAC.load, agent.load_replay_buffer, lambda path: read_state(path, "loop"))
    for reader in readers:
        with pytest.raises(StateFileError):
            reader(path)


# -------------------------------------------------------------------------------------------------------- no code
def as_pickle(bomb, path):
    path.write_bytes(bomb)


def as_torch(bomb, path):
    with zipfile.ZipFile(path, "w") as archive:  # torch.save's layout
        archive.writestr("archive/data.pkl", bomb)


def as_sb3(bomb, path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data", "pytorch_variables.pth", "policy.pth"):
            archive.writestr(name, bomb)


def as_our_members(bomb, path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in (JSON, TENSORS):
            archive.writestr(name, bomb)


@pytest.mark.parametrize("form", [as_pickle, as_torch, as_sb3, as_our_members])
def test_no_code_in_a_checkpoint_or_buffer_is_run(form, tmp_path):
    mark = tmp_path / "mark"
    form(pickle.dumps(Bomb(mark)), tmp_path / "file.zip")
    refused(tmp_path / "file.zip")
    assert not mark.exists()


def test_no_code_in_goals_is_run(run, tmp_path):
    mark = tmp_path / "mark"
    np.savez(run / "goals.npz", **{"point-0": np.array([Bomb(mark)], dtype=object)})
    (tmp_path / "plain.npy").write_bytes(pickle.dumps(Bomb(mark)))
    for path in (run / "goals.npz", tmp_path / "plain.npy"):
        (run / "goals.npz").write_bytes(path.read_bytes())
        with pytest.raises(UsageError, match="damaged"):
            Run(run).verified()
    assert not mark.exists()


def test_no_code_that_a_run_names_is_run_unasked(run, tmp_path):
    mark = tmp_path / "mark"
    (run / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nfrom mtrl import Mean\nclass Evil(Mean): pass\n")
    config = json.loads((run / "config.json").read_text())
    evil = {"aggregator": f"{run}/evil.py:Evil", "aggregator_options": {}}
    (run / "config.json").write_text(json.dumps(config | evil))
    assert evaluate.main([str(run), "--episodes", "1"]) == 0
    assert plot.main([str(run), "--out", str(tmp_path / "x.png")]) == 0
    with pytest.raises(UsageError, match=r"expected --run-code.*evil\.py"):
        train.main(["--resume", str(run), "--steps-per-task", "40"])
    assert not mark.exists()
    for name in sorted((run / "checkpoints").iterdir())[1:]:  # in the checkpoint, too, and not in the config
        saved = {"aggregator": evil["aggregator"], "aggregator_kwargs": {}}
        rewrite(name / "agent.zip", lambda body, saved=saved: body["state"]["settings"].update(saved))
        (name / "SHA256SUMS").unlink()
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"runs that file"):
        train.main(["--resume", str(run), "--steps-per-task", "40"])
    assert not mark.exists()
    (run / "config.json").write_text(json.dumps(config | evil))
    with contextlib.suppress(UsageError):
        train.main(["--resume", str(run), "--steps-per-task", "40", "--run-code", "--no-progress"])
    assert mark.exists()  # the bomb works


# --------------------------------------------------------------------------------------------- no path leads away
def rewrite(path, change):
    """Change the JSON of a file of ours; its checksums are right again."""
    with zipfile.ZipFile(path) as archive:
        body, tensors = json.loads(archive.read(JSON)), archive.read(TENSORS)
    change(body)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(JSON, json.dumps(body))
        archive.writestr(TENSORS, tensors)


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "..\\escaped", "a/../../escaped", JSON])
def test_a_path_in_a_zip_leads_nowhere(name, saved, tmp_path):
    path = tmp_path / "in" / "agent.zip"
    path.parent.mkdir()
    path.write_bytes(saved[0])
    with pytest.warns() if name == JSON else pytest.MonkeyPatch.context(), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "x")  # a second state.json as well
    with pytest.raises(StateFileError, match="not one of ours"):
        MTSAC.load(path)
    assert [file.name for file in tmp_path.rglob("*")] == ["in", "agent.zip"]


def test_a_small_file_does_not_unpack_to_a_huge_one(run, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(JSON, b" " * 10**8)
        archive.writestr(TENSORS, b" ")
    with pytest.raises(StateFileError, match="compressed"):
        MTSAC.load(tmp_path / "bomb.zip")
    np.savez_compressed(run / "goals.npz", **{"point-0": np.zeros(10**7)})
    with pytest.raises(UsageError, match="it unpacks to more than"):
        Run(run).verified()


@pytest.mark.parametrize("name", ["metrics.csv", "config.json.partial", "checkpoints/step_000000030/agent.zip"])
def test_a_link_in_a_run_is_refused(name, run, tmp_path):
    (tmp_path / "thesis.txt").write_text("do not touch")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(tmp_path / "thesis.txt")
    for command in (lambda: train.main(["--resume", str(run)]), lambda: evaluate.main([str(run)])):
        with pytest.raises(UsageError, match="found the link"):
            command()
    assert (tmp_path / "thesis.txt").read_text() == "do not touch"


def test_what_is_neither_file_nor_folder_is_refused_before_it_is_read(run):
    (run / "goals.npz").unlink()
    os.mkfifo(run / "goals.npz")  # reading it would wait for ever
    with pytest.raises(UsageError, match="found the device"):
        Run(run).verified()


BUILDS_A_PATH = ["/tmp/thesis", "../../other", "..", ".hidden", "a/b", "a\\b", "", "a\0b"]
SAYS_MORE_THAN_A_NAME = ["=HYPERLINK(1)", "<script>", "a|b", "a\x1b[31m", "$\\frac{$", "x" * 101, 5]


@pytest.mark.parametrize("name", BUILDS_A_PATH + SAYS_MORE_THAN_A_NAME)
def test_a_task_has_a_plain_name_or_nothing_is_read_or_written(name, tmp_path):
    run = make_run(tmp_path / "run", algorithm="independent", **ALGORITHMS["independent"].fixed(TrainConfig))
    values = json.loads((run.path / "protocol.json").read_text()) | {"tasks": [name, "push-v3"]}
    del values["id"]
    id_ = Protocol(**values | {"tasks": tuple(values["tasks"])}).id
    (run.path / "protocol.json").write_text(json.dumps({"id": id_, **values}))
    (run.path / "result.json").unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"protocol\.json is damaged"):
        train.main(["--resume", str(run.path)])
    assert sorted(tmp_path.rglob("*")) == before


def test_tasks_of_another_suite_are_refused_before_a_file_is_written(tmp_path):
    run = make_run(tmp_path / "run", algorithm="independent", **ALGORITHMS["independent"].fixed(TrainConfig))
    (run.path / "result.json").unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"expected goals|expected the tasks"):
        train.main(["--resume", str(run.path)])
    assert sorted(tmp_path.rglob("*")) == before


HUGE = ("metrics.csv", "evaluations.csv", "conflicts.csv", "config.json", "protocol.json", "versions.json", "goals.npz")


@pytest.mark.parametrize("name", [*HUGE, "result.json", "checkpoints/step_000000030/SHA256SUMS"])
def test_a_file_that_claims_gigabytes_and_takes_none_is_refused_by_its_size(name, run):
    assert (run / name).exists()
    os.truncate(run / name, 3 * 2**30)
    tracemalloc.start()
    with pytest.raises(UsageError, match="damaged") if "SUMS" not in name else pytest.warns(match="damaged"):
        opened = Run(run).verified()
        opened.other_software()
        _ = opened.status
        opened.newest_checkpoint()
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()


def test_a_table_of_holes_is_refused_whatever_its_size(run):
    os.truncate(run / "metrics.csv", 2**27)
    with pytest.raises(UsageError, match="a line of more than"):
        rewind(Run(run).verified(), 10)


def test_text_of_a_file_moves_no_cursor_and_begins_no_line(run, capsys):
    values = json.loads((run / "versions.json").read_text())
    (run / "versions.json").write_text(json.dumps(values | {"torch": "[/]\x1b[2J\ntouch x\x9b"}))
    assert train.main(["--resume", str(run), "--steps-per-task", "31", "--no-progress"]) == 0
    printed = capsys.readouterr().out
    assert r"torch [/]\x1b[2J\ntouch x\x9b -> " in printed
    assert "\x1b" not in printed
    assert not any(line.startswith("touch") for line in printed.splitlines())


def test_what_compare_writes_is_no_formula_and_no_page(tmp_path, capsys):
    make_run(tmp_path / "a", aggregator="/x/=cmd|<script>[a](b).py:N")
    out = tmp_path / "table.md"
    assert compare.main([str(tmp_path / "a"), "--out", str(out)]) == 0
    assert "'=cmd" in out.with_suffix(".csv").read_text()
    assert "<script>" not in out.read_text()
    assert r"| =cmd\|&lt;script>\[a\](b).py:N |" in out.read_text()


def test_a_file_does_not_choose_settings_that_write(saved):
    body, path = saved
    path.write_bytes(body)
    rewrite(path, lambda body: body["state"]["settings"].update(tensorboard_log="/tmp/escaped"))
    with pytest.raises(StateFileError, match="settings that no agent has: tensorboard_log"):
        MTSAC.load(path)


# ---------------------------------------------------------------------------------------------------------- fuzzing
def opens_or_tells(path):
    with contextlib.suppress(StateFileError):  # and nothing else
        MTSAC.load(path, device="cpu")


@given(data=st.data())
def test_damaged_bytes_are_told(data, saved):
    body, path = saved
    worse = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(worse) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "drop"]))
        if kind == "set":
            worse[place] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            worse = worse[: place + 1]
        elif kind == "insert":
            worse[place:place] = data.draw(st.binary(max_size=9))
        else:
            del worse[place : place + data.draw(st.integers(0, 9))]
        worse = worse or bytearray(b"x")
    path.write_bytes(worse)
    opens_or_tells(path)


numbers = st.integers(-3, 9) | st.floats(width=16) | st.sampled_from([2**63, 10**400, -(2**70)])
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=4) | st.sampled_from([{"$tensor": "0"}, {"$array": "nope"}]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["$tuple", "$items", "a"]), inner),
    max_leaves=3,
)


def replace_somewhere(data, value):
    """Replace one value of nested JSON by another, anywhere; a number in settings stays small enough to build."""
    if isinstance(value, dict | list) and value and data.draw(st.integers(0, 9)):
        key = data.draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        value[key] = replace_somewhere(data, value[key])
        return value
    return data.draw(values)


@given(data=st.data())
def test_whole_files_with_foreign_contents_are_told(data, saved):
    body, path = saved
    path.write_bytes(body)
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        contents = json.loads(archive.read(JSON))
    worse = replace_somewhere(data, contents)
    rewrite(path, lambda body: (body.clear(), body.update(worse if isinstance(worse, dict) else {"state": worse})))
    opens_or_tells(path)


def test_damaged_checkpoints_of_any_kind_are_told(agent, tmp_path):
    save_checkpoint(tmp_path, agent, agent.env)
    path = latest_checkpoint(tmp_path)
    (path / "SHA256SUMS").unlink()
    for name, change in (
        ("loop.zip", lambda body: body["state"]["env"]["tasks"][0].pop("observation")),
        ("loop.zip", lambda body: body["state"].update(generators={})),
        ("buffer.zip", lambda body: body["state"].update(pos="x")),
        ("buffer.zip", lambda body: body["state"].pop("rows")),
    ):
        whole = (path / name).read_bytes()
        rewrite(path / name, change)
        with pytest.raises(StateFileError, match=name):
            load_checkpoint(path, agent.env, device="cpu")
        (path / name).write_bytes(whole)
