"""Settings are written once: each field reaches the agent, the environment or the run, and nothing keeps a list."""

import ast
import dataclasses
import inspect
import re
from collections import defaultdict
from dataclasses import dataclass, fields, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest

import envs.toy
from agents import MTSAC, MTTD3, IndependentSAC
from agents.fields import (
    Bound,
    Count,
    Role,
    SettingError,
    build,
    check_fields,
    fixed_by,
    help_of,
    names_of,
    settings_of,
    spell,
    taken_by,
)
from agents.schedules import learning_schedule
from agents.settings import AgentSettings, NetworkSettings, SACSettings, half_rate
from scripts.analysis.methods import group, settings
from scripts.setup.build import RESUMABLE, agent_settings, require_settings
from scripts.setup.config import TrainConfig
from scripts.setup.presets import PRESETS
from tests.run_folders import make_run

ROOT = Path(__file__).parents[2]
CONFIG = PRESETS["toy"].config


# --------------------------------------------------------------------------------------------------------- completeness
@pytest.mark.parametrize("kind", [AgentSettings, NetworkSettings, TrainConfig])
def test_every_field_has_help_and_a_default_within_its_bounds(kind):
    known, helps = settings_of(kind), help_of(kind)
    shown = {name for name in known if not name.endswith("_options")} - {"preset", "trial"}  # no flags
    assert shown <= helps.keys()
    check_fields(kind, {name: setting.default for name, setting in known.items()})
    assert all(setting.role.kind for setting in known.values())


def other_value(setting):
    """A value of the setting that is not `CONFIG`'s, and within its bounds."""
    value = getattr(CONFIG, setting.name)
    words = [spell(setting.type), *(bound.expected for bound in setting.bounds)]  # "one of mlp, bronet, ..."
    names = [name for text in words for name in text.removeprefix("one of ").split(", ")]
    tries = [*names, not value, 2, 3, 0.5, 0.25, (2.0,), (5,)]
    for other in tries:
        with_it = {setting.name: other}
        try:
            check_fields(TrainConfig, with_it)
        except SettingError:
            continue
        if (other != value and type(other) is not bool) or isinstance(value, bool):
            return other
    raise AssertionError(f"no other value of {setting.name}")


@pytest.mark.parametrize("name", settings_of(SACSettings) | settings_of(NetworkSettings))
def test_every_setting_of_the_agent_reaches_it_from_the_command_line(name):
    """A flag that is read, saved and then forgotten on the way to the agent is the worst kind of list."""
    changed = replace(CONFIG, **{name: other_value(settings_of(TrainConfig)[name])})
    before, after = (agent_settings(config, 4) for config in (CONFIG, changed))
    found, was = ({**s, **s["policy_kwargs"]} for s in (after, before))
    assert {key for key in found if found[key] != was[key]} - {"policy_kwargs"} == {name}


@pytest.mark.parametrize("name", ["warmup_steps", "adam_eps", "seed", "aggregator", "critic_aggregator"])
def test_what_the_command_line_calls_otherwise_reaches_the_agent_too(name):
    changed = replace(CONFIG, **{name: {"adam_eps": 0.5}.get(name, "mean" if "aggregator" in name else 7)})
    assert agent_settings(changed, 4) != agent_settings(CONFIG, 4)


