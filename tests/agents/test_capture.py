"""A captured update is the eager update: on the CPU with graphs acted out, on CUDA with its own."""

import copy

import numpy as np
import pytest
import torch

import envs.toy
import mtrl
from agents import load_checkpoint, save_checkpoint
from agents.collecting.acting import DeviceActing
from agents.device.captured import CapturedUpdates
from agents.device.graphs import WARM_UP
from tests.agents.test_value_learning import EVERYTHING
from tests.helpers import SMALL, NoSynchronisation, cuda, tensors, toy_agent
from tests.traced_graphs import TracedGraphs

# The first update follows step 20 per task and the buffer wraps at step 35; two target patterns; measurements.
SETTINGS = {
    "buffer_size": 35,
    "gradient_steps": 2,
    "target_update_interval": 2,
    "learning_rate": "linear:1e-3",
    "max_grad_norm": 1.0,
    "log_conflicts": 17,
}
STEPS = 45
CAPTURABLE = [name for name in mtrl.AGGREGATORS if name != "nash_mtl"]


def capture(agent, together=1):
    """The same agent, whose updates are replayed from now on."""
    host = [
        (agent, "_n_updates", "num_timesteps", "_total_timesteps", "_current_progress_remaining", "log_conflicts"),
        (agent.replay_buffer, "pos", "full"),
    ]
    agent._captured = CapturedUpdates(agent, together, TracedGraphs(*host))
    return agent


def state_of(agent):
    state = agent._state()
    for name in [name for name in state["modules"] if name.endswith("optimizer")]:
        for group in state["modules"][name]["param_groups"]:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float64)  # the number, however it is held
    return [state, agent.replay_buffer.state_dict(), agent.rng_state()]


def assert_bit_equal(first, second):
    pairs = list(zip(tensors(first), tensors(second), strict=True))
    assert len(pairs) > 50
    assert all(np.array_equal(a, b) for a, b in pairs)


def eagerly(steps=STEPS, **settings):
    """The state after an eager run; one agent is made and run after the other, as they share torch's generator."""
    agent = toy_agent(**{**SETTINGS, **settings})
    agent.learn(2 * steps)
    assert agent.replay_buffer.full == (steps >= 35)
    return state_of(agent)


@pytest.mark.parametrize(
    ("aggregator", "form"),
    [
        *((name, {}) for name in CAPTURABLE),
        ("pcgrad", {"critic_layer_norm": True, "precision": "bfloat16"}),
        ("pcgrad", {"multi_head": True}),
        ("mean", {"multi_head": True}),
        ("pcgrad", {"actor_torso": "soft-modularization", "critic_torso": "soft-modularization", "n_critics": 1}),
    ],
    ids=str,
)
def test_replayed_updates_equal_eager_ones(aggregator, form):
    """Through a growing buffer, its wrap, a falling learning rate, two target patterns, and measurements between."""
    settings = {"aggregator": aggregator, "policy_kwargs": {**SMALL, **form}}
    eager = eagerly(**settings)
    agent = capture(toy_agent(**SETTINGS, **settings))
    agent.learn(2 * STEPS)
    assert agent._n_updates == 50
    graphs = agent._captured.graphs
    assert (graphs.warm_ups, graphs.captures) == (WARM_UP, 2)
    assert graphs.replays == 50 - graphs.warm_ups - len(range(0, 50, 17))
    assert_bit_equal(eager, state_of(agent))


@pytest.mark.parametrize("scale", ["brc", "reward-std", "popart"])
def test_the_options_of_value_learning_are_captured_too(scale):
    """A delayed actor makes two patterns more; networks begin anew within the tensors that the graphs hold."""
    head = {} if scale != "popart" else {"critic_head": "scalar"}
    settings = {**EVERYTHING, "reset_at": (33,), "return_scale": scale, "aggregator": "pcgrad"}
    settings["policy_kwargs"] = {**EVERYTHING["policy_kwargs"], **head}
    eager = eagerly(**settings)
    agent = capture(toy_agent(**SETTINGS, **settings))
    agent.learn(2 * STEPS)
    assert agent._captured.graphs.replays > 25
    assert_bit_equal(eager, state_of(agent))


