"""IMTL-L: bring all losses to one size by learned scales."""

from typing import ClassVar

from mtrl.aggregators.uncertainty import Uncertainty


class IMTLL(Uncertainty):
    """Scale each loss by a learned factor, so that all come to the same size.

    Liu et al. 2021, "Towards Impartial Multi-task Learning", Section 3.2: sum_i (exp(s_i) L_i - s_i) is minimised over
    the s_i as well. That is twice the objective of `uncertainty` with the sign of s_i turned, so with weights of sum 1
    the two are one method; only their papers differ.

    Use it when a comparison asks for it by this name.

    Losses must not be negative.

    :param reduction: "sum" is T times as long.
    :param rate: largest step of a factor's logarithm, above 0.
    """

    capturable: ClassVar[bool] = True
