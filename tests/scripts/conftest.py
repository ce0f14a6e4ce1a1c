"""Pictures that a test has drawn are closed after it."""

import matplotlib.pyplot as plt
import pytest


@pytest.fixture(autouse=True)
def figures_are_closed():
    yield
    plt.close("all")