@pytest.mark.parametrize("together", [2, 3])
def test_several_updates_in_one_graph(together):
    settings = {"gradient_steps": 5, "train_freq": 2}
    eager = eagerly(**settings)
    agent = capture(toy_agent(**{**SETTINGS, **settings}), together)
    agent.learn(2 * STEPS)
    assert {len(targets) for _, targets in agent._captured._replays} == {1, together}
    assert_bit_equal(eager, state_of(agent))


@pytest.mark.parametrize("aggregator", ["mean", "pcgrad", "famo"])
def test_resuming_after_captured_updates_is_exact(tmp_path, aggregator):
    settings = {"aggregator": aggregator, "learning_rate": 1e-3}
    eager = eagerly(**settings)
    env = envs.toy.make(num_tasks=2, seed=0)
    agent = capture(toy_agent(env, **{**SETTINGS, **settings}))
    agent.learn(2 * 37)
    path = save_checkpoint(tmp_path, agent, env)
    env = envs.toy.make(num_tasks=2, seed=0)
    resumed = capture(load_checkpoint(path, env, device="cpu"))
    resumed.learn(2 * (STEPS - 37), reset_num_timesteps=False)
    assert resumed._captured.graphs.replays > 10
    assert_bit_equal(eager, state_of(resumed))


def test_a_state_exchanged_under_the_graphs_is_noticed():
    states = []
    for captured in (False, True):
        agent = toy_agent(**{**SETTINGS, "learning_rate": 1e-3})
        agent = capture(agent) if captured else agent
        agent.learn(2 * 30)
        kept = copy.deepcopy(agent.get_parameters())
        agent.learn(2 * 10, reset_num_timesteps=False)
        agent.set_parameters(kept)  # new moments in the optimizers
        agent.learn(2 * 20, reset_num_timesteps=False)
        states.append(state_of(agent))
    assert agent._captured.graphs.captures == 4
    assert_bit_equal(*states)


class Waits(mtrl.PCGrad):
    """Asks the device for a number."""

    def weights(self, gramian, losses):
        return super().weights(gramian, losses) * float(gramian.isfinite().all().item())


class WaitsWithTheJacobian(mtrl.MoCoGrad):
    def forward(self, jacobian, losses):
        return super().forward(jacobian, losses) * float(jacobian.isfinite().all().item())


class WaitsWithTheLosses(mtrl.FAMO):
    """Before the backward pass, and after the step."""

    def weights(self, losses):
        return super().weights(losses) * float(losses.isfinite().all().item())

    def after_step(self, losses):
        super().after_step(losses + float(losses[0].item() > 1e9))


IT_WAITS = r"waits for the device \(_local_scalar_dense\)"


@pytest.mark.parametrize(
    ("settings", "message", "cuts"),
    [
        ({"aggregator": "nash_mtl"}, "actor: NashMTL, critic: NashMTL.*NashMTL keeps state on the host", 2),
        ({"aggregator": Waits()}, f"actor: Waits, critic: Waits.*{IT_WAITS}", 2),
        ({"aggregator": WaitsWithTheJacobian()}, f"actor: WaitsWithTheJacobian.*{IT_WAITS}", 2),
        ({"aggregator": WaitsWithTheLosses()}, f"actor: WaitsWithTheLosses.*{IT_WAITS}", 4),
        ({"aggregator": "mean", "critic_aggregator": Waits()}, f"\\(critic: Waits\\).*{IT_WAITS}", 1),
    ],
    ids=["host state", "weights", "jacobian", "losses", "one of two"],
)
def test_an_aggregator_that_cannot_be_captured_runs_between_graphs(settings, message, cuts):
    """Every kind of question that `mtrl.backward` asks; two updates together, and a measurement between."""
    settings |= {"gradient_steps": 3, "policy_kwargs": {**SMALL, "precision": "bfloat16"}}
    eager = eagerly(**copy.deepcopy(settings))
    agent = capture(toy_agent(**{**SETTINGS, **settings}), together=2)
    with pytest.warns(RuntimeWarning, match=message) as caught:
        agent.learn(2 * STEPS)
    graphs = agent._captured.graphs
    assert len([w for w in caught if w.category is RuntimeWarning]) == 1
    assert not agent._captured.refused
    assert graphs.replays > 15
    assert graphs.cuts == cuts * sum(len(turns) for _, turns in agent._captured._replays)
    assert_bit_equal(eager, state_of(agent))


