"""A compiled update is the eager one to rounding; a run with compiled updates is one run, however often it resumes.

Most tests run the traced graphs as they are, which takes no compiler; one compiles.
"""

import copy
import shutil
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._inductor import config

import envs.toy
import mtrl
from agents import load_checkpoint, save_checkpoint
from agents.device import compiled, faster
from tests import traced_graphs
from tests.helpers import EVERYTHING, SMALL, assert_same_tensors, cuda, tensors, toy_agent
from tests.traced_graphs import TracedGraphs, eagerly, state_of

SETTINGS = {**traced_graphs.SETTINGS, "log_conflicts": 0}  # the curvature is noise in float32
STEPS = 30


@pytest.fixture
def traced(monkeypatch):
    """Graphs are traced and run by torch's interpreter of them; the list of them."""
    graphs = []
    monkeypatch.setattr(compiled, "compiled", lambda graph, inputs: graphs.append(graph) or graph)
    return graphs


def assert_close(first, second):
    pairs = list(zip(tensors(first), tensors(second), strict=True))
    assert len(pairs) > 50
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("aggregator", "form"),
    [
        *((name, {}) for name in ("mean", "famo", "pcgrad", "nash_mtl", "mocograd", "sdmgrad")),
        ("pcgrad", {"multi_head": True, "critic_layer_norm": True, "weight_decay": 0.1}),
        ("mean", {"actor_l2": 0.1}),
        ("pcgrad", {"actor_torso": "soft-modularization", "critic_torso": "soft-modularization", "n_critics": 1}),
    ],
    ids=str,
)
def test_compiled_updates_equal_eager_ones(traced, aggregator, form):
    """Through a falling learning rate and two target patterns, random numbers included."""
    settings = {"aggregator": aggregator, "policy_kwargs": {**SMALL, **form}}
    eager = eagerly(STEPS, log_conflicts=0, **settings)
    agent = toy_agent(compile=True, **SETTINGS, **settings)
    agent.learn(2 * STEPS)
    assert len(traced) == 2
    assert not agent.captured.replays.refused
    assert_close(eager, state_of(agent))


def test_the_options_of_value_learning_are_compiled_too(traced):
    settings = {**EVERYTHING, "reset_at": (28,), "return_scale": "brc", "aggregator": "pcgrad"}
    eager = eagerly(STEPS, log_conflicts=0, **settings)
    agent = toy_agent(compile=True, **SETTINGS, **settings)
    agent.learn(2 * STEPS)
    assert len(traced) >= 2
    assert_close(eager, state_of(agent))


def test_batches_of_episodes_and_temperatures_of_goals_are_compiled_too(traced):
    form = {**SMALL, "conditioning": "goal", "goal_size": 2}
    settings = {"episode_batches": True, "goal_temperature": True, "n_steps": 3, "policy_kwargs": form}
    eager = eagerly(STEPS, log_conflicts=0, **settings)
    agent = toy_agent(compile=True, **SETTINGS, **settings)
    agent.learn(2 * STEPS)
    assert len(traced) >= 2
    assert not agent.captured.replays.refused
    assert_close(eager, state_of(agent))


@pytest.mark.parametrize("aggregator", ["mean", "gradnorm"])
def test_resuming_is_exact(traced, tmp_path, aggregator):
    """The first update after a resume is compiled, as it was in the run that never stopped."""
    settings = {**SETTINGS, "aggregator": aggregator, "learning_rate": 1e-3}
    agent = toy_agent(compile=True, **settings)
    agent.learn(2 * STEPS)
    env = envs.toy.make(num_tasks=2, seed=0)
    stopped = toy_agent(env, compile=True, **settings)
    stopped.learn(2 * 25)
    path = save_checkpoint(tmp_path, stopped, env)
    env = envs.toy.make(num_tasks=2, seed=0)
    resumed = load_checkpoint(path, env, device="cpu", compile=True)
    before = len(traced)
    resumed.learn(2 * (STEPS - 25), reset_num_timesteps=False)
    assert len(traced) == before + 2
    assert_same_tensors(state_of(agent), state_of(resumed))


class WaitsWithTheJacobian(mtrl.MoCoGrad):
    capturable = True

    def forward(self, jacobian, losses):
        return super().forward(jacobian, losses) * float(jacobian.isfinite().all().item())


class LooksBack(mtrl.PCGrad):
    def after_step(self, losses):
        self.seen = losses


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (WaitsWithTheJacobian, "not permitted in a graph: .*asks for a number"),
        (LooksBack, "LooksBack may ask the host"),
    ],
)
def test_what_cannot_be_compiled_runs_eagerly_with_one_warning(traced, kind, told):
    eager = eagerly(STEPS, log_conflicts=0, aggregator=kind())
    with pytest.warns(RuntimeWarning, match=told) as caught:
        agent = toy_agent(aggregator=kind(), compile=True, **SETTINGS).learn(2 * STEPS)
    assert len([w for w in caught if w.category is RuntimeWarning]) == 1
    assert not traced
    assert_same_tensors(eager, state_of(agent))


