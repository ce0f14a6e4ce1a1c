"""Aggregators by name that are not ours: a file of the user's own, and TorchJD's."""

import copy
import json
import pickle
import re
import sys
from pathlib import Path

import pytest
import torch

import mtrl
from mtrl.aggregators import aggregator_class, make_aggregator, name_of, outside
from mtrl.testing import CHECKS, Promises, check_aggregator, matrix

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:You are solving a parameterized problem that is not DPP")  # TorchJD's

ROOT = Path(__file__).parents[2]

OWN = '''
import torch
from mtrl import GramianAggregator


class Inverse(GramianAggregator):
    """Every task counts the same, whatever its length."""

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power = power

    def weights(self, gramian, losses):
        shares = gramian.diagonal().clamp(min=1e-300) ** (-self.power / 2)
        return shares / shares.sum()


helper = 3
'''


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_a_class_in_a_file(own) -> None:
    name = f"{own}:Inverse"
    aggregator = make_aggregator(name, power=0.5)
    assert aggregator.hyperparameters() == {"power": 0.5}
    assert name_of(aggregator) == name
    assert aggregator_class(name) is type(aggregator)  # the file is run once
    assert type(copy.deepcopy(aggregator)) is type(pickle.loads(pickle.dumps(aggregator))) is type(aggregator)
    check_aggregator(lambda: make_aggregator(name))
    theta = torch.nn.Parameter(torch.zeros(2))
    mtrl.backward(torch.tensor([[4.0, 0], [0, 1]]) @ theta, make_aggregator(name), parameters=[theta])
    torch.testing.assert_close(theta.grad, torch.tensor([0.8, 0.8]))


def test_what_is_missing_is_told(own) -> None:
    with pytest.raises(ValueError, match=r"expected a Python file at .*absent.py', found none from folder"):
        make_aggregator(f"{own.parent}/absent.py:Inverse")
    with pytest.raises(ValueError, match=r"expected a class 'Invrese' in .*own.py; found the aggregators Inverse"):
        make_aggregator(f"{own}:Invrese")
    with pytest.raises(ValueError, match=r"expected a subclass of mtrl.GramianAggregator.*; found 3. Derive helper"):
        make_aggregator(f"{own}:helper")
    with pytest.raises(TypeError, match="has no option 'force'; its options: power"):
        make_aggregator(f"{own}:Inverse", force=2)


def test_a_name_that_was_given_up_says_which_to_use() -> None:
    with pytest.raises(ValueError, match="it was another name for 'pcgrad-magnitude'"):
        make_aggregator("mean-rescaled")


def test_a_class_without_a_name_is_told() -> None:
    class Nameless(mtrl.Mean):
        pass

    with pytest.raises(ValueError, match=r"Name it path/to/file.py:Nameless, or register it"):
        name_of(Nameless())
    assert name_of(mtrl.PCGrad()) == "pcgrad"


def test_without_torchjd_the_error_says_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    monkeypatch.delitem(sys.modules, "mtrl.aggregators.torchjd_adapter", raising=False)
    monkeypatch.delattr(mtrl.aggregators, "torchjd_adapter", raising=False)
    outside.class_of_torchjd.cache_clear()
    with pytest.raises(ImportError, match=r"torchjd:UPGrad.*Install it: pip install -c constraints.txt -e .*torchjd"):
        make_aggregator("torchjd:UPGrad")


# ---- TorchJD

NEEDS = {
    "CAGrad": {"c": 0.4},
    "FairGrad": {"alpha": 1.0},
    "Krum": {"n_byzantine": 1},
    "TrimmedMean": {"trim_number": 1},
    "Constant": {"weights": [0.2] * 5},
}
OWN_LENGTH = {"FairGrad", "NashMTL"}  # their length is not that of the gradients


def names() -> list[str]:
    try:
        from mtrl.aggregators import torchjd_adapter
    except ImportError:
        return []
    return torchjd_adapter.available()


def build(name: str):
    try:
        return make_aggregator(f"torchjd:{name}", **NEEDS.get(name, {}))
    except ImportError as error:
        pytest.skip(str(error))