class RefusingGraphs(TracedGraphs):
    """Captures what is cut often enough."""

    def __init__(self, cuts):
        super().__init__()
        self.enough = cuts

    def capture(self, update, generators):
        before = self.cuts
        replay = super().capture(update, generators)
        if self.cuts - before < self.enough:
            self.broken += 1
            raise RuntimeError("operation not permitted when stream is capturing")
        return replay


def test_an_aggregator_that_breaks_a_capture_runs_between_graphs_from_then_on():
    eager = eagerly(30)
    agent = toy_agent(**SETTINGS)
    agent._captured = CapturedUpdates(agent, graphs=RefusingGraphs(cuts=2))
    with pytest.warns(RuntimeWarning, match=r"\(actor: PCGrad, critic: PCGrad\): operation not permitted") as caught:
        agent.learn(2 * 30)
    assert len([w for w in caught if w.category is RuntimeWarning]) == 1
    assert agent._captured.graphs.replays > 10
    assert_bit_equal(eager, state_of(agent))


@pytest.mark.parametrize("breaks_off_at", [WARM_UP + 2, WARM_UP + 9])
def test_graphs_from_before_a_capture_that_broke_off_are_captured_anew(breaks_off_at):
    """Acting shares the generator with an update; the update's first graph is older than its second pattern's."""
    eager = eagerly(aggregator="mean")
    agent = capture(toy_agent(aggregator="mean", **SETTINGS))
    graphs = agent._captured.graphs
    agent._acting = DeviceActing(agent.actor, graphs)
    updates, acting = iter(range(100)), agent._acting._run
    agent._acting._run = lambda: (graphs.__dict__.update(broken=int(next(updates) >= breaks_off_at)), acting())
    agent.learn(2 * STEPS)
    assert graphs.captures == 3 + 3
    assert not agent._captured.refused
    assert_bit_equal(eager, state_of(agent))


def test_an_update_that_cannot_be_captured_runs_eagerly_with_one_warning(monkeypatch):
    eager = eagerly(30, aggregator="mean")
    agent = toy_agent(aggregator="mean", **SETTINGS)
    agent._captured = CapturedUpdates(agent, graphs=RefusingGraphs(cuts=3))
    with pytest.warns(RuntimeWarning, match="update cannot be captured.*actor: Mean.*not permitted") as caught:
        agent.learn(2 * 30)
    assert len([w for w in caught if w.category is RuntimeWarning]) == 1
    assert agent._captured.graphs.replays == 0
    assert_bit_equal(eager, state_of(agent))

    agent = toy_agent(aggregator="mean", **SETTINGS)
    agent._captured = CapturedUpdates(agent, graphs=RefusingGraphs(cuts=0))
    losses = agent._actor_losses
    monkeypatch.setattr(agent, "_actor_losses", lambda *given: losses(*given) * float(given[0].sum().item() < 1e9))
    with pytest.warns(RuntimeWarning, match=f"update cannot be captured.*{IT_WAITS}") as caught:
        agent.learn(2 * 30)
    assert len([w for w in caught if w.category is RuntimeWarning]) == 1
    assert agent._captured.graphs.replays == 0
    assert_bit_equal(eager, state_of(agent))


@pytest.mark.parametrize(
    "wait",
    [
        lambda: torch.ones(()).item(),
        lambda: torch.ones(2).cpu(),
        lambda: torch.ones(2).tolist(),
        lambda: torch.ones(2).nonzero(),
        lambda: torch.tensor([1.0]),
        lambda: torch.zeros(2)[torch.ones(2) > 0],
    ],
)
def test_the_watch_over_captures_sees_what_waits_and_what_travels(wait):
    with pytest.raises(AssertionError, match="synchronises"), NoSynchronisation():
        wait()
    wait()


