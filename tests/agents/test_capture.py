"""A captured update is the eager update: on the CPU with graphs acted out, on CUDA with its own."""

import copy

import numpy as np
import pytest
import torch

import envs.toy
import mtrl
from agents import MTTD3, load_checkpoint, save_checkpoint
from agents.collecting.acting import DeviceActing
from agents.device.graphs import WARM_UP
from agents.saving.checkpoint import rng_state
from tests.helpers import EVERYTHING, SMALL, NoSynchronisation, assert_same_tensors, cuda, tensors, toy_agent
from tests.traced_graphs import SETTINGS, STEPS, TracedGraphs, assert_captured_as_eager, capture, eagerly, state_of

CAPTURABLE = [name for name, kind in mtrl.AGGREGATORS.items() if kind.capturable]
FORMS = [
    # sees losses, looks back, sees products, gradients, two batches
    *((name, {}) for name in ("mean", "famo", "pcgrad", "mocograd", "sdmgrad")),
    ("pcgrad", {"critic_layer_norm": True, "precision": "bfloat16"}),
    ("pcgrad", {"multi_head": True}),
    ("mean", {"multi_head": True}),
]


def graphs_of(agent):
    return agent.captured.replays.graphs


@pytest.mark.parametrize("name", CAPTURABLE)
def test_a_replayed_aggregator_equals_an_eager_one(name):
    """Update and state, with other gradients and losses each time."""
    eager, captured = mtrl.make_aggregator(name), mtrl.make_aggregator(name)
    rows, losses, found = torch.zeros(3, 20), torch.zeros(3), torch.zeros(20)

    def update():
        found.copy_(captured(rows, losses))
        captured.after_step(0.9 * losses)

    for method in (eager, captured):
        method.reset(*rows.shape)
    own, graphs, call = getattr(captured, "generator", None), TracedGraphs(), update
    draws = torch.Generator().manual_seed(0)
    for turn in range(8):
        rows.normal_(generator=draws)
        losses.uniform_(1, 2, generator=draws)
        if turn == WARM_UP:
            call = graphs.capture(update, [own] if isinstance(own, torch.Generator) else [])
        call()
        assert torch.equal(found, eager(rows, losses))
        eager.after_step(0.9 * losses)
    assert graphs.replays == 8 - WARM_UP
    for ours, theirs in zip(tensors(captured.state_dict()), tensors(eager.state_dict()), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(("aggregator", "form"), FORMS, ids=str)
def test_replayed_updates_equal_eager_ones(aggregator, form):
    """Through a growing buffer, its wrap, a falling learning rate, two target patterns, and measurements between."""
    settings = {"aggregator": aggregator, "policy_kwargs": {**SMALL, **form}}
    eager = eagerly(**settings)
    agent = capture(toy_agent(**SETTINGS, **settings))
    agent.learn(2 * STEPS)
    updates, graphs = agent._n_updates, graphs_of(agent)
    assert updates == 2 * (STEPS - 20)
    assert graphs.captures == 2
    assert graphs.replays == updates - WARM_UP - len(range(0, updates, 17))
    assert_same_tensors(eager, state_of(agent))


@pytest.mark.parametrize("scale", ["brc", "reward-std", "popart"])
def test_the_options_of_value_learning_are_captured_too(scale):
    """A delayed actor makes two patterns more; networks begin anew within the tensors that the graphs hold."""
    head = {} if scale != "popart" else {"critic_head": "scalar"}
    settings = {**EVERYTHING, "reset_at": (33,), "return_scale": scale, "aggregator": "pcgrad"}
    settings["policy_kwargs"] = {**EVERYTHING["policy_kwargs"], **head}
    eager = eagerly(**settings)
    agent = capture(toy_agent(**SETTINGS, **settings))
    agent.learn(2 * STEPS)
    assert graphs_of(agent).replays > 15
    assert_same_tensors(eager, state_of(agent))


@pytest.mark.parametrize("critics", ["rlw:mgda", "smoothed:uncertainty:pcgrad"])
def test_what_a_part_of_an_aggregator_holds_is_known_to_a_graph(critics):
    """Its generator, and state that is made anew where networks begin anew."""
    assert_captured_as_eager(STEPS, aggregator="mean", critic_aggregator=critics, reset_at=(30,))


def test_the_first_step_of_an_actor_is_not_captured():
    """Its optimizer makes its moments then, later than captures would begin: they belong to no graph's memory."""
    settings, states = {**SETTINGS, "log_conflicts": 0, "target_update_interval": 1}, []
    for captured in (False, True):
        agent = toy_agent(kind=MTTD3, policy_delay=WARM_UP + 2, **settings)
        agent = capture(agent) if captured else agent
        states.append(state_of(agent.learn(2 * STEPS)))
    graphs = graphs_of(agent)
    assert graphs.replays == agent._n_updates - (WARM_UP + 2) - WARM_UP
    assert graphs.captures == len(agent.captured.replays._captured)
    assert_same_tensors(*states)


@pytest.mark.parametrize("aggregator", ["mean", "pcgrad", "famo"])
def test_resuming_after_captured_updates_is_exact(tmp_path, aggregator):
    settings = {"aggregator": aggregator, "learning_rate": 1e-3}
    eager = eagerly(**settings)
    env = envs.toy.make(num_tasks=2, seed=0)
    agent = capture(toy_agent(env, **{**SETTINGS, **settings}))
    agent.learn(2 * 30)
    path = save_checkpoint(tmp_path, agent, env)
    env = envs.toy.make(num_tasks=2, seed=0)
    resumed = capture(load_checkpoint(path, env, device="cpu"))
    resumed.learn(2 * (STEPS - 30), reset_num_timesteps=False)
    assert graphs_of(resumed).replays > 5
    assert_same_tensors(eager, state_of(resumed))


def test_a_state_exchanged_under_the_graphs_is_noticed():
    states = []
    for captured in (False, True):
        agent = toy_agent(**{**SETTINGS, "learning_rate": 1e-3})
        agent = capture(agent) if captured else agent
        agent.learn(2 * 26)
        kept = copy.deepcopy(agent.get_parameters())
        agent.learn(2 * 4, reset_num_timesteps=False)
        agent.set_parameters(kept)  # new moments in the optimizers
        agent.learn(2 * 8, reset_num_timesteps=False)
        states.append(state_of(agent))
    assert graphs_of(agent).captures == 4
    assert_same_tensors(*states)


class OfAUser(mtrl.PCGrad):
    """Counts in Python, which a graph would do once; it does not say that it may be captured."""

    calls = 0

    def weights(self, gramian, losses):
        self.calls += 1
        return super().weights(gramian, losses) * (1 + self.calls % 2)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"aggregator": "nash_mtl"}, "NashMTL may ask the host"),
        ({"aggregator": OfAUser()}, "OfAUser may ask the host"),
        ({"aggregator": "mean", "critic_aggregator": OfAUser()}, "OfAUser may ask the host"),
    ],
    ids=["host state", "own class", "one of two"],
)
def test_with_an_aggregator_that_may_ask_the_host_updates_are_eager(settings, told):
    eager = eagerly(26, **copy.deepcopy(settings))
    agent = toy_agent(**SETTINGS, **settings)
    with pytest.warns(RuntimeWarning, match=f"eagerly, slower and otherwise the same: {told}") as caught:
        capture(agent).learn(2 * 26)
    assert len([w for w in caught if w.category is RuntimeWarning]) == 1
    assert (graphs_of(agent).captures, graphs_of(agent).replays) == (0, 0)
    assert_same_tensors(eager, state_of(agent))


