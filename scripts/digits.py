"""`python -m scripts.digits`: two overlaid digits as two tasks (`scripts.studies.digits`)."""

from scripts.common import command
from scripts.studies.digits.command import main

if __name__ == "__main__":
    command.run(main)
