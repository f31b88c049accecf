"""Run the command ``overnet`` as ``python -m overnet``, which ``torchrun -m overnet train`` needs."""

from overnet.cli import run_program

if __name__ == "__main__":
    run_program()
