"""QM9: eleven properties of small organic molecules (Ramakrishnan et al. 2014)."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scripts.common.usage import UsageError
from scripts.studies.supervised.contracts import Dataset, Split, Task
from scripts.studies.supervised.encoders import perceptron
from scripts.studies.supervised.fetching import Member, Package
from scripts.studies.supervised.losses import squared
from scripts.studies.supervised.metrics import mean_absolute
from scripts.studies.supervised.reading import first_of, is_finite

PARTS = ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv")
EVERY = 10  # of the molecules: one in so many is read
ATOMS = 29  # at most
CHARGES = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
BOHR = 0.529177  # Angstrom
HARTREE = 27.2114  # eV
TARGETS = {  # task: column, and its unit in the one that is published
    "mu": ("Dipole_debye", 1.0),
    "alpha": ("Polarizability_bohr3", 1.0),
    "homo": ("HOMO_au", HARTREE),
    "lumo": ("LUMO_au", HARTREE),
    "r2": ("R2_bohr2", 1.0),
    "zpve": ("ZPVE_au", HARTREE),
    "u0": ("InternalEnergy_0K_au", HARTREE),
    "u": ("InternalEnergy_298K_au", HARTREE),
    "h": ("Enthalphy_298K_au", HARTREE),
    "g": ("GibbsFreeEnergy_298K_au", HARTREE),
    "cv": ("Heatcapacity_Cv_cal_mol_K", 1.0),
}
TEST_SHARE = 1 / 5


class QM9(Dataset):
    """One molecule in ten; MAE in the published units (D, bohr^3, eV, bohr^2, cal/mol K), targets standardised.

    Deviation from LibMTL's setting: a molecule is its sorted Coulomb eigenvalues (Rupp et al. 2012) and how many atoms
    of each element it has, 34 numbers for a perceptron, and no graph: indifferent to rotation and to the atoms' order.
    Energies are totals, as in the files.
    """

    title = "QM9: eleven properties of a molecule as tasks"
    needs = f"{', '.join(PARTS)} (--fetch gets them)"
    package = Package(
        "qm9pack==1.0.3",
        104,
        "MIT, by the first author of QM9",
        (
            Member("qm9pack/data/qm9_part1.csv", "19f0a5d595462d52cd82eef3370f3e9eb55a1f52cb14985657200349568deff3"),
            Member("qm9pack/data/qm9_part2.csv", "2bca113fdc0b28a13563c80ed9b240e934f3da6c64c64fe74ddb4f0f36036e61"),
            Member("qm9pack/data/qm9_part3.csv", "9c5efb5733d2af149db8d95d36ff198b4ffed12d9f7b344220a1e5877d5c6a43"),
        ),
    )
    epochs, batch_size, learning_rate = 20, 128, 1e-3
    encoder = perceptron(ATOMS + len(CHARGES), 128, 128)

    def __init__(self, folder: Path) -> None:
        rows = [row for name in PARTS for row in _molecules(first_of(folder, [name], self.needs))]
        if len(rows) < 5:
            raise UsageError(f"{folder}: expected molecules; found {len(rows)}, of which one in {EVERY} is read.")
        features, targets = (np.array(part, np.float64) for part in zip(*rows, strict=True))
        self.features = torch.from_numpy(_scaled(features)).float()
        self.spread = targets.std(0) + 1e-12
        self.targets = torch.from_numpy((targets - targets.mean(0)) / self.spread).float()
        self.tasks = tuple(
            Task(name, 1, squared, (mean_absolute(float(unit * spread)),))
            for (name, (_, unit)), spread in zip(TARGETS.items(), self.spread, strict=True)
        )

    def splits(self, seed: int) -> tuple[Split, Split]:
        """Four fifths of the molecules to train on, by seed."""
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(self.features)))
        count = round(TEST_SHARE * len(order))
        return self._split(order[count:]), self._split(order[:count])

    def _split(self, rows: Tensor) -> Split:
        return Split(self.features[rows], tuple(self.targets[rows].T.contiguous()))


def fingerprint(elements: list[str], places: np.ndarray) -> np.ndarray:
    """Return the Coulomb matrix' sorted eigenvalues, filled up with zeros, and how many atoms each element has.

    :param places: (atoms, 3) in Angstrom.
    """
    charges = np.array([CHARGES[element] for element in elements], np.float64)
    distances = np.linalg.norm(places[:, None] - places, axis=2) / BOHR
    np.fill_diagonal(distances, 1)
    matrix = charges[:, None] * charges / distances
    np.fill_diagonal(matrix, 0.5 * charges**2.4)
    values = np.zeros(ATOMS)
    values[: len(charges)] = np.sort(np.linalg.eigvalsh(matrix))[::-1]
    return np.concatenate([values, [(charges == charge).sum() for charge in CHARGES.values()]])


def _molecules(path: Path) -> list[tuple[np.ndarray, list[float]]]:
    """Every tenth line of a table: what the molecule is, and its targets."""
    with path.open(newline="", errors="replace") as file:
        lines = csv.reader(file)
        try:
            header = next(lines, [])
        except csv.Error:
            header = []
        wanted = ["Elements", "XYZ_Ang", *(column for column, _ in TARGETS.values())]
        if missing := [column for column in wanted if column not in header]:
            raise UsageError(f"{path}: expected the columns of qm9pack; {', '.join(missing)} are missing.")
        places = [header.index(column) for column in wanted]
        try:
            return [_molecule([line[place] for place in places]) for k, line in enumerate(lines) if k % EVERY == 0]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError, csv.Error) as error:
            raise UsageError(f"{path}: expected molecules of H, C, N, O, F with places and properties; the file is cut "
                             f"off or another one ({error}).") from error  # fmt: skip


def _molecule(cells: list[str]) -> tuple[np.ndarray, list[float]]:
    elements, places = json.loads(cells[0].replace("'", '"')), np.array(json.loads(cells[1]))
    if places.shape != (len(elements), 3):
        raise ValueError(f"{len(elements)} atoms and places {places.shape}")
    features, targets = fingerprint(elements, places), [float(cell) for cell in cells[2:]]
    if not is_finite(np.array([*features, *targets])):
        raise ValueError("a number that is not finite")
    return features, targets


def _scaled(features: np.ndarray) -> np.ndarray:
    return (features - features.mean(0)) / (features.std(0) + 1e-6)