def test_every_other_setting_is_read_by_the_environment_or_the_run():
    """What is not the agent's is read somewhere by name: a setting that nobody reads is one that does nothing."""
    read = {
        node.attr
        for tree in sources().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    read |= settings_of(SACSettings).keys() | settings_of(NetworkSettings).keys()
    assert settings_of(TrainConfig).keys() - {f"{n}_aggregator_options" for n in ("actor", "critic")} <= read | {
        f"{n}_aggregator"
        for n in ("actor", "critic")  # by getattr, with the network's name
    }


def test_an_agents_file_holds_every_setting():
    saved = AgentSettings().to_json()
    assert saved.keys() == {f.name for f in fields(AgentSettings)}
    assert AgentSettings.of(saved) == AgentSettings()


# ------------------------------------------------------------------------------------------------------------ one place
@cache
def sources():
    """Our code, without tests: its syntax by path."""
    rooms = ("mtrl", "agents", "envs", "scripts")
    return {path: ast.parse(path.read_text()) for room in rooms for path in sorted((ROOT / room).rglob("*.py"))}


def words_of(tree):
    """Every name of a file: variables, attributes, parameters, and texts that are lists of names. Not keywords: a study
    or a benchmark that chooses a value is like a preset."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.Constant(value=str(text)) if all(word.isidentifier() for word in text.split()):
                yield from text.split()


NAMES = settings_of(AgentSettings) | settings_of(NetworkSettings)
MORE = {  # settings whose names stand in more files than their field and their use, and why
    # several parts work with it, each by itself and without an agent
    "gamma": "the buffer discounts the rewards of n steps, the update its target, a scale of returns what it has seen",
    "v_max": "a histogram ends there, and a scale of returns brings the returns to it",
    "reward_scale": "one or one per task: the assembly makes a factor per task of it, which is what an update takes",
    "target_entropy": "the agent settles auto; temperatures and a scale of returns take the number, a file keeps it",
    "return_scale": "the assembly builds it, the agent feeds it, files refuse another; old configs are told its name",
    "conditioning": "a name or a class: a form looks it up, some torsos refuse it, a file holds no class",
    "actor_torso": "a name or a class: a form looks it up, a message of the policy names it, a file holds no class",
    "critic_torso": "as actor_torso, and the benchmark of architectures gives both networks the same one",
    "experts": "each architecture with experts takes their number",
    "embedding_size": "each conditioning with an embedding takes its size",
    "task_embeddings": "a file that an agent reads; a policy by itself refuses it",
    "reset_at": "rounds of updates count them, and a file says which are past",
    "episode_batches": "the buffer draws them, and methods that want two independent batches refuse them",
    "loss_limit": "each algorithm's update looks at it, and the assembly refuses it beside other torsos",
    "multi_head": "a form of networks, by which methods are labelled, compared and looked over, too",
    "high_reward_fraction": "the buffer's, and plain SAC's has none",
    "learning_rate": "a number or a schedule, and studies that train without an agent have one",
    "precision": "products have it on the device, which a command line settles and a benchmark compares",
    # it sizes things, or says when they happen: for memory, time and logs, too
    "batch_size": "rows that updates draw, that a benchmark measures, and that other studies have as well",
    "buffer_size": "the buffer's, and the memory that a run, a checkpoint and a machine need for it",
    "train_freq": "the loop takes it from Stable-Baselines3, the command line counts it per task, a forecast too",
    "gradient_steps": "the agent takes it from Stable-Baselines3, the command line counts it per task, a forecast too",
    "learning_starts": "the loops take it from Stable-Baselines3, the command line counts it per task",
    "overlap": "the loop's, part of the protocol, and of how long a step takes",
    "log_every": "the loop's; a trial is shorter than its preset's",
    # it is a word of others, too
    "n_steps": "Stable-Baselines3's SAC has one of its own, which stays 1",
    "ent_coef": "Stable-Baselines3's, whose text of a flag, value of a file and column of a table have its name",
    "seed": "whatever draws has one",
    "weight_decay": "torch's kernel of Adam, which is compiled as operations, has an argument of this name",
}


def test_the_name_of_a_setting_stands_in_two_files():
    """The field, with what it does not go together with, and its use; every other is named with its reason."""
    files = defaultdict(set)
    for path, tree in sources().items():
        name = path.relative_to(ROOT).as_posix().replace("agents/together.py", "agents/settings.py")
        for word in words_of(tree):
            files[word].add(name)
    unused = {n for n in NAMES if not (files[n] | files[re.sub("^(actor|critic)_", "", n)]) - {"agents/settings.py"}}
    assert not unused, "declared, offered, saved, and read by nobody"
    found = {name: sorted(files[name]) for name in NAMES if len(files[name]) > 2}
    assert found.keys() <= MORE.keys(), found
    assert files["policy_delay"] == {"agents/settings.py", "agents/learning/rounds.py"}


LISTS = {  # four names or more, side by side, and why
    "scripts/analysis/methods.py": "settings that the label of a method spells each in its own way",
    "scripts/setup/build.py": "settings that the command line counts otherwise than MTSAC",
}


def test_no_list_of_settings_is_kept_by_hand():
    """In no tuple, list, set, dictionary or text: whoever needs some of them asks the fields."""
    names, found = settings_of(TrainConfig) | NAMES, set()
    for path, tree in sources().items():
        for node in ast.walk(tree):
            match node:
                case ast.Dict(keys=items) | ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
                    words = [item.value for item in items if isinstance(item, ast.Constant)]
                case ast.Constant(value=str(text)) if all(word.isidentifier() for word in text.split()):
                    words = text.split()
                case _:
                    continue
            if len(set(words) & names.keys()) > 3:
                found.add(path.relative_to(ROOT).as_posix())
    assert found == LISTS.keys()


# --------------------------------------------------------------------------------------------------------------- roles
MACHINES = [{"device": "cuda", "capture": True, "compile": True, "threads": 8, "workers": 4}, {"device": "cpu"}]


def test_a_method_on_a_gpu_and_on_a_cpu_is_one_method(tmp_path):
    """With graphs and compilation, or without: that is the machine's. Another precision computes other numbers."""
    runs = [make_run(tmp_path / f"run{seed}", seed=seed, **machine) for seed, machine in enumerate(MACHINES)]
    (method,) = group(runs)
    assert method.seeds == [0, 1]
    found = group([*runs, make_run(tmp_path / "other", seed=0, precision="bfloat16")])
    assert sorted(method.label.partition(", ")[2] for method in found) == ["precision=bfloat16", "precision=float32"]


def test_a_method_is_what_is_left_without_protocol_machine_and_looks():
    named = settings(CONFIG).keys()
    assert {"batch_size", "aggregator", "critic_torso", "preset"} <= named
    assert not named & names_of(TrainConfig, "protocol", "machine", "monitoring")


def test_plain_sac_has_no_setting_of_surgery():
    fixed = fixed_by(TrainConfig, "plain_sac")
    assert fixed["aggregator"] == "mean"
    assert fixed["overlap"] is False
    assert not {"batch_size", "gamma", "actor_width"} & fixed.keys()
    check_fields(TrainConfig, {name: value for name, value in fixed.items() if name != "capture"})


def test_a_run_may_go_on_with_another_rate_but_not_with_another_discount():
    saved = {**agent_settings(CONFIG, 4), "task_names": ["a"] * 4}
    allowed = {"learning_rate", "steps_per_task", "device", "capture", "workers", "max_grad_norm", "loggers"}
    assert allowed | {"eval_envs_per_task"} == RESUMABLE
    require_settings(replace(CONFIG, learning_rate=1.0), saved, Path("agent.zip"))
    with pytest.raises(Exception, match=r"gamma 0.5 there, 0.9 trained"):
        require_settings(replace(CONFIG, gamma=0.5), saved, Path("agent.zip"))


# -------------------------------------------------------------------------------------------------------------- fields
@dataclass(frozen=True)
class Toy:
    role = "machine"

    count: Count = 1
    """So many."""
    share: Annotated[float, Bound("less than 1", lambda value: value < 1), Role("method", plain_sac=0.0)] = 0.5
    """A part
    of it."""
    steps: tuple[int, ...] = ()
    """Steps."""


def test_a_field_says_type_bounds_role_and_help():
    known = settings_of(Toy)
    assert [setting.role.kind for setting in known.values()] == ["machine", "method", "machine"]
    assert known["share"].role.plain_sac == 0.0
    assert help_of(Toy) == {"count": "So many.", "share": "A part of it.", "steps": "Steps."}
    assert names_of(Toy, "machine") == {"count", "steps"}


def test_a_field_that_is_declared_again_keeps_its_place_and_has_the_new_bounds():
    kind = make_dataclass("Again", [("count", int, 7)], bases=(Toy,), frozen=True)
    assert [*settings_of(kind)] == ["count", "share", "steps"]
    assert settings_of(kind)["count"].bounds == ()
    assert settings_of(kind)["count"].default == 7


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count: expected at least 1; found 0"),
        ({"count": 1.5}, "count: expected a whole number; found 1.5"),
        ({"count": True}, "count: expected a whole number; found True"),
        ({"share": 1.0}, "share: expected less than 1; found 1.0"),
        ({"share": "0.5"}, "share: expected a number; found '0.5'"),
        ({"steps": [1, "2"]}, "steps: expected a list of whole numbers"),
    ],
    ids=str,
)
def test_a_value_that_does_not_fit_is_named_with_what_was_expected(values, message):
    with pytest.raises(SettingError, match=message):
        check_fields(Toy, values)


