"""Jacobians for hypothesis, of the families of `mtrl.testing`."""

from hypothesis import strategies as st

from mtrl.testing import matrix

FAMILIES = [
    "random", "aligned", "conflicting", "opposite", "duplicates", "low rank", "balanced", "one zero row", "zero",
]  # fmt: skip
jacobians = st.builds(matrix, st.sampled_from(FAMILIES), st.integers(1, 12), st.integers(2, 20), st.integers(0, 2**31))
