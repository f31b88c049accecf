"""Runs the commands from a checkout that is not installed: ``python cli.py run image.png -o big.png``."""

from overnet.__main__ import run_program

if __name__ == "__main__":
    run_program()
