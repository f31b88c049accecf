"""``python -m overnet``, as ``torchrun -m overnet train`` starts it: the same as ``overnet``."""

from overnet.cli import run_program

if __name__ == "__main__":
    run_program()
