"""Two overlaid digits: paired data without leaks, networks that share what they say, honest intervals, clear errors."""

import csv
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

import mtrl
from mtrl import AGGREGATORS
from scripts.common.usage import UsageError
from scripts.studies.digits import command
from scripts.studies.digits.command import DigitsConfig, as_run, main, train_all
from scripts.studies.digits.data import PIXELS, Pairs, load_images, make_pairs, overlay
from scripts.studies.digits.networks import ARCHITECTURES
from scripts.studies.digits.results import ALONE, HEADINGS, Run, cells, estimate, summarise
from scripts.studies.digits.training import Outcome, examine, new_network, task_losses, train_alone, train_jointly

RUN = Run("mmoe", "mean", 0, 0.2, 0.4, 1.0, 2.0, -0.1, 0.1, 1.25, 0.5, 3.0)


@pytest.fixture(scope="module")
def images():
    pytest.importorskip("sklearn")
    return load_images()


def numbered(count=90):
    """Images of one grey level each, their number: a pair shows which two images it was made of."""
    return np.broadcast_to((np.arange(count)[:, None, None] + 1) / 100, (count, 8, 8)), np.arange(count)


def random_pairs(updates, rows=16):
    generator = torch.Generator().manual_seed(0)
    batches, test = (torch.rand(*shape, PIXELS, generator=generator) for shape in ((updates, rows), (50,)))
    labels, test_labels = (torch.randint(10, (*shape, 2), generator=generator) for shape in ((updates, rows), (50,)))
    return Pairs(batches, labels, test, test_labels)


def test_the_images_are_ink_between_0_and_1(images):
    ink, labels = images
    assert ink.shape == (len(labels), 8, 8) == (1797, 8, 8)
    assert (ink.min(), ink.max()) == (0, 1)


def test_left_and_right_lie_in_their_corners_and_the_darker_one_is_seen():
    canvas = overlay(np.full((8, 8), 0.5), np.full((8, 8), 0.75))
    assert canvas.shape == (10, 12)
    assert canvas[0, 0] == canvas[7, 3] == 0.5
    assert canvas[9, 11] == canvas[7, 7] == canvas[2, 4] == 0.75
    assert canvas[0, 11] == canvas[9, 0] == 0


def test_labels_belong_to_their_sides():
    pairs = make_pairs(*numbered(), seed=0, epochs=2, batch_size=20)
    left, right = pairs.batches[..., 0], pairs.batches[..., -1]
    torch.testing.assert_close(left, (pairs.labels[..., 0] + 1).float() / 100)
    torch.testing.assert_close(right, (pairs.labels[..., 1] + 1).float() / 100)


def test_no_test_pair_holds_an_image_of_training_and_an_epoch_shows_each_once_per_side():
    pairs = make_pairs(*numbered(), seed=0, epochs=3, batch_size=30)
    known, held_out = set(pairs.labels.unique().tolist()), set(pairs.test_labels.unique().tolist())
    assert len(known) == 60
    assert len(held_out) == 30
    assert not known & held_out
    for side in (0, 1):
        assert all(len(epoch.unique()) == 60 for epoch in pairs.labels[..., side].reshape(3, 60))


def test_pairs_depend_on_the_seed_alone():
    one, same, other = (make_pairs(*numbered(), seed=seed, epochs=1, batch_size=8) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_shares_exactly_what_it_says(name):
    """Shared parameters move under either loss, each other one under one loss at most: that of its task."""
    network = new_network(name, seed=0)
    losses = task_losses(network(torch.rand(5, PIXELS)), torch.zeros(5, 2, dtype=torch.int64))
    shared, own = network.shared_parameters(), network.task_parameters()
    assert len(shared) + len(own) == len(list(network.parameters()))

    def moved(parameters):
        rows = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in losses]
        return [[gradient is not None and bool(gradient.any()) for gradient in row] for row in rows]

    assert all(all(row) for row in moved(shared))
    assert all(left != right for left, right in zip(*moved(own), strict=True))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_first_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (torch.cat([p.flatten() for p in new_network(name, s).parameters()]) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.rand(1), expected)  # the caller's generator is where it was


