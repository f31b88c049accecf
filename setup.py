"""Name the packages: their folders lie side by side in a checkout, and inside ``overnet`` once installed."""

from setuptools import find_packages, setup

FOLDERS = {
    "overnet": "overnet",
    "overnet.benchmarks": "benchmarks",
    "overnet.export": "export",
    "overnet.runtime": "runtime",
}

setup(
    package_dir=FOLDERS,
    packages=[
        package
        for name, folder in FOLDERS.items()
        for package in (name, *(f"{name}.{inner}" for inner in sorted(find_packages(folder))))
    ],
)
