"""`python -m scripts.toy2d`: Figure 1 of the PCGrad paper (`scripts.studies.toy2d`)."""

from scripts.common import command
from scripts.studies.toy2d import main

if __name__ == "__main__":
    command.run(main)
