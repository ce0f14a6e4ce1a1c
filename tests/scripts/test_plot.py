"""Pictures show what the files hold: lines at the right places, one colour per method, bands only over seeds."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from mtrl import AGGREGATORS
from scripts import compare, plot
from scripts.analysis import style as looks
from scripts.analysis import success as plot_success
from scripts.analysis import training as plot_training
from scripts.analysis.comparison import hours
from scripts.analysis.methods import find_runs, group, relabelled
from scripts.analysis.page.numbers import numbers
from scripts.common.usage import UsageError
from scripts.runs.folder import TRAINED
from scripts.studies import toy2d, triad
from tests import run_folders
from tests.run_folders import STEP, TASKS, make_run


@pytest.fixture
def runs(tmp_path):
    """The mean with two seeds, PCGrad with one."""
    make_run(tmp_path / "a", {100: (0.2, 0.4), 200: (0.4, 0.6)}, seed=0, logs=True)
    make_run(tmp_path / "b", {100: (0.4, 0.8), 200: (0.8, 1.0)}, seed=1, logs=True)
    make_run(tmp_path / "c", {100: (0.1, 0.1), 200: (0.3, 0.3)}, seed=0, logs=True, aggregator="pcgrad")
    return tmp_path


@pytest.fixture
def methods(runs):
    return group(find_runs([runs]))


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_success_is_the_mean_over_seeds_and_tasks_with_a_band_over_seeds(methods):
    figure = plot_success.over_environment_steps(methods)
    top, *panels = figure.axes
    drawn = lines(top)
    np.testing.assert_allclose(drawn["mean, 2 seeds"].get_xydata(), [[100, 0.45], [200, 0.7]])
    np.testing.assert_allclose(drawn["pcgrad, seed 0"].get_xydata(), [[100, 0.1], [200, 0.3]])
    assert len(top.collections) == 1  # a single seed has no band
    band = top.collections[0].get_paths()[0].vertices
    assert 0.2 <= band[:, 1].min() < 0.45 < band[:, 1].max() <= 0.9
    assert [panel.get_title() for panel in panels] == list(TASKS)
    np.testing.assert_allclose(panels[1].get_lines()[0].get_ydata(), [0.6, 0.8])
    assert top.get_xlabel() == "environment steps per task"


def test_seeds_are_thin_lines_around_their_mean(methods):
    mean, *seeds, _ = (
        plot_success.over_environment_steps(methods).axes[0].get_lines()
    )  # two of the mean, then PCGrad's one
    assert len(seeds) == 2
    np.testing.assert_allclose(np.mean([line.get_ydata() for line in seeds], axis=0), mean.get_ydata())


def test_a_method_may_have_a_label_of_ones_own(runs, methods):
    ours = relabelled(methods, ["mean=base=line"])
    assert [method.label for method in ours] == ["base=line", "pcgrad"]
    make_run(runs / "d", seed=0, gamma=0.5)
    many = group(find_runs([runs]))
    assert [method.label for method in many] == ["mean, gamma=0.5", "mean, gamma=0.99", "pcgrad"]
    assert relabelled(many, ["mean, gamma=0.5=short"])[0].label == "short"
    for words, message in (["maen=x"], "did you mean mean"), (["mean"], "expected LABEL=NAME"), (["mean= "], "LABEL"):
        with pytest.raises(UsageError, match=message):
            relabelled(methods, words)


@pytest.mark.parametrize(
    ("main", "words", "names"),
    [
        (plot.main, "RUNS --out OUT/x.png", ("x.png",)),
        (plot.main, "RUNS --out OUT/x.PDF", ("x.PDF",)),
        (compare.main, "RUNS --out OUT/x.md", ("x.md", "x.csv")),
        (toy2d.main, "--steps 3 --aggregators mean --out OUT/x.svg", ("x.svg",)),
        (
            triad.main,
            "--preset toy --updates 30 --warmup-steps 20 --aggregators mean --out OUT/x.png",
            ("x.png", "x.csv"),
        ),
    ],
)
def test_what_was_written_before_stays_where_the_disk_is_full(main, words, names, runs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    for name in names:
        (out / name).write_text("of before")
    words = words.replace("RUNS", str(runs)).replace("OUT", str(out)).split()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        with pytest.raises(OSError, match="No space left"):
            main(words)
    assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(names, "of before")
    assert main(words) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert all(path.stat().st_size > 200 for path in out.iterdir())


def test_published_curves_stand_beside_with_their_sources(tmp_path, monkeypatch):
    make_run(tmp_path / "a", {100_000: (0.2, 0.4), 200_000: (0.4, 0.6)}, steps_per_task=200_000)
    drawn = []
    monkeypatch.setattr(plot, "save", lambda figure, *paths: drawn.append(figure))
    for flags in [], ["--published"]:
        plot.main([str(tmp_path), "--out", str(tmp_path / "x.png"), *flags])
    without, beside = drawn
    curves = [line.get_xydata().tolist() for line in beside.axes[0].get_lines()]
    assert [[1e5, 0.305], [2e5, 0.478]] in curves  # McLean et al. 2025, width 256
    assert all(x <= 3e5 for curve in curves for x, _ in curve)
    assert len(curves) > 10
    assert lines(without.axes[0])["mean, seed 0"].get_xydata().tolist() in curves
    (note,) = [text.get_text() for part in beside.subfigs for text in part.texts if "literature" in text.get_text()]
    assert "McLean et al. 2025" in note
    assert "reward v1; horizon not stated" in note
    numbers = {number for text in beside.axes[0].texts for number in text.get_text().split(", ")}
    assert numbers == {str(1 + i) for i in range(len(curves) - 1)}  # each curve has one, and the note all
    assert all(f"{number}\N{NO-BREAK SPACE}" in note for number in numbers)


def test_published_curves_are_of_success_after_steps_that_papers_report(runs, tmp_path):
    make_run(tmp_path / "toy" / "a", suite="toy")
    for words, message in (
        ([runs / "a", "--kind", "triad"], "expected --kind success"),
        ([runs / "a"], "those after 100,000 steps per task; these runs end at 200"),
        ([tmp_path / "toy"], r"\(MT10, MT50\); found TOY"),
    ):
        with pytest.raises(UsageError, match=message):
            plot.main([*map(str, words), "--published"])


def test_a_picture_of_a_trained_agent_goes_into_the_working_folder(tmp_path, monkeypatch):
    """Not into the package, where the agent lies."""
    monkeypatch.chdir(tmp_path)
    plot.main(["mt10-quick-pcgrad"])
    assert os.listdir(tmp_path) == ["success.png"]
    assert not list(TRAINED.rglob("*.png"))


def test_one_task_is_one_panel(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_folders, "TASKS", TASKS[:1])
    monkeypatch.setattr(run_folders, "GOALS", {TASKS[0]: run_folders.GOALS[TASKS[0]]})
    make_run(tmp_path / "a", {100: (0.2,), 200: (0.4,)})
    methods = group(find_runs([tmp_path]))
    (only,) = plot_success.over_environment_steps(methods).axes
    np.testing.assert_allclose(lines(only)["mean, seed 0"].get_ydata(), [0.2, 0.4])
    compare.main([str(tmp_path)])
    assert "after 200 steps per task, reach-v3\n" in capsys.readouterr().out


def test_a_clock_that_a_breakdown_stopped_makes_no_method_faster(runs):
    """Its success is 0 from there on, but it came to no later step in these hours."""
    run = make_run(runs / "d", {100: (0.2, 0.4)}, seed=2, logs=True, status="failed")
    run.metrics.replace([row for row in run.metrics.read() if float(row[STEP]) <= 100])
    mean, _ = group(find_runs([runs]))
    assert mean.failed == [2]
    top = plot_success.over_wall_clock([mean]).axes[0]
    np.testing.assert_allclose(top.get_lines()[0].get_xdata(), [1, 2])
    assert hours(mean, 200) == hours(replace(mean, runs=mean.runs[:2]), 200)
    one, other = numbers([mean, replace(mean, runs=mean.runs[:2])])["methods"]
    assert one["mean_hours"] == other["mean_hours"]
    broken = replace(mean, runs=mean.runs[2:])
    np.testing.assert_allclose(plot_success.over_wall_clock([broken]).axes[0].get_lines()[0].get_xdata(), [1, 1])


def test_wall_clock_leaves_evaluations_out(methods):
    top = plot_success.over_wall_clock(methods).axes[0]
    np.testing.assert_allclose(lines(top)["mean, 2 seeds"].get_xdata(), [1.0, 2.0])  # 36 s a step
    assert "hours" in top.get_xlabel()


def test_the_heat_map_has_the_share_of_conflicts_in_each_quarter_and_a_blank_diagonal(methods):
    figure = plot_training.conflicts(methods)
    images = [axes.get_images()[0] for axes in figure.axes if axes.get_images()]
    assert len(images) == 2 * 2 * plot_training.WINDOWS
    assert [float(image.get_array()[0, 1]) for image in images[:4]] == [1, 0, 0, 0]
    assert all(np.isnan(image.get_array().filled(np.nan).diagonal()).all() for image in images)
    assert {image.get_clim() for image in images} == {(0, 1)}  # the same in every picture
    assert figure.axes[0].get_title().endswith("100% in conflict")


def test_the_distance_is_the_mean_over_the_tasks_that_tell_it(tmp_path):
    run = make_run(tmp_path / "a", {})
    told = {100: (0.5, ""), 200: (0.2, 0.4)}
    zero = dict.fromkeys(("success", "success_last", "return"), 0) | {"episodes": 10}
    run.evaluations.append(
        [
            {STEP: step, "task": task, **zero, "goal_distance": found}
            for step, row in told.items()
            for task, found in zip(TASKS, row, strict=True)
        ]
    )
    (line,) = plot_training.goal_distance(group([run])).axes[0].get_lines()
    np.testing.assert_allclose(line.get_xydata(), [[100, 0.5], [200, 0.3]])
    assert plot.main([str(run.path), "--kind", "distance"]) == 0
    assert (run.path / "distance.png").exists()
    with pytest.raises(UsageError, match="found none: its environments tell none"):
        plot_training.goal_distance(group([make_run(tmp_path / "b")]))


def test_many_tasks_stand_in_groups_of_difficulty(methods, monkeypatch):
    monkeypatch.setattr(plot_training, "NAMED", 1)
    first = plot_training.conflicts(methods).axes[0]
    assert [label.get_text() for label in first.get_yticklabels()] == ["easy (1)", "hard (1)"]
    assert first.get_yticks().tolist() == [0, 1]
    assert [line.get_xydata()[0].tolist() for line in first.get_lines()] == [[0, 0.5], [0.5, 0]]  # between the two


def test_conflicts_that_cancel_in_the_mean_are_shown(tmp_path):
    """Cosines of -0.5 and 0.5 in turn: in half of the updates the two tasks conflict, and their mean is 0."""
    run = make_run(tmp_path / "a")
    for step in range(10, 210, 10):
        cosine = {"|".join(TASKS): 0.5 if step % 20 else -0.5}
        run.conflicts.append([{"env_steps_per_task": step, "network": n, **cosine} for n in ("actor", "critic")])
    images = [axes.get_images()[0] for axes in plot_training.conflicts(group([run])).axes if axes.get_images()]
    np.testing.assert_allclose([float(image.get_array()[0, 1]) for image in images], 0.5, atol=0.11)


def test_lines_that_coincide_are_all_seen(tmp_path):
    for name in ("mean", "pcgrad", "cagrad"):
        make_run(tmp_path / name, {100: (1, 1), 200: (1, 1)}, aggregator=name)
    figure = plot_success.over_environment_steps(group(find_runs([tmp_path])))
    figure.axes[0].get_legend().remove()
    figure.canvas.draw()
    seen = {tuple(pixel) for pixel in np.asarray(figure.canvas.buffer_rgba())[..., :3].reshape(-1, 3)}
    colors = [np.round(255 * np.array(to_rgb(looks.METHOD_COLORS[n]))) for n in ("mean", "pcgrad", "cagrad")]
    assert {tuple(color) for color in colors} <= seen


def test_a_name_with_dollar_signs_is_no_formula(tmp_path):
    make_run(tmp_path / "a", aggregator=r"x/$\frac{$.py:N")
    assert plot.main([str(tmp_path / "a"), "--out", str(tmp_path / "x.png")]) == 0


def test_triad_and_temperatures(methods):
    share, _, similarity, _, curvature, _ = plot_training.triad(methods).axes
    np.testing.assert_allclose(lines(similarity)["mean, 2 seeds"].get_ydata(), 0.8)  # 2 x 1 x 2 / (1 + 4)
    np.testing.assert_allclose(lines(share)["pcgrad, seed 0"].get_xydata()[:, 0], [50, 100, 150, 200])
    assert len(curvature.collections) == 1
    first = plot_training.temperatures(methods).axes[0]
    assert (first.get_title(), first.get_yscale()) == (TASKS[0], "log")
    np.testing.assert_allclose(lines(first)["mean, 2 seeds"].get_ydata(), 0.1 / np.array([50, 100, 150, 200]))


def test_a_method_has_its_colour_in_every_picture(methods):
    pictures = (plot_success.over_environment_steps, plot_success.over_wall_clock, plot_training.triad)
    for axes in (picture(methods).axes[0] for picture in pictures):
        colors = [to_hex(line.get_color()).upper() for name, line in lines(axes).items() if name[0] != "_"]
        assert colors == [looks.METHOD_COLORS["mean"], looks.METHOD_COLORS["pcgrad"]]


def test_every_aggregator_has_a_colour_of_its_own(monkeypatch):
    monkeypatch.setitem(AGGREGATORS, "a-new-one", AGGREGATORS["mean"])  # a row is enough
    colors = [looks.color_of(name) for name in (*AGGREGATORS, "independent")]
    assert len({*colors, looks.FOREIGN}) == len(colors) + 1
    assert looks.color_of("smoothed:a-new-one") == looks.color_of("a-new-one")
    assert {looks.color_of(name) for name in looks.METHOD_COLORS} == {*looks.COLORS}
    assert looks.color_of("torchjd:UPGrad") == looks.FOREIGN not in looks.COLORS


def test_what_is_around_a_method_shows_in_its_dashes():
    names = ["pcgrad", "uncertainty:pcgrad", "scheduled:smoothed:pcgrad", "own.py:pcgrad"]
    found = looks.looks(names)
    assert [look.color for look in found] == [looks.METHOD_COLORS["pcgrad"]] * 3 + [looks.FOREIGN]
    assert len({look.dashes for look in found[:3]}) == 3


def test_a_seed_that_broke_down_is_drawn_at_zero_and_told(tmp_path):
    make_run(tmp_path / "a", {100: (1, 1), 200: (1, 1)}, seed=0)
    make_run(tmp_path / "b", {100: (1, 1)}, seed=1, status="failed")
    top = plot_success.over_environment_steps(group(find_runs([tmp_path]))).axes[0]
    np.testing.assert_allclose(lines(top)["mean, 2 seeds, 1 broke down"].get_ydata(), [1, 0.5])


def test_it_is_written_as_png_and_pdf(runs, tmp_path, capsys):
    out = tmp_path / "picture.png"
    assert plot.main([str(runs), "--out", str(out), "--pdf"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    pdf = out.with_suffix(".pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/Type3" not in pdf  # fonts that many venues refuse
    assert capsys.readouterr().out.count("wrote") == 2


@pytest.mark.parametrize("kind", [kind for kind in plot.KINDS if kind != "distance"])  # these runs tell none
def test_every_kind_has_its_name_by_default(kind, runs, monkeypatch):
    saved = []
    monkeypatch.setattr(plot, "save", lambda figure, *paths: saved.extend(paths))
    assert plot.main([str(runs / "a"), "--kind", kind]) == 0
    assert saved == [runs / "a" / f"{kind}.png"]


def test_a_run_that_goes_on_is_drawn_as_far_as_it_is(tmp_path):
    run = make_run(tmp_path / "a", {100: (0.5, 0.5)}, status="interrupted")
    assert plot.main([str(run.path)]) == 0
    assert (run.path / "success.png").exists()


MISSING = [
    ("wall-clock", "metrics.csv", None, "expected times"),
    ("triad", "metrics.csv", None, "expected metrics.csv"),
    ("temperatures", "metrics.csv", "env_steps,x\n2,1\n", "expected the column train/ent_coef/reach-v3"),
    ("temperatures", "metrics.csv", "env_steps,train/ent_coef/reach-v3\n2,hot\n", "damaged"),
    ("conflicts", "conflicts.csv", None, "expected conflicts.csv"),
    ("conflicts", "conflicts.csv", "env_steps,network\n2,critic\n", "damaged"),
    ("conflicts", "conflicts.csv", "env_steps,network,reach-v3|push-v3\n2,actor,0.5\n", "found none"),
    ("success", "evaluations.csv", "env_steps_per_task,task,success\nx,reach-v3,1\n", "damaged"),
    ("success", "evaluations.csv", f"env_steps_per_task,task,success\n{10**20},reach-v3,1\n", "damaged"),
    ("temperatures", "metrics.csv", f"env_steps,x\n{10**20},1\n", "damaged"),
    ("conflicts", "conflicts.csv", "2,critic\n2,critic\n", "damaged"),
]


@pytest.mark.parametrize(("kind", "name", "text", "message"), MISSING)
def test_what_a_picture_needs_and_does_not_find_is_told(kind, name, text, message, tmp_path):
    run = make_run(tmp_path / "a", logs=True)
    (run.path / name).unlink()
    if text:
        (run.path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        plot.main([str(run.path), "--kind", kind])
    assert not list(run.path.glob("*.png"))