def test_a_compiler_that_fails_is_told_in_one_line(monkeypatch):
    def fails(graph, inputs):
        raise OSError("no g++\nand many lines more")

    monkeypatch.setattr(compiled, "compiled", fails)
    eager = eagerly(STEPS, log_conflicts=0, aggregator="mean")
    agent = toy_agent(aggregator="mean", compile=True, **SETTINGS)
    with pytest.warns(RuntimeWarning, match="OSError: no g\\+\\+$"):
        agent.learn(2 * STEPS)
    assert_same_tensors(eager, state_of(agent))


@pytest.mark.parametrize("policy_delay", [1, 5])
@pytest.mark.parametrize("aggregator", ["gradvac", "smoothed:gradvac"])
def test_what_an_aggregator_makes_after_a_reset_belongs_to_no_graph(traced, aggregator, policy_delay):
    """It learns of how many parameters there are in the first update: the actor's later than the critics'."""
    options = {"aggregator": aggregator, "aggregator_kwargs": {"per_parameter": True}}
    settings = {**options, "reset_at": (24,), "policy_delay": policy_delay}
    eager = eagerly(28, log_conflicts=0, **settings)
    agent = toy_agent(**SETTINGS, **settings)
    agent.captured = agent.rounds._replay = compiled.CompiledUpdates(agent.rounds._update, TracedGraphs())
    agent.learn(2 * 28)
    assert not agent.captured.replays.refused
    assert_close(eager, state_of(agent))


@pytest.mark.parametrize("policy_delay", [1, 3])
def test_moments_that_were_forgotten_are_made_by_eager_updates(traced, policy_delay):
    """The parameters of an agent that has not learned yet bring none."""
    states = []
    for compile in (False, True):
        settings = {**SETTINGS, "learning_rate": 1e-3, "policy_delay": policy_delay}
        agent = toy_agent(compile=compile, **settings)
        new = copy.deepcopy(agent.get_parameters())
        agent.learn(2 * 25)
        agent.set_parameters(new)
        states.append(state_of(agent.learn(2 * 10, reset_num_timesteps=False)))
    assert traced
    assert_close(*states)


@pytest.mark.parametrize("policy_delay", [1, 3])
def test_a_number_that_a_loaded_agent_logs_for_the_first_time_is_that_of_its_last_update(
    traced, tmp_path, policy_delay
):
    """Its first update is compiled: what that makes anew belongs to no graph."""
    env = envs.toy.make(num_tasks=2, seed=0)
    settings = {**SETTINGS, "max_grad_norm": 0.0, "target_update_interval": 1}
    path = save_checkpoint(tmp_path, toy_agent(env, **settings).learn(2 * 25), env)
    found = []
    for compile in (False, True):
        env, changes = envs.toy.make(num_tasks=2, seed=0), {"max_grad_norm": 1.0, "policy_delay": policy_delay}
        agent = load_checkpoint(path, env, device="cpu", compile=compile, **changes)
        found.append(agent.learn(2 * 10, reset_num_timesteps=False).metrics())
    assert traced
    assert found[1]["train/critic_update_norm"] > 0
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize("aggregator", ["mean", "famo", "pcgrad", "mocograd", "sdmgrad"])
def test_what_was_compiled_is_captured_on_cuda(traced, aggregator):
    """With captures acted out: compiled, run once without a trace, then captured and replayed."""
    settings = {"aggregator": aggregator, "policy_kwargs": SMALL}
    eager = eagerly(STEPS, log_conflicts=0, **settings)
    agent, graphs = toy_agent(**SETTINGS, **settings), TracedGraphs()
    agent.captured = agent.rounds._replay = compiled.CompiledUpdates(agent.rounds._update, graphs)
    agent.learn(2 * STEPS)
    assert len(traced) == graphs.captures == 2
    assert graphs.replays == 2 * (STEPS - 20) - 1
    assert_close(eager, state_of(agent))


class DrawsOtherwise(mtrl.PCGrad):
    capturable = True

    def weights(self, gramian, losses):
        return super().weights(gramian, losses) * (1 + torch.bernoulli(torch.full((2,), 0.5), generator=self.generator))


