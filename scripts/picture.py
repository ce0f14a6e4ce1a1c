"""`python -m scripts.picture`: docs/conflict.png (`scripts.studies.picture`)."""

from scripts.common import command
from scripts.studies.picture import main

if __name__ == "__main__":
    command.run(main, files=True)