def test_lists_become_tuples_and_whole_numbers_may_stand_for_others():
    assert build(Toy, {"steps": [1, 2], "share": 0}) == Toy(steps=(1, 2), share=0)
    with pytest.raises(TypeError, match="no_field"):
        build(Toy, {"no_field": 1})


def test_what_is_called_alike_is_passed_on():
    def takes(share, other=1):
        """Two arguments."""

    assert taken_by(takes, dataclasses.asdict(Toy())) == {"share": 0.5}
    assert inspect.signature(takes).parameters.keys() == {"share", "other"}


# --------------------------------------------------------------------------------------------------------------- agent
def test_an_agents_settings_take_what_python_writes():
    found = AgentSettings.of({"max_grad_norm": None, "reward_scale": 2.0, "reset_at": [10, 20], "ent_coef": "0.1"})
    assert (found.max_grad_norm, found.reward_scale, found.reset_at, found.ent_coef) == (0.0, (2.0,), (10, 20), 0.1)


def test_a_learning_rate_is_a_number_or_a_named_schedule():
    assert learning_schedule(1e-3) == 1e-3
    schedule = learning_schedule("linear:1e-3")
    assert [schedule(left) for left in (1.0, 0.5, 0.0)] == pytest.approx([1e-3, 5e-4, 0.0])
    assert (half_rate(1e-3), half_rate("linear:1e-3")) == ("0.0005", "linear:0.0005")