def test_task_losses_are_cross_entropies():
    logits, labels = torch.randn(2, 6, 10), torch.randint(10, (6, 2))
    expected = torch.stack([functional.cross_entropy(logits[t], labels[:, t]) for t in (0, 1)])
    torch.testing.assert_close(task_losses(logits, labels), expected)


def test_joint_training_with_the_mean_is_ordinary_training():
    pairs, network, twin = random_pairs(12), new_network("attention", 0), new_network("attention", 0)
    train_jointly(network, mtrl.Mean(), pairs, 1e-2)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-2)
    for rows, labels in zip(pairs.batches, pairs.labels, strict=True):
        optimizer.zero_grad()
        task_losses(twin(rows), labels).mean().backward()
        optimizer.step()
    for one, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_gcd_is_that_of_the_gradients(monkeypatch):
    monkeypatch.setattr("scripts.studies.digits.training.MEASURED", 2)
    pairs, degrees = random_pairs(3), []

    class Watching(mtrl.PCGrad):
        def weights(self, gramian, losses):
            degrees.append(1 - (gramian[0, 1] / (gramian[0, 0] * gramian[1, 1]).sqrt()).item())
            return super().weights(gramian, losses)

    outcome = train_jointly(new_network("hard-sharing", 0), Watching(), pairs, 1e-2)
    assert len(degrees) == 3
    assert outcome.gcd == pytest.approx((degrees[0] + degrees[2]) / 2)
    assert outcome.conflicts == np.mean([degrees[0] > 1, degrees[2] > 1])


def test_famo_sees_the_losses_after_each_step():
    aggregator = mtrl.make_aggregator("famo")
    train_jointly(new_network("hard-sharing", 0), aggregator, random_pairs(2), 1e-2)
    assert aggregator.logits.abs().sum() > 0


def test_alone_leaves_the_other_task_out():
    network, untouched = new_network("mmoe", 0), new_network("mmoe", 0)
    train_alone(network, 1, random_pairs(2), 1e-2)
    assert torch.equal(network.heads[0].weight, untouched.heads[0].weight)
    assert not torch.equal(network.heads[1].weight, untouched.heads[1].weight)


def test_errors_are_the_share_of_wrong_names():
    pairs = random_pairs(1)
    network = new_network("hard-sharing", 0)
    right = network(pairs.test).argmax(2).T
    spoiled = right.clone()
    spoiled[:10, 1] = (spoiled[:10, 1] + 1) % 10
    errors, _ = examine(network, pairs._replace(test_labels=spoiled))
    assert errors.tolist() == [0.0, 0.2]


def test_the_digits_are_learned_and_all_runs_of_a_seed_share_their_data(images):
    config = DigitsConfig(architectures=("hard-sharing",), aggregators=("mean", "pcgrad", "pcgrad-fixed"))
    runs = list(train_all(config, 0, make_pairs(*images, seed=0, epochs=5, batch_size=128)))
    assert [run.aggregator for run in runs] == [ALONE, "mean", "pcgrad", "pcgrad-fixed"]
    assert all(run.error_left + run.error_right < 0.6 for run in runs)  # by guessing: 1.8
    alone, _, pcgrad, fixed = runs
    assert replace(fixed, seconds=0, aggregator="pcgrad") == replace(pcgrad, seconds=0)  # two tasks have one order
    assert pcgrad.tci_right == pytest.approx(alone.error_right - pcgrad.error_right)


def test_tci_is_negative_where_joint_training_hurts():
    joint, alone = (Outcome(torch.tensor(errors), torch.ones(2), 1.0, 0.5, 1.0) for errors in ([0.3, 0.1], [0.1, 0.2]))
    run = as_run("mmoe", "mean", 0, joint, alone)
    assert (run.tci_left, run.tci_right) == pytest.approx((-0.2, 0.1))
    assert math.isnan(as_run("mmoe", ALONE, 0, alone, alone).tci_left)


