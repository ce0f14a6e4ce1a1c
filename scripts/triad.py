"""`python -m scripts.triad`: the tragic triad at the start of training (`scripts.studies.triad`)."""

from scripts.common import command
from scripts.studies.triad import main

if __name__ == "__main__":
    command.run(main)
