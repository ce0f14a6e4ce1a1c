"""`python -m scripts.picture`: docs/conflict.png (`scripts.studies.picture`)."""

from scripts.common import command
from scripts.studies import picture

if __name__ == "__main__":
    command.run(picture.main, files=True)
