"""Supervised multi-task learning on published data sets: `python -m scripts.supervised`.

Three contracts, and everything else follows: a `Dataset` (contracts.py) says what is learned from which files, an
`Architecture` (architectures.py) how its tasks share a network, a `Metric` (metrics.py) what an answer is worth.
"""
