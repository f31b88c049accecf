"""Name the packages: their folders lie side by side in a checkout, and inside ``overnet`` once installed."""

import gzip
import os
import tarfile
import zipfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.sdist import sdist

FOLDERS = {
    "overnet": "overnet",
    "overnet.benchmarks": "benchmarks",
    "overnet.export": "export",
    "overnet.runtime": "runtime",
}


class ReproducibleSdist(sdist):
    """An sdist whose bytes depend on its files' contents alone where SOURCE_DATE_EPOCH is set.

    Setuptools does that for wheels only: an sdist of its own has the files' times, owners and permissions, and the time
    of the build. A wheel takes its files' permissions from the sdist that it is built from.
    """

    def make_archive(
        self,
        base_name: str,
        format: str,
        root_dir: str | None = None,
        base_dir: str | None = None,
        owner: str | None = None,
        group: str | None = None,
    ) -> str:
        """Write `base_dir` as the archive `base_name`, and return the archive's name."""
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if epoch is None or format != "gztar" or base_dir is None:
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)

        def neutral(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.mtime, member.uid, member.gid, member.uname, member.gname = int(epoch), 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            return member

        path = Path(f"{base_name}.tar.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            path.open("wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=int(epoch)) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for each in sorted([Path(base_dir), *Path(base_dir).rglob("*")]):
                archive.add(each, recursive=False, filter=neutral)
        return str(path)


class SmallWheel(bdist_wheel):
    """A wheel whose files are compressed as far as the format can, which saves 60 kB."""

    def run(self) -> None:
        """Build the wheel, and compress it anew: setuptools has no option for that."""
        super().run()
        path = Path(self.distribution.dist_files[-1][2])
        smaller = path.with_suffix(".tmp")
        with zipfile.ZipFile(path) as built, zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as archive:
            for member in built.infolist():
                archive.writestr(member, built.read(member), compresslevel=9)
        smaller.replace(path)


setup(
    package_dir=FOLDERS,
    packages=[
        package
        for name, folder in FOLDERS.items()
        for package in (name, *(f"{name}.{inner}" for inner in sorted(find_packages(folder))))
    ],
    cmdclass={"sdist": ReproducibleSdist, "bdist_wheel": SmallWheel},
)