def test_intervals_are_student_s():
    pytest.importorskip("scipy")
    found = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3
    assert found.half == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)  # t with 4 degrees, 0.975
    assert estimate([2.0, 2.0]).half == 0
    assert math.isnan(estimate([2.0]).half)


def test_gains_are_taken_seed_by_seed():
    pytest.importorskip("scipy")
    runs = [
        replace(RUN, seed=seed, error_left=base - gain, aggregator=name)
        for name, gain in (("mean", 0.0), ("pcgrad", 0.02))
        for seed, base in enumerate((0.1, 0.5, 0.3))  # seeds differ far more than aggregators
    ]
    mean, pcgrad = summarise(runs)
    assert math.isnan(mean.estimates["gain"].mean)
    assert pcgrad.estimates["gain"].mean == pytest.approx(1.0)  # points, over both tasks
    assert pcgrad.estimates["gain"].half == pytest.approx(0.0, abs=1e-9)
    assert pcgrad.estimates["left"].mean == pytest.approx(72.0)
    assert dict(zip(HEADINGS, cells(mean), strict=True)) == {
        "left": "70.0±49.7", "right": "60.0±0.0", "gain": "-", "tci_left": "-10.0±0.0", "tci_right": "10.0±0.0",
        "gcd": "1.25±0.00", "conflicts": "50±0",
    }  # fmt: skip


def test_the_command_prints_and_writes(images, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("STEPS", "2")
    out = tmp_path / "new" / "digits"
    flags = f"--architectures mmoe,attention --aggregators mean,famo --seeds 2 --epochs 1 --out {out}"
    for _ in range(2):  # the second time replaces the first
        assert main(flags.split()) == 0
    shown = capsys.readouterr().out
    assert "attention" in shown
    assert "TCI left" in shown
    assert "conflicts" not in shown  # a column of the files: it has no room here, so it is not explained either
    assert "STEPS=2 is set" in shown
    with (out / "runs.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 2 * 2 * 3
    assert [run["aggregator"] for run in runs[:3]] == [ALONE, "mean", "famo"]
    with (out / "summary.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * 3
    page = (out / "README.md").read_text()
    assert (
        "`python -m scripts.digits --architectures mmoe,attention --aggregators mean,famo --seeds 2 --epochs 1`" in page
    )
    assert "2 updates" in page
    assert page.count("| famo |") == 2
    assert str(tmp_path) not in page


def test_the_default_is_every_aggregator_architecture_and_five_seeds():
    config = DigitsConfig()
    assert (config.aggregators, config.architectures) == (tuple(AGGREGATORS), tuple(ARCHITECTURES))
    assert config.seeds == 5


def test_without_scikit_learn_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match=r"not installed. Install it: pip install -e '.\[digits\]'"):
        main([])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--aggregators mean,pcgard", "unknown aggregator 'pcgard': did you mean pcgrad"),
        ("--architectures mmoo", "unknown architecture 'mmoo': did you mean mmoe"),
        ("--architectures mmoe,mmoe", "expected every name once; found mmoe more than once"),
        ("--seeds 0", "--seeds: expected at least 1, found 0"),
        ("--batch-size 0", "--batch-size: expected at least 1, found 0"),
        ("--learning-rate inf", "--learning-rate: expected a finite number above 0, found inf"),
        ("--out pyproject.toml", "--out: expected a folder"),
        ("--out /proc/digits", "--out: expected a folder, or a place for one"),
    ],
)
def test_bad_input(flags, message, monkeypatch):
    monkeypatch.setattr(command, "load_images", lambda: pytest.fail("bad input goes unnoticed"))
    with pytest.raises(UsageError, match=message):
        main(flags.split())


def test_a_batch_cannot_be_larger_than_the_training_images():
    with pytest.raises(UsageError, match="--batch-size: expected at most 60, the images of training; found 61"):
        make_pairs(*numbered(), seed=0, epochs=1, batch_size=61)