def test_numbers_of_numpy_are_numbers_also_as_a_seed():
    found = AgentSettings.of({"seed": np.int64(3), "gamma": np.float32(0.5), "batch_size": np.int32(8)})
    assert (found.seed, found.gamma, found.batch_size) == (3, 0.5, 8)
    assert [type(value) for value in (found.seed, found.gamma, found.batch_size)] == [int, float, int]


@pytest.mark.parametrize(
    ("kind", "first"),
    [(MTSAC, ["policy", "env", "aggregator", "aggregator_kwargs"]), (IndependentSAC, ["policy", "env"])],
)
def test_the_signature_of_an_agent_shows_every_setting_with_type_and_default(kind, first):
    """What `help` and an editor show; `tests/typed_calls.py` is for type checkers."""
    shown = inspect.signature(kind).parameters
    assert [*shown][: len(first)] == first
    assert ("aggregator" in shown) == (kind is MTSAC)
    for name, setting in settings_of(AgentSettings).items():
        assert (shown[name].annotation, shown[name].default) == (setting.type, setting.default)
        assert shown[name].kind == inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(TypeError, match=rf"{kind.__name__}\(\) takes .* and gama is none; did you mean gamma\?"):
        kind("MlpPolicy", None, gama=0.9)


@pytest.mark.parametrize("settings", [{"gamma": 0.9}, "x", AgentSettings])
def test_settings_of_another_kind_are_refused(settings):
    with pytest.raises(TypeError, match="settings: expected AgentSettings; found "):
        MTSAC("MultiTaskMlpPolicy", None, settings=settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"aggregator": "sdmgrad"}, "a batch_size that is a multiple of .*found 7"),
        ({"aggregator": "mean", "critic_aggregator": "modo"}, "a batch_size that is a multiple of .*found 7"),
        ({"high_reward_fraction": 0.05}, "high_reward_fraction: expected 0, or one row of batch_size=7 or more"),
    ],
)
def test_a_batch_size_that_changes_as_an_attribute_must_go_with_what_is_there(given, message):
    agent = MTSAC("MlpPolicy", envs.toy.make(num_tasks=2, seed=0), **{"batch_size": 60, "buffer_size": 90, **given})
    with pytest.raises(ValueError, match=message):
        agent.batch_size = 7
    assert agent.batch_size == 60


@pytest.mark.parametrize("kind", [MTSAC, MTTD3, IndependentSAC])
def test_a_setting_that_changes_as_an_attribute_is_read_and_saved_or_refused(kind, tmp_path):
    env = envs.toy.make(num_tasks=2, seed=0)
    agent = kind("MlpPolicy", env, learning_starts=4, batch_size=4, buffer_size=50, seed=0, device="cpu").learn(8)
    for name, value in {"gamma": 0.5, "tau": 1.0, "train_freq": 2, "learning_rate": 1.0, "policy_delay": 3}.items():
        with pytest.raises(ValueError, match=rf"{name}: .* built with .* {kind.__name__}.load\(path, env, {name}="):
            setattr(agent, name, value)
    agent.gamma = 0.99  # as it is
    with pytest.raises(ValueError, match="batch_size: expected at least 1; found 0"):
        agent.batch_size = 0
    agent.batch_size, agent.gradient_steps, agent.learning_starts = np.int64(6), 3, 20
    updates = agent._n_updates
    agent.learn(16, reset_num_timesteps=False)  # up to the 24th step
    assert agent._n_updates == updates + 3 * 2
    agent.save(tmp_path / "agent")
    loaded = kind.load(tmp_path / "agent", device="cpu")
    assert (loaded.batch_size, loaded.gradient_steps, loaded.learning_starts) == (6, 3, 20)
