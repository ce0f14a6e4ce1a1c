"""The data sets, one file each."""

from scripts.studies.supervised.contracts import Dataset
from scripts.studies.supervised.datasets.aliexpress import AliExpress
from scripts.studies.supervised.datasets.celeba import CelebA
from scripts.studies.supervised.datasets.cifar100 import Cifar100
from scripts.studies.supervised.datasets.digits import Digits
from scripts.studies.supervised.datasets.movielens import MovieLens
from scripts.studies.supervised.datasets.multimnist import MultiMNIST
from scripts.studies.supervised.datasets.officehome import OfficeHome
from scripts.studies.supervised.datasets.qm9 import QM9
from scripts.studies.supervised.datasets.scenes import Cityscapes, NYUv2
from scripts.studies.supervised.datasets.yeast import Yeast

DATASETS: dict[str, type[Dataset]] = {
    "digits": Digits,
    "multimnist": MultiMNIST,
    "yeast": Yeast,
    "movielens": MovieLens,
    "qm9": QM9,
    "cifar100": Cifar100,
    "nyuv2": NYUv2,
    "cityscapes": Cityscapes,
    "celeba": CelebA,
    "aliexpress": AliExpress,
    "officehome": OfficeHome,
}