@pytest.mark.parametrize(
    ("kind", "told"), [(mtrl.PCGrad, "OSError: no Triton$"), (DrawsOtherwise, "random numbers of aten.bernoulli")]
)
def test_what_cannot_be_compiled_on_cuda_is_captured(monkeypatch, kind, told):
    def fails(graph, inputs):
        raise OSError("no Triton")

    monkeypatch.setattr(compiled, "compiled", fails)
    eager = eagerly(STEPS, log_conflicts=0, aggregator=kind())
    agent, graphs = toy_agent(aggregator=kind(), **SETTINGS), TracedGraphs()
    agent.captured = agent.rounds._replay = compiled.CompiledUpdates(agent.rounds._update, graphs)
    with pytest.warns(RuntimeWarning, match=f"captured and not compiled.*{told}"):
        agent.learn(2 * STEPS)
    assert graphs.replays == 2 * (STEPS - 20) - 1
    assert_same_tensors(eager, state_of(agent))


def test_what_a_trace_that_broke_off_took_is_free_when_the_update_is_captured():
    """It is needed: it may have broken off for want of memory, as a trace keeps all that an update makes."""
    taken, free = [], []

    def update():
        memory = torch.zeros(9) + 1
        taken.append(weakref.ref(memory))
        memory.mul_(2).sum().item()

    graphs = SimpleNamespace(capture=lambda *_: free.append(taken[0]() is None))
    with pytest.warns(RuntimeWarning, match="captured and not compiled.*asks for a number"):
        compiled.CompiledGraphs([], graphs).capture(update, [])
    assert free == [True]


@cuda
@pytest.mark.parametrize("aggregator", ["mean", "pcgrad", "mocograd"])
def test_compiled_equals_eager_on_cuda(aggregator):
    agents = []
    for compile in (False, True):
        agent = toy_agent(aggregator=aggregator, device="cuda", capture=True, compile=compile, **SETTINGS)
        agent.captured.replays.refused |= not compile
        agents.append(agent.learn(2 * STEPS))
    assert not agent.captured.replays.refused
    for ours, theirs in zip(agents[1].policy.parameters(), agents[0].policy.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_tracing_leaves_no_trace_in_the_generator_of_any_device(traced, monkeypatch):
    generators = [torch.Generator(), torch.Generator()]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    before = generators[1].get_state()
    compiled.CompiledGraphs([]).capture(lambda: torch.randn(3, generator=generators[1]), [])
    assert torch.equal(generators[1].get_state(), before)


def test_no_timing_decides_in_which_order_is_summed(monkeypatch):
    asked = []
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", lambda *_: asked.append(config.deterministic))
    compiled.compiled(torch.fx.GraphModule({}, torch.fx.Graph()), [])
    assert asked == [True]


def test_what_does_not_go_with_it_is_refused():
    with pytest.raises(ValueError, match="capture needs a CUDA device"):
        toy_agent(capture=True, compile=True)
    with pytest.raises(ValueError, match="float32 or bfloat16 with it, found tf32"):
        toy_agent(compile=True, policy_kwargs={"precision": "tf32"})


@pytest.mark.parametrize("tasks", range(1, 18))
def test_a_gramian_of_few_tasks_is_that_of_a_matrix_product(tasks):
    pieces = torch.randn(3, tasks, 512, generator=torch.Generator().manual_seed(tasks))
    exact = pieces.double() @ pieces.double().mT
    torch.testing.assert_close(faster.small_gramian(pieces).double(), exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("tasks", "taken"), [(4, 0), (5, 1), (10, 1), (16, 1), (17, 0)])
def test_only_gramians_of_few_tasks_are_taken_apart(tasks, taken):
    flat = torch.randn(tasks, 2 * 8192 + 100, generator=torch.Generator().manual_seed(tasks))
    with compiled._Recorder([]) as recorder:
        found, _ = mtrl.rows.Rows([flat]).measured()
        _ = torch.bmm(flat[None, :, :256], flat[None, :, 256:512].mT)  # two matrices: no Gramian
    graph = recorder.module().graph
    assert len(graph.find_nodes(op="call_function", target=torch.ops.aten.roll.default)) == taken * (tasks // 2 + 1)
    torch.testing.assert_close(found, flat.double() @ flat.double().T, rtol=1e-5, atol=1e-3)


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_graph_compiles(monkeypatch):
    """A step of Adam with noise from a generator of its own: twice eagerly, twice compiled."""
    monkeypatch.setattr(config, "cpp_cache_precompile_headers", False)  # longer than it takes to compile one file
    torch.manual_seed(0)
    start, ends = torch.randn(40), []
    for compile in (False, True):
        weight, generator = start.clone().requires_grad_(), torch.Generator().manual_seed(0)
        optimizer = torch.optim.Adam([weight], lr=torch.tensor(0.1), fused=True)

        def update(weight=weight, generator=generator, optimizer=optimizer):
            loss = (weight - torch.randn(40, generator=generator)).square().sum()
            (weight.grad,) = torch.autograd.grad(loss, weight)
            optimizer.step()

        update()
        run = compiled.CompiledGraphs([]).capture(update, [generator]) if compile else update
        run(), run()
        ends.append(weight.detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-6, atol=1e-6)
    assert not torch.equal(ends[0], start)
