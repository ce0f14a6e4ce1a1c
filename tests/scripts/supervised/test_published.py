"""Data that a user must bring: tiny files of the published formats are read and trained on; metrics by hand."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from scripts.common.usage import UsageError
from scripts.studies.supervised import dense, timing
from scripts.studies.supervised.architectures import ARCHITECTURES
from scripts.studies.supervised.command import SupervisedConfig, main, plan_of, train_all
from scripts.studies.supervised.datasets import celeba, officehome, scenes
from scripts.studies.supervised.datasets.aliexpress import AliExpress
from scripts.studies.supervised.datasets.celeba import CelebA
from scripts.studies.supervised.datasets.officehome import OfficeHome
from scripts.studies.supervised.datasets.scenes import Cityscapes, NYUv2
from scripts.studies.supervised.encoders import Mixed, convolutions, mixed
from tests.scripts.supervised.toy import Toy

torch.set_num_threads(1)
RANDOM = np.random.default_rng(0)


def write_scene(folder, rooms=True, labels="label", sizes=(2, 1), size=(32, 64)):
    for part, count in zip(("train", "val"), sizes, strict=True):
        for number in range(count):
            arrays = {
                "image": RANDOM.random((*size, 3)),
                labels: RANDOM.integers(-1, 7, size).astype(np.float64),
                "depth": RANDOM.integers(0, 3, (*size, 1)).astype(np.float32),
            } | ({"normal": RANDOM.normal(size=(*size, 3))} if rooms else {})
            for name, array in arrays.items():
                (folder / part / name).mkdir(parents=True, exist_ok=True)
                np.save(folder / part / name / f"{number}.npy", array)


def write_celeba(folder, count=6):
    (folder / "img_align_celeba").mkdir()
    names = [f"{k:06}.jpg" for k in range(1, count + 1)]
    for name in names:
        Image.fromarray(RANDOM.integers(256, size=(218, 178, 3), dtype=np.uint8)).save(
            folder / "img_align_celeba" / name
        )
    answers = [f"{name} {'  1 -1' if k % 2 else ' -1  1'}" for k, name in enumerate(names)]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(count), "Bald Young ", *answers]) + "\n")
    lines = [f"{name} {k % 3}" for k, name in enumerate(names)]
    (folder / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")


def write_aliexpress(folder, rows=24):
    for part in ("train", "test"):
        names, labels = RANDOM.integers(5, size=(rows, 16)), np.arange(2 * rows).reshape(rows, 2) % 3 == 0
        table = np.c_[np.arange(rows), names, RANDOM.normal(size=(rows, 63)), labels]
        header = ",".join(["search_id", *(f"c{k}" for k in range(79)), "click", "conversion"])
        np.savetxt(folder / f"{part}.csv", table, "%.6g", ",", header=header, comments="")


def write_officehome(folder, classes=3):
    for style in ("Art", "Clipart", "Product", "Real World"):
        for kind in range(classes):
            place = folder / style / f"Kind{kind}"
            place.mkdir(parents=True)
            for number in range(2):
                Image.fromarray(RANDOM.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(place / f"{number}.jpg")


WRITERS = {NYUv2: write_scene, CelebA: write_celeba, AliExpress: write_aliexpress, OfficeHome: write_officehome}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(scenes, "WIDTHS", (8, 8, 16))
    monkeypatch.setattr(officehome, "CLASSES", 3)
    for kind, module in ((CelebA, celeba), (OfficeHome, officehome)):
        monkeypatch.setattr(module, "SIDE", 16)
        monkeypatch.setattr(kind, "encoder", convolutions((3, 16, 16), (4, 4), (6,)))


@pytest.mark.parametrize(
    ("kind", "architecture"), [(NYUv2, "mtan"), (CelebA, "hps"), (AliExpress, "mmoe"), (OfficeHome, "hps")]
)
def test_each_is_read_and_trained(kind, architecture, tmp_path):
    WRITERS[kind](tmp_path)
    dataset = kind(tmp_path)
    config = SupervisedConfig("any", (architecture,), ("pcgrad",), epochs=1, batch_size=2)
    splits, tasks = dataset.splits(0), dataset.tasks
    plan = plan_of(config, dataset, splits[0], 0)._replace(updates=1)
    _, joint = train_all(config, dataset, tasks, splits, plan, range(len(tasks)))
    assert all(math.isfinite(number) for values in joint.outcome.exam.metrics for number in values)
    network = ARCHITECTURES["hps"](dataset.encoder, [task.outputs for task in tasks])
    answers = network(splits[1].inputs[torch.tensor([0])])
    for task, answer, target in zip(tasks, answers, splits[1].targets, strict=True):
        assert task.loss(answer, target[torch.tensor([0])]).ndim == 0


def test_scenes_keep_their_numbers(tmp_path):
    write_scene(tmp_path, rooms=False, labels="label_7", sizes=(11, 2))
    train, test = Cityscapes(tmp_path).splits(0)
    assert (len(train.inputs), len(test.inputs)) == (11, 2)
    rows = torch.tensor([10, 2])  # 10 comes after 2: by number, not by letter
    for name, found in {"image": train.inputs, "label_7": train.targets[0], "depth": train.targets[1]}.items():
        for row, array in zip(rows.tolist(), found[rows], strict=True):
            expected = torch.from_numpy(np.load(tmp_path / "train" / name / f"{row}.npy"))
            expected = expected.movedim(2, 0).squeeze(0) if expected.ndim == 3 else expected
            torch.testing.assert_close(array, expected.to(array.dtype))
    assert found[rows].dtype == torch.float32


def test_faces_are_split_as_published_and_answers_are_yes_or_no(tmp_path):
    write_celeba(tmp_path)
    dataset = CelebA(tmp_path)
    train, test = dataset.splits(0)
    assert [task.name for task in dataset.tasks] == ["Bald", "Young"]
    assert [path.name for path in train.inputs.paths] == ["000001.jpg", "000004.jpg"]
    assert [path.name for path in test.inputs.paths] == ["000003.jpg", "000006.jpg"]
    assert [target.tolist() for target in train.targets] == [[0.0, 1.0], [1.0, 0.0]]
    assert train.inputs[torch.tensor([1])].shape == (1, 3, 16, 16)


def test_names_and_numbers_share_a_tensor_exactly():
    names, numbers = torch.tensor([[2**24 + 1, 3], [0, 1]]), torch.rand(2, 3)
    packed = Mixed.pack(names, numbers)[torch.tensor([1, 0])]
    stem = mixed((2**24 + 2, 4), 3, 1, 5).stem()
    stem.table = torch.nn.Embedding(2**24 + 6, 1)
    out = stem(packed)
    expected = stem.table(torch.tensor([[0, 2**24 + 3], [2**24 + 1, 2**24 + 5]]))[..., 0]
    assert torch.equal(out[:, :2], expected)
    assert torch.equal(out[:, 2:], numbers.flip(0))


def test_every_style_holds_out_a_fifth(tmp_path):
    write_officehome(tmp_path)
    train, test = OfficeHome(tmp_path).splits(1)
    assert (train.sizes(), test.sizes()) == ([5] * 4, [1] * 4)
    assert not {*train.inputs.paths} & {*test.inputs.paths}
    for split in (train, test):
        for style, rows in zip(("Art", "Clipart", "Product", "Real World"), split.members, strict=True):
            for row in rows.tolist():
                path = split.inputs.paths[row]
                assert path.parent.parent.name == style
                assert path.parent.name == f"Kind{split.targets[0][row]}"


# ---- metrics, by hand, in two batches
CLASSES = [[0, 0, 1], [1, -1, 2]]
SAID = [[0, 1, 1], [1, 0, 0]]  # class 3 neither said nor asked


@pytest.mark.parametrize(
    ("metric", "prediction", "target", "expected"),
    [
        (dense.MeanIoU(4), torch.eye(4)[torch.tensor(SAID)].movedim(-1, 1), CLASSES, (1 / 3 + 2 / 3 + 0) / 3),
        (dense.ABSOLUTE_ERROR, [[[1.0, 2]], [[3, 4]]], [[2.0, 0], [3, 8]], 5 / 3),
        (dense.RELATIVE_ERROR, [[[1.0, 2]], [[3, 4]]], [[2.0, 0], [3, 8]], (0.5 + 0 + 0.5) / 3),
    ],
)
def test_metrics_of_pixels(metric, prediction, target, expected):
    prediction, target = torch.as_tensor(prediction), torch.as_tensor(target)
    parts = [metric.measure(prediction[k : k + 1], target[k : k + 1]) for k in (0, 1)]
    assert metric.result(metric.join(parts)) == pytest.approx(expected)


def test_metrics_of_normals():
    degrees = torch.tensor([0.0, 10, 20, 25, 90]).double()
    radians = degrees.deg2rad()
    said = torch.stack([radians.cos(), radians.sin(), 0 * radians]).view(1, 3, 1, 5) * 7
    asked = torch.tensor([2.0, 0, 0]).double().view(1, 3, 1, 1).expand(1, 3, 1, 5).clone()
    said, asked = torch.cat([said, said[..., :1]], 3), torch.cat([asked, 0 * asked[..., :1]], 3)  # one is unknown
    expected = {"mean angle": 29.0, "median angle": 20.0, "within 11.25": 0.4, "within 22.5": 0.6, "within 30": 0.8}
    for metric in scenes.NORMAL.metrics:
        assert metric.result(metric.measure(said, asked)) == pytest.approx(expected[metric.name], abs=0.006)
    assert float(dense.direction(said, asked)) == pytest.approx(1 - float(radians.cos().mean()))


def test_unknown_pixels_weigh_nothing():
    prediction, target = torch.rand(2, 1, 4, 4), torch.zeros(2, 4, 4)
    assert float(dense.distance(prediction, target)) == 0
    target[0, 0, 0] = 3
    assert float(dense.distance(prediction, target)) == pytest.approx(abs(3 - float(prediction[0, 0, 0, 0])))


# ---- folders that are missing, damaged or foreign
def spoil(path, content=b"\x80\x04holiday"):
    path.write_bytes(content)


@pytest.mark.parametrize("kind", [NYUv2, Cityscapes, CelebA, AliExpress, OfficeHome])
def test_where_people_get_it(kind, tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match=r"expected .*(github\.com|mmlab|hemanthdv)") as error:
            kind(folder)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "val/depth/0.npy").unlink(), r"val.depth: expected files 0.npy"),
        (lambda f: (f / "train/normal/1.npy").unlink(), "expected the same files .*1.npy is odd"),
        (lambda f: spoil(f / "train/depth/1.npy"), "1.npy: expected an array of NumPy; found a damaged or foreign"),
        (lambda f: spoil(f / "train/depth/x.npy"), "x.npy among them"),
        (lambda f: spoil(f / "train/label/0.npy", (f / "train/label/0.npy").read_bytes()[:-9]), "damaged"),
        (lambda f: np.save(f / "train/label/0.npy", np.array([{}]), allow_pickle=True), "damaged or foreign"),
        (lambda f: spoil(f / "train/depth/1.npy", b"PK\x03\x04"), "1.npy: expected an array of NumPy; found a damaged"),
        (lambda f: np.save(f / "val/depth/0.npy", np.ones((16, 64, 1))), "expected 32 x 64 pixels"),
        (lambda f: np.save(f / "train/image/0.npy", np.ones(3)), "expected height x width x 3 numbers"),
        (lambda f: [path.rename(path.with_name("1.npy")) for path in f.glob("val/*/0.npy")], "found 1.npy among them"),
        (lambda f: write_scene(f, sizes=(0, 1), size=(64, 64)), r"one size .*found \[32, 64\] and \[64, 64\]"),
    ],
)
def test_bad_scenes(change, message, tmp_path):
    write_scene(tmp_path)
    change(tmp_path)
    with pytest.raises(UsageError, match=message):
        NYUv2(tmp_path)


@pytest.mark.parametrize("kind", [np.complex64, "U1", "M8[s]", [("a", "f8")]])
def test_arrays_of_other_things_than_numbers(kind, tmp_path):
    write_scene(tmp_path)
    np.save(tmp_path / "train/label/0.npy", np.zeros((32, 64), kind))
    with pytest.raises(UsageError, match="expected an array of real numbers"):
        NYUv2(tmp_path)


def test_scenes_of_other_sizes_and_classes(tmp_path):
    write_scene(tmp_path, size=(30, 64))
    with pytest.raises(UsageError, match="expected sides that 8 divides; found 30 x 64"):
        NYUv2(tmp_path)
    write_scene(tmp_path)
    train, _ = NYUv2(tmp_path).splits(0)
    for wrong in (13.0, -2.0, 0.5, np.nan):
        np.save(tmp_path / "train/label/0.npy", np.full((32, 64), wrong))
        with pytest.raises(UsageError, match="expected height x width classes from -1 to 12"):
            train.targets[0][torch.tensor([0])]
    for wrong in (np.nan, 1e300):  # the latter is no number of float32
        np.save(tmp_path / "train/image/1.npy", np.full((32, 64, 3), wrong))
        with pytest.raises(UsageError, match="expected finite numbers"):
            train.inputs[torch.tensor([1])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "img_align_celeba/000003.jpg").unlink(), "1 are missing, such as 000003.jpg"),
        (lambda f: spoil(f / "list_eval_partition.txt", b"000001.jpg 0\n"), "000002.jpg is missing"),
        (
            lambda f: spoil(f / "list_attr_celeba.txt", b"1\nBald Young\n000001.jpg 1\n"),
            "2 answers .*line 3 has others",
        ),
        (lambda f: spoil(f / "list_attr_celeba.txt", b""), "found none of one kind"),
        (lambda f: spoil(f / "list_attr_celeba.txt", b"9\nBald Young\n000001.jpg 1 1\n"), "as its first line says"),
        (lambda f: spoil(f / "list_attr_celeba.txt", b"1\nBald Bald\n000001.jpg 1 1\n"), "once; found Bald again"),
    ],
)
def test_bad_faces(change, message, tmp_path):
    write_celeba(tmp_path)
    change(tmp_path)
    with pytest.raises(UsageError, match=message):
        CelebA(tmp_path)


def test_a_damaged_picture_is_named_when_it_is_read(tmp_path):
    write_officehome(tmp_path)
    spoil(tmp_path / "Art/Kind1/0.jpg")
    train, test = OfficeHome(tmp_path).splits(0)
    with pytest.raises(UsageError, match=r"Kind1.0\.jpg: expected a picture"):
        [split.inputs[torch.arange(len(split.inputs))] for split in (train, test)]
    (tmp_path / "Product/Kind3").mkdir()
    with pytest.raises(UsageError, match="expected the same 3 folders of classes in every style; Kind3 is odd"):
        OfficeHome(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [("1,2,3", "82 columns"), ("a," * 81 + "b", "expected numbers"), ("0.5," * 81 + "1", "whole numbers from 0 to")],
)
def test_bad_offers(line, message, tmp_path):
    write_aliexpress(tmp_path)
    spoil(tmp_path / "train.csv", f"header\n{line}\n".encode())
    with pytest.raises(UsageError, match=message):
        AliExpress(tmp_path)
    spoil(tmp_path / "train.csv", f"{line}\n".encode())
    if line[0] != "a":
        with pytest.raises(UsageError, match="expected a first line with the names of the columns"):
            AliExpress(tmp_path)
    spoil(tmp_path / "train.csv", b"header\n")
    with pytest.raises(UsageError, match="expected offers; found no rows"):
        AliExpress(tmp_path)


def test_no_clicks_in_the_test_is_told_by_task(tmp_path, monkeypatch):
    write_aliexpress(tmp_path)
    table = np.loadtxt(tmp_path / "test.csv", delimiter=",", skiprows=1)
    table[:, -1] = 0
    np.savetxt(tmp_path / "test.csv", table, "%.6g", ",", header="h", comments="")
    with pytest.raises(UsageError, match="conversion cannot be judged: AUC needs rows of both classes, found only no"):
        main(f"aliexpress --data {tmp_path} --seeds 1".split())


# ---- methods on the representation, and with options
@pytest.fixture
def toy(monkeypatch):
    from scripts.studies.supervised.datasets import DATASETS
    from tests.scripts.supervised.toy import ToyOwn

    monkeypatch.setitem(DATASETS, "toy", Toy)
    monkeypatch.setitem(DATASETS, "toy-own", ToyOwn)


def test_a_table_of_options_weightings_and_representations(toy, tmp_path):
    methods = "mean,features:pcgrad,features:mocograd,uncertainty:pcgrad,dwa,mocograd@momentum=0@strength=0.3"
    flags = f"toy --architectures hps --seeds 1 --epochs 1 --aggregators {methods} --out {tmp_path}"
    assert main(flags.split()) == 0
    page = (tmp_path / "README.md").read_text()
    assert all(f"\n| {name} |" in page for name in methods.split(","))


@pytest.mark.parametrize("dataset", ["multimnist", "cifar100"])
def test_updates_are_timed_in_turns_without_data(dataset, capsys, monkeypatch):
    monkeypatch.setitem(timing.CASES, dataset, timing.CASES[dataset]._replace(rows=20))
    assert main(f"{dataset} --architectures hps --aggregators mean,pcgrad --time 1".split()) == 0
    shown = capsys.readouterr().out
    assert "An update of 20 rows" in shown
    assert "1.00" in shown
    assert ("epoch of 20,000" in shown) == (dataset == "multimnist")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("toy --time 3", "--time: expected updates to time, of multimnist or cifar100; found 3 of toy"),
        ("toy --architectures hps,mtan --aggregators features:pcgrad", "mtan has none"),
        ("toy-own --architectures hps --aggregators features:pcgrad", "rows that serve every task"),
        ("toy --aggregators features:pcgard", "unknown aggregator 'pcgard': did you mean pcgrad"),
        ("toy --aggregators mocograd@strength=-1", "strength must lie in"),
        ("toy --aggregators mean,features:", "unknown aggregator ''"),
        ("toy --aggregators gls:dwa:pcgrad", "expected one weighting"),
    ],
)
def test_methods_that_do_not_fit(toy, flags, message):
    with pytest.raises(UsageError, match=message):
        main(f"{flags} --seeds 1".split())