class Waits(mtrl.PCGrad):
    """Asks the device for a number, although it says that it does not."""

    capturable = True

    def weights(self, gramian, losses):
        return super().weights(gramian, losses) * float(gramian.isfinite().all().item())


class WaitsWithTheJacobian(mtrl.MoCoGrad):
    capturable = True

    def forward(self, jacobian, losses):
        return super().forward(jacobian, losses) * float(jacobian.isfinite().all().item())


class WaitsAfterTheStep(mtrl.FAMO):
    capturable = True

    def after_step(self, losses):
        super().after_step(losses + float(losses[0].item() > 1e9))


@pytest.mark.parametrize("acts_captured", [False, True])
@pytest.mark.parametrize("kind", [Waits, WaitsWithTheJacobian, WaitsAfterTheStep])
def test_a_capture_that_breaks_off_leaves_acting_and_generators_whole(kind, acts_captured):
    """Updates are eager from then on, with one warning; acting shares their generator, and goes on captured."""
    eager = eagerly(26, aggregator=kind())
    agent = capture(toy_agent(aggregator=kind(), **SETTINGS))
    if acts_captured:
        agent.collection.acting = DeviceActing(agent.actor, graphs_of(agent))
    message = rf"The update \(actor: {kind.__name__}, critic: {kind.__name__}\) cannot be captured.*not permitted"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        agent.learn(2 * 26)
    assert len([w for w in caught if w.category is RuntimeWarning]) == 1
    assert graphs_of(agent).broken == 1
    assert (graphs_of(agent).replays > 1) == acts_captured
    assert_same_tensors(eager, state_of(agent))


