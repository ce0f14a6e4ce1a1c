"""`python -m scripts.supervised`: gradient methods on supervised tasks (`scripts.studies.supervised`)."""

from scripts.common import command
from scripts.studies.supervised.command import main

if __name__ == "__main__":
    command.run(main)
