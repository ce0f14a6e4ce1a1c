"""Multi-task soft actor-critic: Stable-Baselines3's SAC with a loss per task and surgery on the tasks' gradients."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, RolloutReturn
from stable_baselines3.common.vec_env import VecEnv

from agents.algorithms import ALGORITHMS
from agents.arguments import Arguments, set_attribute, takes
from agents.assembly import Assembly, Parts, buffer_options, policy_options, sac_options
from agents.collecting.logs import write_row
from agents.collecting.replay import TaskReplayBuffer
from agents.collecting.rollout import Step
from agents.collecting.stopwatch import Stopwatch
from agents.environment import check_columns, check_env, check_kind, check_one_hot, task_names
from agents.learning.rounds import CHECK_EVERY
from agents.learning.sac import SACUpdate
from agents.learning.temperatures import LearnedTemperatures
from agents.learning.update import Update
from agents.networks import asked
from agents.networks.actor_critic import Actor, MultiTaskCritic
from agents.networks.form import by_name
from agents.networks.policies import MultiTaskPolicy
from agents.saving import agent_file, onnx_export
from mtrl.precision import float32_products

# What of Stable-Baselines3's counts, and is saved
COUNTERS = ("num_timesteps", "_total_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining")
PARTS = (*Parts._fields, "timed", "seconds")  # what `_setup_model` builds anew, and no pickle holds


class MTSAC(SAC):
    """One soft actor-critic for T tasks, with the tasks' gradients reconciled by an aggregator before each step.

    Column c of the environment is of task c mod T, and the last T columns of an observation are the task's one-hot.
    Each update takes `batch_size` rows per task from one replay buffer and forms a critic loss and an actor loss per
    task; the aggregators turn the tasks' gradients of the shared parameters into one update each. Temperatures are per
    task, and each moves by its own task's loss alone. With one task and `Mean` this is Stable-Baselines3's SAC to
    rounding. (Haarnoja et al. 2018, arXiv 1812.05905; Yu et al. 2020, arXiv 2001.06782.)

    :param policy: "MultiTaskMlpPolicy"; `policy_kwargs` are those of `MultiTaskPolicy`.
    :param env: a vector environment with one column per task, or `env.envs_per_task` of them.
    :param aggregator: a name that `mtrl.make_aggregator` knows (options in `aggregator_kwargs`), or an instance.
    :param critic_aggregator: the critics', likewise; None: a second instance of the actor's.
    :param capture: replay updates as captured CUDA graphs (`agents.device.captured`). Not saved: give it at `load`.
    :param compile: compile updates, which takes a minute and a C++ compiler; on CUDA they are captured, too
        (`agents.device.compiled`). Not saved, either.
    :param replay_buffer_kwargs: `seed` and `dtype` of `agents.TaskReplayBuffer`; the rest follows from the settings.
    :param settings: and each of its fields is a keyword, too, such as `learning_rate=1e-3`, which comes first.
    :raises TypeError: for a keyword that is no setting.
    :raises ValueError: for settings or environments that do not fit; the message says what was expected.
    """

    algorithm: ClassVar[str] = "mtsac"  # its row in `ALGORITHMS`
    update_class: ClassVar[type[Update]] = SACUpdate
    policy_aliases: ClassVar[dict[str, Any]] = {"MultiTaskMlpPolicy": MultiTaskPolicy, "MlpPolicy": MultiTaskPolicy}
    policy: MultiTaskPolicy  # type: ignore[assignment]
    actor: Actor  # type: ignore[assignment]
    critic: MultiTaskCritic  # type: ignore[assignment]
    replay_buffer: TaskReplayBuffer  # type: ignore[assignment]
    target_entropy: float

    eval_action, reset, __setattr__ = asked.eval_action, asked.reset, set_attribute
    dump_logs, save, export_onnx = write_row, agent_file.save, onnx_export.export_onnx
    save_replay_buffer, load_replay_buffer = agent_file.save_buffer, agent_file.load_buffer
    set_parameters = agent_file.set_parameters

    @takes(Arguments)
    def __init__(self, *args: Any, **keywords: Any):
        given = Arguments.of_call(type(self).__name__, args, keywords)
        self.settings = given.checked(keywords, ALGORITHMS[self.algorithm])
        self.capture, self.compile = given.capture, given.compile
        self.timed = Stopwatch("env", "act", "learn", "evaluate")
        self.seconds = self.timed.seconds
        self._exported: dict[str, Any] | None = None  # state of the parts, in Stable-Baselines3's format
        self._given = given.aggregators
        super().__init__(
            **sac_options(self.settings),
            policy=given.policy,  # type: ignore[arg-type]
            env=given.env,  # type: ignore[arg-type]
            policy_kwargs=by_name(given.policy_kwargs or {}),  # a copy, as Stable-Baselines3 and we add entries
            replay_buffer_class=TaskReplayBuffer,  # type: ignore[arg-type]
            replay_buffer_kwargs=given.replay_buffer_kwargs,
            tensorboard_log=given.tensorboard_log,
            verbose=given.verbose,
            device=given.device,
            _init_setup_model=False,
        )
        self.policy_kwargs.pop("use_sde", None)  # Stable-Baselines3 adds it; this policy has no such noise
        self.task_names = task_names(self.env)
        if given._init_setup_model:
            self._setup_model()

    def set_up_for(self, observations: Any, actions: Any, names: tuple[str, ...], copies: int) -> None:
        """Set up without an environment: for these spaces and tasks, and so many environments per task."""
        self.observation_space, self.action_space = observations, actions
        self.task_names, self.n_envs = names, copies * len(names)
        self._setup_model()

    def _setup_model(self) -> None:
        if self.env is not None:
            check_env(self.env)
        self.task_names = tuple(self.task_names)  # a list, from Stable-Baselines3's format
        if self.target_entropy == "auto":
            self.target_entropy = -float(np.prod(self.action_space.shape))  # type: ignore[arg-type]
        seed = np.random.randint(2**31) if self.seed is None else self.seed  # from SB3's generator, each time another
        self.policy_kwargs = policy_options(self.policy_kwargs, self.task_names)
        self.replay_buffer_kwargs = buffer_options(self.settings, self.num_tasks, seed, self.replay_buffer_kwargs)
        super()._setup_model()
        self.policy.check_trained()
        self.policy.start_targets()
        given = self.settings, self.task_names, self.n_envs, seed, self.policy, self.replay_buffer
        assembly = Assembly(*given, self.update_class)
        temperatures = assembly.temperatures(self.log_ent_coef, self.lr_schedule(1), self.target_entropy)
        if isinstance(temperatures, LearnedTemperatures):
            self.log_ent_coef, self.ent_coef_optimizer = temperatures.log_alpha, temperatures.optimizer
        else:
            self.ent_coef_tensor = temperatures.values()
        self.aggregator, self.critic_aggregator = both = assembly.aggregators(*self._given)
        parts = assembly.parts(both, temperatures, self.target_entropy, self.timed, self.capture, self.compile)
        self.return_scale, self.update, self.task_metrics, self.guard = parts[:4]
        self.captured, self.rounds, self.collection = parts[4:]
        if self._exported is not None:
            self.load_counters(self._exported["counters"])
            self.return_scale.load_state_dict(self._exported["return_scale"])
            self._exported = None

    def _restart_networks(self) -> None:
        """Draw new parameters into the tensors that are there, which a captured graph holds on to."""
        fresh = self.policy_class(self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs)
        self.policy.begin_anew(fresh)
        self.update.restart()

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed what Stable-Baselines3's does, and once they are there the streams of buffer and aggregators."""
        super().set_random_seed(seed)
        if seed is not None and hasattr(self, "rounds"):
            self.rounds.seed(seed)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As Stable-Baselines3's; the environment must have the tasks that the agent was built for."""
        check_kind(env)
        check_columns(env, self.task_names, self.envs_per_task)
        super().set_env(env, force_reset)
        check_env(self.env)  # type: ignore[arg-type]

    def get_env(self) -> VecEnv | None:
        """Return the training environment, with nothing moving in it; what callbacks see as `training_env`."""
        self.settle()
        return super().get_env()

    @property
    def num_tasks(self) -> int:
        """T: of the environment's E T columns."""
        return len(self.task_names)

    @property
    def envs_per_task(self) -> int:
        """E: environment steps per task in a vector step."""
        return self.n_envs // self.num_tasks

    @property
    def steps_per_task(self) -> int:
        """Environment steps per task so far."""
        return self.num_timesteps // self.num_tasks

    def due(self, every: int) -> bool:
        """Whether the last vector step reached or passed a multiple of `every` steps per task; 0: never."""
        return every > 0 and self.steps_per_task > 0 and self.steps_per_task % every < self.envs_per_task

    def settle(self) -> None:
        """Wait until nothing moves in the training environment."""
        self.collection.settle()

    def learn(self, *args: Any, **kwargs: Any) -> Self:
        """Learn as Stable-Baselines3 does. When it ends, normally or not, no environment step is pending.

        :raises NonFiniteError: if a loss is not finite any more, within 100 updates or at the end.
        """
        if len(args) < 4:  # the position of tb_log_name
            kwargs.setdefault("tb_log_name", type(self).__name__)
        try:
            super().learn(*args, **kwargs)
            self.settle()
        except BaseException:
            if self.collection.drop():  # the next `learn` begins with a reset
                self._last_obs = None
            raise
        self.guard.check()
        return self

    def _setup_learn(
        self, total_timesteps: int, callback: Any = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self._last_obs is None:
            self.collection.forget()
            self.replay_buffer.cut()  # an episode that was running ends here, for who looks at neighbours
            self.return_scale.cut()
        if self.actor.precision == "tf32" and self.device.type != "cuda":
            warnings.warn(f"tf32 has no effect on {self.device}: float32 it is.", RuntimeWarning, stacklevel=3)
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)
        check_one_hot(np.asarray(self._last_obs), self.num_tasks)
        return result

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> RolloutReturn:
        """Collect steps until an update is due; see `agents.collecting.rollout.Collection.collect`."""
        return self.collection.collect(self, *args, **kwargs)

    def take_in(self, step: Step) -> None:
        """Store a vector step and count it."""
        self._store_transition(self.replay_buffer, *step[1:])  # type: ignore[arg-type]
        self.return_scale.observe(step.rewards, step.dones, step.infos)
        self.num_timesteps += self.n_envs
        self._update_info_buffer(step.infos, step.dones)
        self.task_metrics.add_episodes(step.infos, step.dones)
        self._episode_num += int(np.sum(step.dones))
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Make some updates, `batch_size` rows per task each; NonFiniteError comes within 100 of a non-finite loss."""
        with self.timed("learn"), float32_products(tf32=self.actor.precision == "tf32"):
            self.policy.set_training_mode(True)
            self.rounds.begin(self.steps_per_task, self._n_updates, self._restart_networks)
            self._update_learning_rate(self.update.all_optimizers())
            if self.captured is not None:
                self.captured.hold_learning_rate()
            for step in range(gradient_steps):
                self.rounds.update(batch_size, step, self._n_updates)
                self._n_updates += 1
                if self._n_updates % CHECK_EVERY == 0:
                    self.guard.check()

    def metrics(self) -> dict[str, float]:
        """Return the latest numbers by "group/quantity" and "group/quantity/task"; waits for the device."""
        return self.task_metrics.read()

    @classmethod
    def load(
        cls,
        path: Any,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        trust: bool = False,
        run_code: bool = False,
        **changes: Any,
    ) -> Self:
        """Load an agent from a file of `save`, as `agents.saving.agent_file.load` says; other arguments are changes.

        :param trust: open Stable-Baselines3's format. It holds pickles, which can run any code: trust their origin.
        """
        agent_file.check_load(cls, changes, custom_objects, print_system_info, trust)
        if not trust:
            return agent_file.load(cls, path, env, device, changes, force_reset, run_code)
        with agent_file.of_this_version(path := agent_file.existing(path)):
            return super().load(path, env, device, custom_objects, print_system_info, force_reset, **changes)

    def export_sb3(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """Write Stable-Baselines3's own format (pickles); `MTSAC.load(path, trust=True)` reads it."""
        self._exported = {"counters": self.counters(), "return_scale": self.return_scale.state_dict()}
        super().save(path, exclude, include)
        self._exported = None

    def counters(self) -> dict[str, Any]:
        """Where training is, by its names in a saved agent."""
        own = {name: getattr(self, name) for name in COUNTERS}
        return {**own, **self.collection.counters(), "seconds": self.seconds, **self.rounds.counters()}

    def load_counters(self, saved: Mapping[str, Any]) -> None:
        """Go on from `counters`."""
        vars(self).update({name: saved[name] for name in COUNTERS})
        self.seconds.update(saved["seconds"])
        self.collection.load_counters(saved)
        self.rounds.load_counters(saved)

    def go_on_from(self, observations: np.ndarray) -> None:
        """Go on in an environment that shows `observations`."""
        self._last_obs = observations

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "capture", "compile", *PARTS]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        return [*state_dicts, "aggregator", "critic_aggregator"], variables