@pytest.mark.parametrize("breaks_off_at", [WARM_UP + 2, WARM_UP + 9])
def test_graphs_from_before_a_capture_that_broke_off_are_captured_anew(breaks_off_at):
    """Acting shares the generator with an update; the update's first graph is older than its second pattern's."""
    eager = eagerly(aggregator="mean")
    agent = capture(toy_agent(aggregator="mean", **SETTINGS))
    graphs = graphs_of(agent)
    acting = agent.collection.acting = DeviceActing(agent.actor, graphs)
    steps, run = iter(range(100)), acting.replays.run
    acting.replays.run = lambda *args: (vars(graphs).update(broken=int(next(steps) >= breaks_off_at)), run(*args))
    agent.learn(2 * STEPS)
    assert graphs.captures == 3 + 3
    assert not agent.captured.replays.refused
    assert_same_tensors(eager, state_of(agent))


def test_an_update_that_cannot_be_captured_runs_eagerly_with_one_warning(monkeypatch):
    """Whatever in it waits: a user's policy, say."""
    eager = eagerly(26, aggregator="mean")
    agent = capture(toy_agent(aggregator="mean", **SETTINGS))
    losses = agent.update.actor_losses
    monkeypatch.setattr(
        agent.update, "actor_losses", lambda *given: losses(*given) * float(given[0].sum().item() < 1e9)
    )
    with pytest.warns(RuntimeWarning, match=r"update .*cannot be captured.*not permitted") as caught:
        agent.learn(2 * 26)
    assert len([w for w in caught if w.category is RuntimeWarning]) == 1
    assert graphs_of(agent).replays == 0
    assert_same_tensors(eager, state_of(agent))


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
    with pytest.raises(ValueError, match="capture is True or False, found 4"):
        toy_agent(capture=4)


def test_orders_begin_anew_with_a_state_of_another_kind_of_device_and_only_then():
    method = mtrl.PCGrad(seed=3)
    first, second = method.draw_orders(5), method.draw_orders(5)
    method.reset(5, 1)
    method.load_state_dict({"_extra_state": torch.zeros(16, dtype=torch.uint8)})  # as long as a CUDA generator's
    assert torch.equal(method.draw_orders(5), first)
    assert torch.equal(method.to("cpu").double().draw_orders(5), second)


@cuda
@pytest.mark.filterwarnings("ignore:Updates run eagerly")
@pytest.mark.parametrize("aggregator", ["nash_mtl", *CAPTURABLE])
def test_captured_equals_eager_on_cuda(aggregator):
    agents, generators = [], []
    actor = "mean" if mtrl.AGGREGATORS[aggregator].non_negative else aggregator
    for eager in (True, False):
        methods = {"aggregator": actor, "critic_aggregator": aggregator}
        agent = toy_agent(**methods, device="cuda", capture=True, **SETTINGS)
        agent.captured.replays.refused |= eager  # and yet its learning rate is a tensor in float32
        agent.learn(2 * STEPS)
        agents.append(agent)
        generators.append(tensors([agent.replay_buffer.generator.get_state(), rng_state(agent)]))
    assert agent.captured.replays.refused == (aggregator == "nash_mtl")
    assert len(agent.captured.replays._captured) == (0 if aggregator == "nash_mtl" else 2)
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


class Synchronises(mtrl.PCGrad):
    capturable = True

    def weights(self, gramian, losses):
        torch.cuda.synchronize()
        return super().weights(gramian, losses)


class WantsMemory(mtrl.PCGrad):
    capturable = True

    def weights(self, gramian, losses):
        if torch.cuda.is_current_stream_capturing():
            torch.empty(2**50, device=gramian.device)
        return super().weights(gramian, losses)


@cuda
@pytest.mark.parametrize("kind", [Synchronises, WantsMemory])
def test_an_aggregator_that_breaks_a_capture_off_leaves_acting_captured(kind):
    agent = toy_agent(aggregator=kind(), device="cuda", capture=True)
    with pytest.warns(RuntimeWarning, match=kind.__name__):
        agent.learn(2 * 60)
    assert agent.captured.replays.refused
    assert not agent.collection.acting.replays.refused
    assert all(parameter.isfinite().all() for parameter in agent.policy.parameters())


@cuda
@pytest.mark.parametrize("noise_hold", [1, 2])
def test_graphs_are_captured_again_after_their_state_was_exchanged_on_cuda(noise_hold):
    """With acting captured (1) or not (2): then no graph is left in the pool when the updates' are forgotten."""
    agents = []
    for eager in (True, False):
        agent = toy_agent(device="cuda", capture=True, noise_hold=noise_hold, **{**SETTINGS, "learning_rate": 1e-3})
        agent.captured.replays.refused |= eager
        agent.learn(2 * 26)
        agent.set_parameters(copy.deepcopy(agent.get_parameters()))
        agent.learn(2 * 8, reset_num_timesteps=False)
        agents.append(agent)
    assert not agent.captured.replays.refused
    assert len(agent.captured.replays._captured) == 2
    for ours, theirs in zip(agents[1].policy.parameters(), agents[0].policy.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


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