def test_torchjd_is_there_or_skipped() -> None:
    pytest.importorskip("torchjd", reason="needs TorchJD: pip install -c constraints.txt -e '.[dev]'")
    assert {"UPGrad", "ConFIG", "DualProj", "GradDrop"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_each_of_torchjd(name) -> None:
    """Shape and type, one scale, seeded draws, options that rebuild it, state that continues bit for bit."""
    jacobian, ones = matrix("random", 5, 12), torch.ones(5)
    update = build(name)(jacobian.float(), ones)
    assert update.shape == (12,)
    assert update.dtype == torch.float32
    assert update.isfinite().all()
    if name not in OWN_LENGTH:
        agreed = matrix("duplicates", 5, 12)
        torch.testing.assert_close(build(name)(agreed, ones), agreed.mean(0), rtol=1e-4, atol=1e-4)

    aggregator = build(name)
    assert name_of(aggregator) == f"torchjd:{name}"
    options = json.loads(json.dumps(aggregator.hyperparameters()))
    restored = make_aggregator(f"torchjd:{name}", **options)
    for each in (aggregator, restored):
        each.reset(5, 12)
    outer = torch.get_rng_state()
    walk = [aggregator(matrix("random", 5, 12, seed), ones) for seed in range(3)]
    assert torch.equal(outer, torch.get_rng_state())  # the caller's draws are not disturbed
    restored.load_state_dict(copy.deepcopy(aggregator.state_dict()))
    for seed in range(3, 6):
        rows = matrix("random", 5, 12, seed)
        assert torch.equal(aggregator(rows, ones), restored(rows, ones))
    aggregator.reset(5, 12)
    assert all(torch.equal(aggregator(matrix("random", 5, 12, seed), ones), walk[seed]) for seed in range(3))


def test_torchjd_sum_is_tasks_times_mean() -> None:
    pytest.importorskip("torchjd")
    jacobian = matrix("conflicting", 4, 9)
    mean, total = (make_aggregator("torchjd:ConFIG", reduction=r)(jacobian, torch.ones(4)) for r in ("mean", "sum"))
    torch.testing.assert_close(total, 4 * mean)


def test_torchjd_passes_the_suite() -> None:
    """As a user's own method would."""
    pytest.importorskip("torchjd")
    promises = Promises(never_waits=False)
    for check in ("answers", "permutation", "scale", "determinism", "state"):
        CHECKS[check](lambda: make_aggregator("torchjd:Mean"), promises)


def test_an_object_of_torchjds_works_as_the_page_says() -> None:
    torchjd = pytest.importorskip("torchjd.aggregation") and sys.modules["torchjd"]
    (block,) = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "mtrl.md").read_text(), flags=re.DOTALL)
    names = {"mtrl": mtrl, "torchjd": torchjd}
    exec(block, names)
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    rows = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])  # in conflict
    mtrl.backward(rows @ weight, names["aggregator"], parameters=[weight])
    torch.testing.assert_close(weight.grad, torchjd.aggregation.UPGrad()(rows))


def test_torchjd_names_and_options_are_checked() -> None:
    pytest.importorskip("torchjd")
    with pytest.raises(ValueError, match="TorchJD has no aggregator 'UPgrad': did you mean UPGrad"):
        make_aggregator("torchjd:UPgrad")
    with pytest.raises(TypeError, match="has no option 'force'; its options: "):
        make_aggregator("torchjd:ConFIG", force=1)
    with pytest.raises(ValueError, match="-1"):
        make_aggregator("torchjd:MGDA", epsilon=-1.0)


def test_torchjd_on_one_task_and_on_nan() -> None:
    pytest.importorskip("torchjd")
    for name in ("torchjd:NashMTL", "torchjd:UPGrad"):
        try:
            one = make_aggregator(name)(torch.tensor([[3.0, 0.0, 1.0]]), torch.ones(1))
        except ImportError:  # its solver has no wheel for this Python
            continue
        assert one.tolist() == [3.0, 0.0, 1.0]
        broken = make_aggregator(name)(torch.tensor([[1.0, 0.0], [torch.nan, 1.0]]), torch.ones(2))
        assert broken.isnan().all()


def test_an_option_without_default_is_asked_for_by_name() -> None:
    pytest.importorskip("torchjd")
    with pytest.raises(TypeError, match="'torchjd:CAGrad' needs a value for its option c"):
        make_aggregator("torchjd:CAGrad")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class Mine(", "could not be read: SyntaxError"),
        ("import nosuchmodule\nclass Mine: pass", "could not be read: ModuleNotFoundError"),
        ("raise SystemExit(0)", "could not be read: SystemExit"),
        ("from mtrl import GramianAggregator\nclass Mine(GramianAggregator): pass", "Mine lacks weights"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, message) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        make_aggregator(f"{path}:Mine")


def test_an_option_that_is_not_kept_is_told() -> None:
    class Forgets(mtrl.Mean):
        def __init__(self, reduction="mean", gain: float = 1.0) -> None:
            super().__init__(reduction)

    with pytest.raises(TypeError, match="Forgets should keep its option gain"):
        Forgets().hyperparameters()


def test_a_file_may_import_those_beside_it_and_hides_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "the_method_s_own.py").write_text("POWER = 2.0\n")
    (tmp_path / "json.py").write_text("raise AssertionError\n")
    (tmp_path / "mine.py").write_text("import json\nimport the_method_s_own\n" + OWN)
    make_aggregator(f"{tmp_path / 'mine.py'}:Inverse")
    assert sys.path[-1] == str(tmp_path)