def test_capture_needs_a_cuda_device():
    with pytest.raises(ValueError, match="capture needs a CUDA device, the agent is on cpu"):
        toy_agent(capture=True)
    with pytest.raises(ValueError, match="capture is True, False or a number of updates, found -1"):
        toy_agent(capture=-1)


def test_orders_begin_anew_with_a_state_of_another_kind_of_device_and_only_then():
    method = mtrl.PCGrad(seed=3)
    first, second = method.draw_orders(5), method.draw_orders(5)
    method.reset(5, 1)
    method.load_state_dict({"_extra_state": torch.zeros(16, dtype=torch.uint8)})  # as long as a CUDA generator's
    assert torch.equal(method.draw_orders(5), first)
    assert torch.equal(method.to("cpu").double().draw_orders(5), second)


@cuda
@pytest.mark.filterwarnings("ignore:What cannot be captured")
@pytest.mark.parametrize("aggregator", mtrl.AGGREGATORS)
def test_captured_equals_eager_on_cuda(aggregator):
    agents, generators = [], []
    for eager in (True, False):
        agent = toy_agent(aggregator=aggregator, device="cuda", capture=True, **SETTINGS)
        agent._captured.refused = eager  # and yet its learning rate is a tensor in float32
        agent.learn(2 * STEPS)
        agents.append(agent)
        generators.append(tensors([agent.replay_buffer.generator.get_state(), agent.rng_state()]))
    assert not agent._captured.refused
    assert len(agent._captured._replays) == 2
    assert all(np.array_equal(a, b) for a, b in zip(*generators, strict=True))
    for ours, theirs in zip(agents[1].policy.parameters(), agents[0].policy.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@cuda
def test_a_captured_graph_draws_new_orders_and_follows_a_growing_buffer():
    agent = toy_agent(device="cuda", capture=True, learning_starts=10**6)
    agent.learn(2 * 5)
    buffer, method = agent.replay_buffer, agent.aggregator
    graph = torch.cuda.CUDAGraph()
    for generator in (buffer.generator, method.generator):
        graph.register_generator_state(generator)
    method.draw_orders(10), buffer.sample(200)
    with torch.cuda.graph(graph):
        orders, batch = method.draw_orders(10), buffer.sample(200)
    graph.replay()
    first = orders.clone()
    assert len(batch.rewards.unique()) <= 2 * 5
    agent.learn(2 * 50, reset_num_timesteps=False)
    graph.replay()
    assert not torch.equal(first, orders)
    assert len(batch.rewards.unique()) > 2 * 20


@cuda
def test_an_aggregator_that_breaks_a_capture_off_runs_between_graphs():
    class Synchronises(mtrl.PCGrad):
        def weights(self, gramian, losses):
            torch.cuda.synchronize()
            return super().weights(gramian, losses)

    agent = toy_agent(aggregator=Synchronises(), device="cuda", capture=True)
    with pytest.warns(RuntimeWarning, match="Synchronises"):
        agent.learn(2 * 60)
    assert agent._captured.between == {"actor", "critic"}
    assert not agent._captured.refused
    assert all(parameter.isfinite().all() for parameter in agent.policy.parameters())


@cuda
def test_a_state_of_another_kind_of_device_begins_the_orders_anew():
    moved = mtrl.PCGrad(seed=3).to("cuda")
    first = moved.draw_orders(5)
    assert first.device.type == "cuda"
    moved.reset(5, 1)
    moved.load_state_dict(mtrl.PCGrad(seed=4).state_dict())
    assert torch.equal(moved.draw_orders(5), first)
    again = mtrl.PCGrad(seed=9).to("cuda")
    again.load_state_dict(moved.state_dict())
    assert torch.equal(again.draw_orders(5), moved.draw_orders(5))
