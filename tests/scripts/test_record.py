"""Films: what is in a picture, and clear words where nothing can render. Skips where there is no back end."""

import os

import numpy as np
import pytest
from PIL import Image

from scripts import record, train
from scripts.common.usage import UsageError
from scripts.runs import film, rendering

imageio = pytest.importorskip("imageio.v2")
pytest.importorskip("imageio_ffmpeg")
FLAGS = "--tasks reach-v3 --steps-per-task 8 --horizon 8 --warmup-steps 4 --goals 2 --eval-goals 1 --final-goals 1"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    sizes = "--actor-width 8 --critic-width 8 --batch-size 4 --workers 0 --no-progress".split()
    assert train.main(["mt1", *FLAGS.split(), *sizes, "--run-dir", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def gl():
    try:
        return rendering.back_end()
    except UsageError as error:
        pytest.skip(str(error))


def test_a_film_has_every_second_step_and_a_second_of_the_end(run, gl, tmp_path):
    out = tmp_path / "film.mp4"
    assert record.main([str(run), "--size", "64", "--out", str(out)]) == 0
    frames = list(imageio.get_reader(out).iter_data())
    assert [frame.shape for frame in frames] == [(64, 64, 3)] * (8 // 2 + 40)
    assert frames[0].std() > 10  # something is to be seen
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


def test_a_gif_plays_at_the_pace_of_the_simulation_and_stays_at_its_end(tmp_path):
    """8 frames that differ, of 4 steps of 1/80 s each; the last comes twice."""
    pictures = [np.full((32, 32, 3), 20 * i, dtype=np.uint8) for i in range(8)]
    with film.video(tmp_path / "film.gif", every=4) as add:
        for picture in [*pictures, pictures[-1]]:
            add(picture)
    image = Image.open(tmp_path / "film.gif")
    durations = []
    for i in range(image.n_frames):
        image.seek(i)
        durations.append(image.info["duration"])
    assert durations == [50] * 7 + [100]
    assert [path.name for path in tmp_path.iterdir()] == ["film.gif"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--tasks push-v3", "unknown task 'push-v3'"),
        ("--goal 2", "--goal: expected 0 to 1; found 2"),
        ("--size 100", "--size a multiple of 16"),
        ("--out film.avi", "ends in .mp4 or .gif"),
        ("--steps 0", "--steps at least 1"),
    ],
)
def test_what_cannot_be_filmed_is_said(flags, message, run):
    with pytest.raises(UsageError, match=message):
        record.main([str(run), *flags.split()])


def test_without_a_back_end_the_packages_are_named(monkeypatch):
    monkeypatch.setattr(rendering, "PROBE", "raise SystemExit(1)")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(UsageError, match=r"egl and osmesa did not work\. Install .*libosmesa6"):
        rendering.back_end()
    monkeypatch.setattr(rendering, "PROBE", "import os; raise SystemExit(os.environ['MUJOCO_GL'] == 'egl')")
    assert rendering.back_end() == "osmesa"


def test_rendering_that_hangs_is_ended_and_leaves_nothing(run, tmp_path):
    before = set(os.listdir(tmp_path))
    order = {"run": str(run), "agent": "nowhere", "out": str(tmp_path / "x.mp4"), "tasks": ["reach-v3"], "each": False}
    with pytest.raises(UsageError, match=r"took longer than --timeout 0\.01 s"):
        rendering.film(order, "egl", 0.01)
    with pytest.raises(UsageError, match="rendering with egl failed"):
        record.film(order, "egl", 60)
    assert set(os.listdir(tmp_path)) == before


def test_a_task_that_ends_the_program_is_no_film(monkeypatch):
    class Ends:
        def __init__(self, *_):
            raise SystemExit(0)

    monkeypatch.setattr(film, "Run", Ends)
    with pytest.raises(UsageError, match=r"a task ended the program: SystemExit\(0\)"):
        film.main({"run": "anywhere"})


def test_a_grid_has_at_most_five_columns_and_a_success_is_green():
    film = pytest.importorskip("scripts.runs.film")
    pictures = [np.full((4, 4, 3), i + 1, np.uint8) for i in range(10)]
    whole = film.grid(pictures)
    assert whole.shape == (8, 20, 3)
    assert whole[::4, ::4, 0].tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert film.grid(pictures[:3]).shape == (8, 8, 3)
    scene = object.__new__(film.Scene)
    scene.name, scene.solved_at, scene.size = "reach-v3", None, 32
    scene.task = type("Blank", (), {"render": lambda _: np.zeros((32, 32, 3), np.uint8)})()
    assert tuple(scene.picture()[-1, -1]) == (0, 0, 0)
    scene.solved_at = 3
    assert tuple(scene.picture()[-1, -1]) == film.SUCCESS
