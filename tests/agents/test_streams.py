"""What CUDA does in an order of its own, acted out: two streams are ordered by nothing but what waits for what."""

import contextlib
import gc
import weakref
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from agents.device.graphs import CudaGraphs, Replays


class Stream:
    """A queue of work."""

    def __init__(self, device=None):
        self.queue, self.done = [], 0

    def wait_stream(self, other):
        upto = len(other.queue)
        self.queue.append(lambda: other.run(upto))

    def run(self, upto=None):
        """Do what is queued; of other streams nothing but what this one waits for."""
        while self.done < (len(self.queue) if upto is None else upto):
            self.done += 1
            self.queue[self.done - 1]()


class Graph:
    def __init__(self, replay):
        self.replay = replay


class Device:
    """Takes the place of `torch.cuda`: graphs that draw, from where the offset of their generator is on the device."""

    def __init__(self):
        self.present, self.streams, self.offset, self.offset_there, self.drawn = Stream(), [], 0, None, []
        self.pools, self.open, self.uses, self.broken_off = 0, set(), {}, False
        generator = SimpleNamespace(clone_state=lambda: None, graphsafe_set_state=lambda state: None)
        self.default_generators = [generator]
        self.CUDAGraph = lambda: Graph(self.replay)
        self.device = self.stream = lambda _: contextlib.nullcontext()
        self.set_stream, self.current_device, self.current_stream = lambda _: None, lambda: 0, lambda: self.present

    def Stream(self):
        self.streams.append(Stream())
        return self.streams[-1]

    def graph_pool_handle(self):
        self.pools += 1
        return self.pools

    def set_offset(self, value):
        self.offset_there = value

    @contextlib.contextmanager
    def graph(self, graph, pool, stream):
        """As torch's: an update that breaks off leaves the pool open; one whose last graph is gone takes no other."""
        assert pool not in self.open, "already recording to this pool"
        if self.uses.get(pool) == 0:
            raise RuntimeError("it->second->use_count > 0 INTERNAL ASSERT FAILED")
        self.uses[pool] = self.uses.get(pool, 0) + 1
        self.open.add(pool)
        stream.queue.append(lambda: self.set_offset(0))
        yield
        self.close(pool)
        weakref.finalize(graph, self.release, pool)

    def close(self, pool):
        if pool not in self.open:
            raise RuntimeError("not currently recording to mempool_id")
        self.open.remove(pool)

    def release(self, pool):
        self.uses[pool] -= 1
        self.broken_off |= bool(self.open)

    def replay(self):
        offset, self.offset = self.offset, self.offset + 4
        self.present.queue += [lambda: self.set_offset(offset), lambda: self.drawn.append(self.offset_there)]


@pytest.fixture
def device(monkeypatch):
    device = Device()
    for name in dir(device):
        if name[0] != "_" and hasattr(torch.cuda, name):
            monkeypatch.setattr(torch.cuda, name, getattr(device, name))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda _, pool: device.close(pool), raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda _, pool: device.release(pool), raising=False)
    return device


@pytest.mark.parametrize("late", range(7))
def test_a_first_replay_draws_where_the_generator_is_however_late_the_capture_ends(device, late):
    """The stream of the capture comes to its work only when the other has done so much of its own."""
    device.offset = 8
    acting = Replays(CudaGraphs(torch.device("cpu")), "Acting", warm_up=0)
    for _ in range(3):
        acting.run("sample", lambda: None)
    device.present.run(late)
    device.streams[0].run()
    device.present.run()
    assert device.drawn == [8, 12, 16]


def breaks_off():
    raise RuntimeError("operation not permitted when stream is capturing")


def test_a_capture_that_breaks_off_leaves_room_for_another(device):
    graphs = CudaGraphs(torch.device("cpu"))
    with pytest.raises(RuntimeError, match="not permitted"):
        graphs.capture(breaks_off, [])
    assert not device.open
    assert device.uses == {1: 0}  # else the memory that it took is lost
    graphs.capture(lambda: None, [])
    assert device.pools == len(device.streams) == 2


def test_graphs_that_are_forgotten_leave_room_for_others(device):
    """torch gives a pool up with the last graph in it, whoever of the process captured that."""
    one, other = (Replays(CudaGraphs(torch.device("cpu")), "Acting", warm_up=0) for _ in range(2))
    for places, forgotten in ((1, [one]), (1, [other]), (1, [one, other]), (2, [])):
        one.run("sample", lambda: None)
        other.run("sample", lambda: None)
        assert device.pools == len(device.streams) == places
        for replays in forgotten:
            replays.forget()
    assert [one.refused, other.refused] == [False, False]


def test_no_graph_is_destroyed_while_another_is_captured(device):
    """The garbage collector comes when it likes, and CUDA breaks off a capture during which a graph is destroyed."""

    def update():
        if gc.isenabled():
            gc.collect()

    forgotten = Replays(CudaGraphs(torch.device("cpu")), "Acting", warm_up=0)
    forgotten.run("sample", lambda: None)
    forgotten.itself = forgotten
    del forgotten
    CudaGraphs(torch.device("cpu")).capture(update, [])
    assert gc.isenabled()
    assert not device.broken_off


def test_memory_that_replays_write_to_stays_taken(device):
    """A compiled update brings tensors of its own, such as that of its random numbers."""
    memory = torch.zeros(9)
    taken, update = weakref.ref(memory), partial(memory.normal_)
    graph = CudaGraphs(torch.device("cpu")).capture(update, [])
    del memory, update
    assert taken() is not None
    del graph
    assert taken() is None


def test_what_a_capture_that_broke_off_took_is_free_when_the_update_runs_eagerly(device):
    """It is needed: it may have broken off for want of memory."""
    taken, free = [], []

    def update():
        free.append(all(each() is None for each in taken))
        memory = torch.zeros(9)
        taken.append(weakref.ref(memory))
        if device.open:
            breaks_off()

    acting = Replays(CudaGraphs(torch.device("cpu")), "Acting", warm_up=0)
    with pytest.warns(RuntimeWarning, match="not permitted"):
        acting.run("sample", update)
    assert free == [True, True]
