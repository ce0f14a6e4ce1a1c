"""PCGrad's kernel is PCGrad: run by Triton's interpreter, compiled for CUDA devices without having one, and on one."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

import mtrl
from mtrl.aggregators import projection
from mtrl.aggregators.pcgrad_fixed import fixed_orders
from mtrl.aggregators.projection import FEW, project_conflicts, visit_by_visit
from mtrl.testing import matrix
from tests.helpers import cuda

# T, family: padding to 1, 2, 4, 16 and 64 columns; the interpreter takes seconds for T = 50
CASES = [(tasks, family) for tasks in (1, 2, 3, 10) for family in ("conflicting", "one zero row", "zero")]
CASES += [(50, "conflicting with a zero row"), (9, "not finite"), (5, "float32"), (5, "strides")]
MANY = [(FEW + 1, family) for family in ("conflicting", "one zero row", "zero", "not finite", "float32", "strides")]

INTERPRET = """
import tests.conftest  # its checkers of shapes must leave the kernel alone
from mtrl import kernels
from tests.mtrl.test_kernels import CASES, assert_equal_to_reference, problem
for case in CASES:
    for gramian, orders in problem(*case):
        assert_equal_to_reference(kernels.project_conflicts(gramian, orders), gramian, orders)
"""

COMPILE = """
import tests.conftest
import triton
from mtrl.kernels import _project
for numbers in ("*fp64", "*fp32"):
    types = dict(zip(_project.arg_names, (numbers, "*i64", numbers, *6 * ["i32"], "constexpr"), strict=True))
    for padded in (1, 16, 64):
        source = triton.compiler.ASTSource(_project, types, constexprs={"padded": padded})
        for capability in (80, 90):
            target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
            built = triton.compile(source, target=target, options={"num_warps": 1})
            assert built.asm["cubin"], "nothing to run"
            assert "fma.rn.f32" not in built.asm["ptx"] and "div.rn.f64" in built.asm["ptx"], "sums are not in float64"
"""


def problem(tasks, family):
    """Gramians and orders of one case."""
    jacobian = matrix(family if family in ("one zero row", "zero") else "conflicting", tasks, 12, seed=tasks)
    if family == "conflicting with a zero row":
        jacobian[tasks // 3] = 0
    if family == "not finite":
        jacobian[tasks // 2, 0], jacobian[0, 1] = torch.nan, torch.inf
    gramian = jacobian @ jacobian.T
    if family == "float32":
        gramian = gramian.float()
    drawn = mtrl.PCGrad(seed=tasks).draw_orders(tasks)
    if family == "strides":
        return [(gramian.repeat(2, 2)[::2, ::2], drawn.T.contiguous().T)]
    return [(gramian, drawn)] if tasks == 50 else [(gramian, drawn), (gramian, fixed_orders(tasks, gramian.device))]


def assert_equal_to_reference(found, gramian, orders):
    expected = visit_by_visit(gramian.double(), orders).to(gramian.dtype)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("case", [*CASES, *MANY], ids=str)
def test_python_and_numpy_on_the_cpu_equal_the_reference(case):
    for gramian, orders in problem(*case):
        assert_equal_to_reference(project_conflicts(gramian, orders), gramian, orders)


@pytest.mark.parametrize("tasks", [1, 2, FEW, FEW + 1])
def test_a_run_does_not_depend_on_which_of_the_two_it_is(tasks, monkeypatch):
    [(gramian, orders), *_] = problem(tasks, "one zero row")
    monkeypatch.setattr("mtrl.aggregators.projection.FEW", tasks)
    in_python = project_conflicts(gramian, orders)
    monkeypatch.setattr("mtrl.aggregators.projection.FEW", 0)
    assert torch.equal(project_conflicts(gramian, orders), in_python)


def run(script, tmp_path, **environment):
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1", **environment}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr


def test_the_interpreted_kernel_equals_the_reference(tmp_path):
    run(INTERPRET, tmp_path, TRITON_INTERPRET="1")


def test_the_kernel_compiles_for_cuda(tmp_path):
    run(COMPILE, tmp_path, TRITON_INTERPRET="0")


def test_triton_is_not_imported_before_a_cuda_tensor_comes():
    script = "import sys, torch, mtrl; mtrl.PCGrad()(torch.eye(3), torch.ones(3)); assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600)


class OnCuda(torch.Tensor):
    """A tensor on the CPU that claims to be on CUDA."""

    is_cuda = True


@pytest.fixture
def no_memory():
    projection._kernel.cache_clear()
    yield
    projection._kernel.cache_clear()


@pytest.mark.usefixtures("no_memory")
def test_without_triton_the_reference_answers_with_one_warning(monkeypatch):
    monkeypatch.setitem(sys.modules, "mtrl.kernels", None)
    ((gramian, orders), _) = problem(10, "conflicting")
    with pytest.warns(
        RuntimeWarning, match="several small kernels per task.*mtrl.kernels.*Triton comes with"
    ) as caught:
        answers = [project_conflicts(gramian.as_subclass(OnCuda), orders) for _ in range(2)]
    assert len(caught) == 1
    for answer in answers:
        assert_equal_to_reference(answer.as_subclass(torch.Tensor), gramian, orders)


def test_the_kernel_is_asked_on_cuda_and_not_where_a_derivative_is(monkeypatch):
    ((gramian, orders), _) = problem(3, "conflicting")
    sign = torch.full_like(gramian, 7.0)
    monkeypatch.setattr(projection, "_kernel", lambda device: lambda *_: sign)
    on_cuda = gramian.as_subclass(OnCuda)
    assert project_conflicts(on_cuda, orders) is sign
    assert_equal_to_reference(project_conflicts(gramian, orders), gramian, orders)
    assert project_conflicts(on_cuda.requires_grad_(), orders) is not sign


@cuda
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_kernel_on_cuda_equals_the_reference(case):
    assert importlib.util.find_spec("triton"), "torch for CUDA on Linux brings Triton"
    for gramian, orders in problem(*case):
        assert projection._kernel(gramian.cuda().device) is not None
        assert_equal_to_reference(project_conflicts(gramian.cuda(), orders.cuda()).cpu(), gramian, orders)


@cuda
@pytest.mark.parametrize("name", ["pcgrad", "pcgrad-direction", "pcgrad-magnitude", "pcgrad-fixed"])
def test_every_method_with_this_recursion_takes_the_kernel(name, monkeypatch):
    def refuse(*args):
        raise AssertionError("visit by visit")

    monkeypatch.setattr(projection, "visit_by_visit", refuse)
    rows = matrix("conflicting", 10, 12, seed=0).cuda()
    assert mtrl.make_aggregator(name).to("cuda")(rows, torch.ones(10, device="cuda")).isfinite().all()
