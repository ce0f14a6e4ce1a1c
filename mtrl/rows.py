"""The gradients of T tasks, a piece per parameter, and their products: right for any precision and size."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mtrl.precision import float32_products

HALF = (torch.float16, torch.bfloat16)

# Of a piece at a time; the error of a product in float32 grows with its length. On a device, pieces of a thousandth of
# the gradients would keep but a few of its processors busy.
COLUMNS, COLUMNS_ON_DEVICE = 2**13, 2**9

# Squared lengths that float32 holds to the last digit, rounding of its smallest numbers and overflow of sums included.
ORDINARY = (1e-26, 1e36)


class Rows(NamedTuple):
    """The Jacobian in pieces, one (T, *shape) per parameter, never put together unless a method needs it."""

    pieces: list[Tensor]
    scale: float = 1.0  # the true rows are this many times the pieces: kept apart, so that no large tensor is rescaled
    sizes: Tensor | None = None  # (T, 1), float64: and each row by its own power of two, where float32 is too narrow

    @float32_products(tf32=False)
    def measured(self, apart: bool = False) -> tuple[Float64[Tensor, "*pieces tasks tasks"], "Rows"]:
        """Gramian G = J J^T, and the rows in the form in which they could be multiplied: combine those.

        With `apart` one Gramian for each piece.

        Gradients longer than 1e18 or shorter than 1e-13 are brought to length 1 before; not on devices, where a look at
        the lengths would make the program wait: there they must lie between 1e-13 and 1e18.

        :raises TypeError: for gradients of complex numbers.
        """
        flat = self.flat()
        if any(piece.is_complex() for piece in flat):
            raise TypeError("expected real parameters, found complex ones; keep them as torch.view_as_real gives them")
        each = torch.stack([_products([piece]) for piece in flat]) if apart else _products(flat)[None]
        products = each.sum(0)
        if self.sizes is None and not _are_ordinary(products):
            return self._resized().measured(apart)
        gramian = (each if apart else products) * self.scale**2
        return gramian if self.sizes is None else gramian * self.sizes * self.sizes.mT, self

    @float32_products(tf32=False)
    def combine(self, weights: Float[Tensor, "*pieces tasks"]) -> list[Tensor]:
        """Update w @ J, piece by piece, at least in float32; weights (pieces, T) are those of each piece."""
        weights = weights * self.scale if self.sizes is None else weights * self.scale * self.sizes[:, 0]
        each = weights.expand(len(self.pieces), -1)
        return self.shaped([own.to(flat.dtype) @ flat for own, flat in zip(each, self.flat(), strict=True)])

    def jacobian(self) -> Float[Tensor, "tasks params"]:
        """One matrix, at least in float32."""
        return torch.cat(self.flat(), dim=1) * self.scale

    def flat(self) -> list[Tensor]:
        """Return the pieces as matrices (T, numbers of the parameter), at least in float32."""
        return [widened(piece.reshape(len(piece), -1)) for piece in self.pieces]

    def shaped(self, updates: Iterable[Tensor]) -> list[Tensor]:
        """Flat updates in the shapes of the parameters."""
        return [update.view(piece.shape[1:]) for update, piece in zip(updates, self.pieces, strict=True)]

    def _resized(self) -> "Rows":
        """Return the same rows, each divided by the power of two above its largest entry."""
        flat = self.flat()
        tallest = [piece.abs().amax(1).double() for piece in flat if piece.numel()]
        largest = torch.stack([flat[0].new_zeros(len(flat[0]), dtype=torch.float64), *tallest]).amax(0)
        usable = (largest > 0) & largest.isfinite()
        sizes = torch.where(usable, largest / largest.frexp().mantissa, 1.0)[:, None]
        resized = [(piece / sizes).to(piece.dtype) for piece in flat]
        return Rows([new.view(old.shape) for new, old in zip(resized, self.pieces, strict=True)], self.scale, sizes)


def widened(tensor: Tensor) -> Tensor:
    """In float32, if it was in half of that: nothing is summed or multiplied in half precision."""
    return tensor.float() if tensor.dtype in HALF else tensor


def _products(pieces: list[Tensor]) -> Float64[Tensor, "tasks tasks"]:
    """J J^T: products in the precision of J over `COLUMNS` at a time, summed in float64.

    In float32 the relative error is a few 1e-7 of |g_i| |g_j|, and the time is that of one product. What is left of
    all pieces is put together, as most of them are short and each call costs as much as their products.
    """
    products, rests = [], []
    for flat in pieces:
        parts, rest = _parts(flat)
        products += [parts @ parts.mT] if len(parts) else []
        rests += [rest] if rest.shape[1] else []
    if rests:
        parts, rest = _parts(torch.cat(rests, 1) if len(rests) > 1 else rests[0])
        products += [parts @ parts.mT, (rest @ rest.T)[None]]
    if not products:
        return pieces[0].new_zeros(2 * [len(pieces[0])], dtype=torch.float64)
    return torch.cat(products).double().sum(0)


def _parts(flat: Float[Tensor, "tasks params"]) -> tuple[Tensor, Tensor]:
    """Split a piece into (pieces, T, columns), a view, and what is left of it."""
    length = COLUMNS if flat.device.type == "cpu" else COLUMNS_ON_DEVICE
    whole = flat.shape[1] // length
    parts = flat[:, : whole * length].unflatten(1, (whole, length)).transpose(0, 1)
    return parts, flat[:, whole * length :]


def _are_ordinary(products: Tensor) -> bool:
    if products.device.type != "cpu":
        return True
    squares = products.detach().diagonal().numpy()
    return bool(((squares > ORDINARY[0]) & (squares < ORDINARY[1])).all())
