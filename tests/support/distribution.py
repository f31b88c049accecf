"""Builds the source distribution and the wheel from a copy of what git tracks."""

import os
import shutil
import subprocess
import sys

from tests.conftest import ROOT


def files_in_git():
    """List what git tracks and what is new and not ignored, so that nothing lying about gets into a copy."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    return [name for name in listed.stdout.decode().splitlines() if (ROOT / name).is_file()]


def build_copy(folder, *, permissions=0o777, seconds=1_700_000_000):
    """Copy the sources with these permissions and times, build both files, and return them: the sdist and the wheel."""
    for name in files_in_git():
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
        target.chmod((target.stat().st_mode | 0o600) & permissions)
        os.utime(target, (seconds, seconds))
    command = [sys.executable, "-m", "build", "--outdir", folder / "dist", folder / "source"]
    environment = {**os.environ, "PYTHONPATH": "", "SOURCE_DATE_EPOCH": "1764288000"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return files_of(folder)


def files_of(folder):
    """Return the files that `build_copy` built: the sdist and the wheel."""
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    assert len(list((folder / "dist").iterdir())) == 2
    return sdist, wheel
