"""Small dense problems of T tasks: the min-norm point, conflict aversion, bargaining, dual cone, eigenvalues.

Pure functions in float64 with a fixed number of steps and no branch on a value, so nothing waits for the device. A
solver returns its answer with a measured residual: the caller decides what is accurate enough. Non-finite input gives
NaN.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from mtrl.diagnostics import cosine_matrix, gradient_norms

TINY = 1e-300  # keeps quotients of exact zeros finite; far below any square of a float32
FLOAT32 = 1e-6  # squared lengths below this share of the longest can be rounding of a Gramian in float32
RANK = 1e-10  # eigenvalues of the cosine matrix below this share of the largest are zero
RIDGE = 1e-15  # on cosines, whose diagonal is 1: what rounding in float64 adds anyway


def min_norm_weights(
    gramian: Float64[Tensor, "tasks tasks"], steps: int = 30
) -> tuple[Float64[Tensor, " tasks"], Float64[Tensor, ""]]:
    """Weights w of the shortest convex combination of the gradients: minimise w' G w over the simplex.

    A primal-dual interior-point method. The residual is the duality gap w' G w - min_i (G w)_i over the largest
    |g_i|^2; it bounds w' G w / 2 minus its minimum. Below 1e-10 on all families of `mtrl.testing` up to T = 50.
    """
    unit = gramian / gramian.diagonal().amax().clamp(min=TINY)
    w, s, level = _centre(torch.zeros_like(unit[0]), unit)
    for _ in range(steps):
        w, s, level, _ = _interior_step(unit, unit @ w, w, s, level, centring=0.05, reach=0.95, arrived=1e-17)
    w = w / w.sum()
    slope = unit @ w
    return _poisoned(w, gramian), w @ slope - slope.amin()


def conflict_averse_weights(
    gramian: Float64[Tensor, "tasks tasks"], c: float, steps: int = 40
) -> tuple[Float64[Tensor, " tasks"], Float64[Tensor, ""]]:
    """Weights v of the step J^T v that, added to the mean gradient g0, helps the worst-off task most.

    max over |r| <= c |g0| of min_i g_i . (g0 + r) has the dual: min over the simplex of F(w) = g_w . g0 + c |g0| |g_w|,
    with r = J^T v and v = c |g0| w / |g_w|. An interior-point method in w and v: the norm is smoothed by as much as is
    still missing, and v is a separate variable (Andersen et al. 2000, on sums of norms), so that a vanishing g_w does
    no harm. The residual is F(w) minus what v guarantees to each task, over the scale of F: no step is better by more.
    Below 1e-8 on all families of `mtrl.testing` up to T = 50. Where |g0| is below 1e-3 of the longest gradient, it
    can be the rounding of a Gramian in float32, and the ball around it is as small: v is 0.
    """
    unit = gramian / gramian.diagonal().amax().clamp(min=TINY)
    slope = unit.mean(1)
    radius = c * torch.where(slope.mean() > FLOAT32, slope.mean(), 0.0).sqrt()
    scale = torch.maximum(slope.abs().amax(), radius).clamp(min=torch.finfo(unit.dtype).eps)
    slope, radius = slope / scale, radius / scale
    w, s, level = _centre(slope, unit)
    v = torch.zeros_like(w)
    for _ in range(steps):
        toward, beside = unit @ w, unit @ v
        length = (w @ toward + (2 * (w @ s) / len(w)).square()).clamp(min=TINY).sqrt()
        bend = beside[:, None] * toward / length.square()
        hessian = radius / length * unit - (bend + bend.T) / 2
        before = w
        w, s, level, share = _interior_step(
            hessian, slope + radius / length * toward, w, s, level, centring=0.1, reach=0.7, arrived=1e-13
        )
        # v |g_w| = radius w, linearised at the old w; then back into the ball that the step may have left
        turn = radius * (share * before + w - before) - v * (share * length + toward @ (w - before) / length)
        v = v + turn / length
        v = v * (radius / (v @ unit @ v).clamp(min=TINY).sqrt()).clamp(max=1)
    w = w / w.sum()
    most = slope @ w + radius * (w @ unit @ w).clamp(min=0).sqrt()
    v = torch.where(radius > 0, v, 0.0)
    return _poisoned(v * scale, gramian), torch.where(radius > 0, most - (slope + unit @ v).amin(), 0.0)


def bargaining_weights(
    gramian: Float64[Tensor, "tasks tasks"], alpha: float = 1.0, steps: int = 40
) -> tuple[Float64[Tensor, " tasks"], Float64[Tensor, ""]]:
    """Positive weights a with (G a)_i = a_i^(-1 / alpha): the smaller a task's gain, the larger its weight.

    Minimises a' G a / 2 - sum_i f(a_i) with f' = a^(-1 / alpha), convex for every alpha > 0; log a for 1. Newton's
    method on the unit gradients (x_i = a_i |g_i|, a ridge of 1e-15), to which the tasks' scales are irrelevant if alpha
    = 1; the length of each step is the best of a fixed grid. The residual is the largest |a_i^(1 / alpha) (G a)_i - 1|,
    below 1e-8 up to T = 50 unless the hull of the unit gradients comes within 3e-4 of 0, where rounding allows no more.
    Where it holds 0 there is no solution: then the residual is large, and the weights are those of the ridge. A zero
    gradient gets weight 0 and does not count.
    """
    norms = gradient_norms(gramian)
    cosines = cosine_matrix(gramian)
    cosines.diagonal().fill_(1.0)  # a zero gradient is left to itself
    eye = torch.eye(len(norms), dtype=norms.dtype, device=norms.device)
    ridged = cosines + RIDGE * eye
    grid = 2.0 ** torch.arange(-12, 13, dtype=norms.dtype, device=norms.device)[:, None]
    alive, power, longest = norms > 0, 1 - 1 / alpha, norms.amax().clamp(min=TINY)
    pull = torch.where(alive, norms / longest, 1.0) ** -power  # C x = pull x^(-1 / alpha), on gradients of length 1
    x = cosines.abs().sum(1).rsqrt() * pull ** (alpha / (1 + alpha))
    for _ in range(steps):
        want = pull * x**power  # what x (C x) must become
        factor = torch.linalg.cholesky_ex(x[:, None] * ridged * x + (want / alpha).diag())[0]
        relative = torch.cholesky_solve((want - x * (ridged @ x))[:, None], factor)[:, 0]
        dx = x * relative
        # up to the largest step that keeps x positive; and Newton's own, 1, which doubles the digits in the end
        lengths = torch.cat([grid.new_ones(1, 1), grid * (0.95 / (-relative).amax().clamp(min=1e-6)).clamp(max=1)])
        rates = lengths * relative
        growth = rates.log1p() if power == 0 else (power * rates.log1p()).expm1() / power
        change = lengths[:, 0] * (dx @ ridged @ x + lengths[:, 0] * (dx @ ridged @ dx) / 2) - (growth * want).sum(1)
        best = torch.where(rates.amin(1) > -0.99, change, torch.inf).argmin()
        x_new = x + lengths.take(best) * dx
        x = torch.where(x_new.isfinite().all(), x_new, x).clamp(max=1e8)
    residual = torch.where(alive, (x ** (1 - power) * (cosines @ x) / pull - 1).abs(), 0.0).amax()
    weights = x / norms.clamp(min=TINY) * longest ** (-power / (2 - power))
    return _poisoned(torch.where(alive, weights, 0.0), gramian), residual


def dual_cone_weights(
    gramian: Float64[Tensor, "tasks tasks"], steps: int = 22
) -> tuple[Float64[Tensor, "tasks tasks"], Float64[Tensor, ""]]:
    """Row i: weights v of J^T v, the point nearest to g_i that conflicts with no task.

    The nearest point of the cone {d: J d >= 0} is J^T v for the v >= e_i with the smallest v' G v. Solved for v = e_i +
    u on the unit gradients, so that no task's length matters, by a primal-dual interior-point method in u and the gains
    s of all T problems at once. The residual is the largest u . s or negative gain, on unit gradients: below 1e-8 on
    all families of `mtrl.testing` up to T = 50. A zero gradient gets weight 0 and does not count.
    """
    norms = gradient_norms(gramian)
    cosines = cosine_matrix(gramian)
    cosines.diagonal().fill_(1.0)  # a zero gradient is left to itself
    eye = torch.eye(len(norms), dtype=norms.dtype, device=norms.device)
    u, s = torch.ones_like(cosines), torch.ones_like(cosines)
    for _ in range(steps):
        mu = (u * s).mean(1, keepdim=True)
        weight = (u / s).sqrt()
        factor = torch.linalg.cholesky_ex(weight[:, :, None] * cosines * weight[:, None, :] + eye)[0]
        sides = weight * (0.1 * mu / u - (eye + u) @ cosines)
        # in two halves, as cholesky_solve of many at once cannot be captured on CUDA
        half = torch.linalg.solve_triangular(factor, sides[:, :, None], upper=False)
        du = weight * torch.linalg.solve_triangular(factor.mT, half, upper=True)[:, :, 0]
        ds = (0.1 * mu - s * du) / u - s
        share = (0.95 / torch.maximum(-du / u, -ds / s).amax(1, keepdim=True).clamp(min=0.95)).clamp(max=1)
        u_new, s_new = u + share * du, s + share * ds
        # once arrived, rounding would throw the point back
        going = (mu > 1e-16) & (u_new + s_new).isfinite().all(1, keepdim=True)
        u, s = torch.where(going, u_new, u), torch.where(going, s_new, s)
    gains = (eye + u) @ cosines
    residual = torch.maximum((u * gains).sum(1).abs().amax(), -gains.amin())
    per_length = torch.where(norms > 0, 1 / norms.clamp(min=TINY), 0.0)
    return _poisoned(norms[:, None] * (eye + u) * per_length, gramian), residual


def project_on_simplex(point: Float64[Tensor, " tasks"]) -> Float64[Tensor, " tasks"]:
    """Nearest point with non-negative entries of sum 1 (Held, Wolfe and Crowder 1974)."""
    falling = point.sort(descending=True).values
    levels = (falling.cumsum(0) - 1) / torch.arange(1, len(point) + 1, dtype=point.dtype, device=point.device)
    return (point - torch.where(falling > levels, levels, -torch.inf).amax()).clamp(min=0)


def impartial_weights(
    gramian: Float64[Tensor, "tasks tasks"],
) -> tuple[Float64[Tensor, " tasks"], Float64[Tensor, " tasks"]]:
    """Weights y of the unit gradients u, with the same product with each of them: (u u') y = 1; and these products.

    u u' is inverted on its range, so dependent gradients get the nearest thing to equal products. A zero gradient has
    no direction: its weight and its product are 0.
    """
    alive = gradient_norms(gramian) > 0
    cosines = cosine_matrix(gramian)
    values, vectors = eigh(cosines)
    inverse = torch.where(values > RANK * values.amax(), 1 / values, 0.0 * values)
    y = vectors @ (inverse * (vectors.T @ alive.to(values.dtype)))
    return y, cosines @ y


def eigh(matrix: Float64[Tensor, "tasks tasks"]) -> tuple[Float64[Tensor, " tasks"], Float64[Tensor, "tasks tasks"]]:
    """Eigenvalues, in no particular order, and eigenvectors (columns) of a symmetric matrix, to rounding.

    LAPACK on the CPU; Jacobi's rotations elsewhere, because the library routines for devices wait for the result.
    """
    safe = torch.where(matrix.isfinite().all(), matrix, 0.0)  # LAPACK raises on NaN
    values, vectors = torch.linalg.eigh(safe) if matrix.device.type == "cpu" else jacobi_eigh(safe)
    return _poisoned(values, matrix), vectors


def jacobi_eigh(
    matrix: Float64[Tensor, "tasks tasks"], sweeps: int = 12
) -> tuple[Float64[Tensor, " tasks"], Float64[Tensor, "tasks tasks"]]:
    """Eigenvalues and eigenvectors by Jacobi's method: T/2 disjoint pairs are rotated at once, all pairs in a sweep."""
    size, even = len(matrix), len(matrix) + len(matrix) % 2
    a = torch.nn.functional.pad(matrix, (0, even - size, 0, even - size))  # a row of zeros is never rotated
    vectors = torch.eye(even, dtype=a.dtype, device=a.device)
    seats = torch.arange(even, device=a.device)
    for _ in range(sweeps * max(1, even - 1)):
        p, q = seats[: even // 2], seats[even // 2 :].flip(0)
        off, difference = a[p, q], a[q, q] - a[p, p]
        turning = off.abs() > TINY
        ratio = difference / torch.where(turning, 2 * off, 1.0)
        tangent = torch.where(turning, torch.copysign(1 / (ratio.abs() + (1 + ratio.square()).sqrt()), ratio), 0.0)
        cos = (1 + tangent.square()).rsqrt()
        rotation = torch.eye(even, dtype=a.dtype, device=a.device)
        rotation[p, p], rotation[q, q] = cos, cos
        rotation[p, q], rotation[q, p] = tangent * cos, -tangent * cos
        a, vectors = rotation.T @ a @ rotation, vectors @ rotation
        seats = torch.cat([seats[:1], seats[1:].roll(1)])  # a round robin: everyone meets everyone
    return a.diagonal()[:size], vectors[:size, :size]


def _centre(slope: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the centre w of the simplex, slacks s = gradient - level > 0, and the level below all slopes."""
    w = torch.full_like(slope, 1 / len(slope))
    gradient = slope + hessian @ w
    level = gradient.amin() - 1.0
    return w, gradient - level, level


def _interior_step(
    hessian: Tensor,
    gradient: Tensor,
    w: Tensor,
    s: Tensor,
    level: Tensor,
    centring: float,
    reach: float,
    arrived: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step towards  gradient = level + s,  sum w = 1,  w s = centring times its mean now,  w and s positive.

    :param reach: share of the way to the boundary that may be taken.
    :param arrived: mean of w s below which nothing moves any more: rounding would throw the point back.
    :returns: the new w, s and level, and the share of the full step; unchanged, and 0, once arrived.
    """
    mu = w @ s / len(w)
    weight = (w / s).sqrt()
    kernel = weight[:, None] * hessian * weight
    kernel.diagonal().add_(1.0)
    sides = torch.stack([weight * (level + centring * mu / w - gradient), weight], dim=1)
    free, along = (torch.cholesky_solve(sides, torch.linalg.cholesky_ex(kernel)[0]) * weight[:, None]).unbind(1)
    d_level = (1 - w.sum() - free.sum()) / along.sum()
    dw = free + d_level * along
    ds = (centring * mu - s * dw) / w - s
    share = (reach / torch.maximum(-dw / w, -ds / s).amax().clamp(min=reach)).clamp(max=1)
    w_new, s_new = w + share * dw, s + share * ds
    share = torch.where((mu > arrived) & (w_new + s_new).isfinite().all() & level.isfinite(), share, 0.0)
    going = share > 0
    return (
        torch.where(going, w_new, w),
        torch.where(going, s_new, s),
        torch.where(going, level + share * d_level, level),
        share,
    )


def _poisoned(answer: Tensor, gramian: Tensor) -> Tensor:
    """NaN instead of an answer to a question with NaN or infinity in it."""
    return torch.where(gramian.isfinite().all(), answer, torch.nan)
