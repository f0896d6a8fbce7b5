"""The base of online and offline runs that train an agent: the agent, its evaluations and its checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlrep.agents import Agent, accelerate, make_agent
from rlrep.encoder_files import place_of
from rlrep.experiments.run import ranks
from rlrep.experiments.run.checkpoint import (
    CHECKPOINT,
    CheckpointError,
    fitting,
    load_checkpoint,
    random_state,
    set_random_state,
)
from rlrep.experiments.run.config import RunConfig
from rlrep.experiments.run.driver import Run, TrainingError, following, kept
from rlrep.experiments.run.evaluation import evaluate, make_evaluation_env, write_video
from rlrep.experiments.run.log import Log, NonFiniteLoss, UpdateMetrics, check_extras
from rlrep.experiments.run.pretrained import load_weights
from rlrep.kept import forget_embeddings


class AgentRun(Run):
    """A run that trains an agent.

    Under torchrun each rank learns from its share of the batch, in its own folder `rank_N`, and the ranks average their
    gradients; the first rank evaluates and writes the checkpoints.

    Args:
        config: of the run.
        folder: of the run. If it has a checkpoint, the run continues from it.
    """

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.rank = ranks.rank()
        self.own_folder = folder / f"rank_{self.rank}" if self.rank else folder
        self.batch_size = ranks.share("batch_size", config.batch_size)
        self.seed = ranks.seed(config.seed)
        self.updates = self.next_eval = 0
        self.evaluated = -1  # `count` at the last evaluation
        self.metrics = UpdateMetrics(self.counter)
        check_extras(config.use_wandb, config.use_tb)
        checkpoint = folder / CHECKPOINT
        state = load_checkpoint(checkpoint, config.device) if checkpoint.exists() else None
        if state is not None:
            with fitting(checkpoint):
                check_ranks(state)  # before the replay, which would refuse the files for their sizes
                self.check_files(state)
        torch.manual_seed(config.seed)
        with ExitStack() as opened:
            self.eval_env = opened.enter_context(closing(make_evaluation_env(config, film=config.save_video)))
            self.check_data()
            self.agent = build_agent(
                config, self.eval_env.observation_space, self.eval_env.action_space, self.batch_size
            )
            self.check_agent()
            if state is None:
                self.initialize()
            if self.rank:
                torch.manual_seed(self.seed)
            self.open(opened)
            if state is not None:
                with fitting(checkpoint):
                    self.restore(state)
            if config.path == "fast":
                accelerate(self.agent)
            log = Log(config, self.own_folder, self.count, self.evaluated, self.total, self.counter)
            self.log = opened.enter_context(closing(log))
            self.close = opened.pop_all().close

    @property
    def total(self) -> int:
        """`count` at the end."""
        return int(getattr(self.config, self.longer))

    @property
    def eval_every(self) -> int:
        """The growth of `count` between two evaluations."""
        return int(getattr(self.config, f"eval_every_{self.counter}s"))

    def check_files(self, state: dict[str, Any]) -> None:
        """Refuses a checkpoint's state without the other files that it needs."""

    @property
    @abstractmethod
    def step_of_agent(self) -> int:
        """The step for the agent's schedules."""

    def check_data(self) -> None:
        """Opens finished data and checks it against the environment."""

    def check_agent(self) -> None:
        """Refuses an agent that the environment or the data can't serve."""

    def initialize(self) -> None:
        """Loads the initial weights of a new agent."""
        if self.config.encoder.path is not None:
            load_weights(self.agent.encoder, place_of(self.config.encoder.path))
            self.agent.objectives.restart_copies()

    def open(self, opened: ExitStack) -> None:
        """Opens everything else that the loop needs."""

    @property
    def at_end(self) -> bool:
        return self.count >= self.total

    def advance(self) -> None:
        if self.count >= self.next_eval:
            self.evaluate()
        self.make_step()

    @abstractmethod
    def make_step(self) -> None:
        """One step of the loop."""

    def act(self, observation: np.ndarray, eval_mode: bool = False) -> np.ndarray:
        """The agent's actions.

        Raises:
            NonFiniteLoss: if they are not finite, naming the loss that caused it.
        """
        action = self.agent.act(observation, self.step_of_agent, eval_mode)
        if not np.isfinite(action).all():
            self.metrics.check()
            raise NonFiniteLoss(f"an action is not finite at {self.counter} {self.count}, though every loss was")
        return action

    def evaluate(self) -> None:
        """Plays the evaluation episodes, and stores a row, a video and the curve so far."""
        self.metrics.check()
        if not self.rank:
            self.play_evaluation()
        self.evaluated = self.count
        self.next_eval = following(self.count, self.eval_every)

    def play_evaluation(self, envs: Any = None) -> None:
        config = self.config

        def policy(observation: np.ndarray) -> np.ndarray:
            self.stop.check()  # an evaluation takes minutes; a resumed run repeats it
            return self.act(observation, eval_mode=True)

        told = self.log.progress.evaluating(config.num_eval_episodes)
        evaluation = evaluate(policy, self.eval_env, config.num_eval_episodes, config.save_video, envs, told)
        if not np.isfinite(evaluation.returns).all():
            raise TrainingError(
                f"{config.task} gave rewards that are not finite in an evaluation at {self.counter} {self.count}: "
                f"rewards must be finite. Training stopped; {kept(self.folder)}"
            )
        note = "" if self.updates else " (untrained)"
        self.log.row("eval", {self.counter: self.count, **evaluation.row}, note)
        if config.save_video:
            path = self.folder / "videos" / f"{self.count:09d}.mp4"
            write_video(path, evaluation.film, evaluation.frames_per_second)
            self.log.video(path)
        from rlrep.experiments.results.curves import (
            draw_run,
        )  # Matplotlib takes long to import, and only the first rank draws

        draw_run(self.folder, self.folder / "curve.png")

    def own_state(self) -> dict[str, Any]:
        """The state that each rank stores separately."""
        return {"random": random_state()}

    def state(self) -> dict[str, Any] | None:
        self.metrics.check()
        if not all(parameter.isfinite().all() for parameter in self.agent.parameters()):
            raise NonFiniteLoss(f"a parameter is not finite at {self.counter} {self.count}, though every loss was")
        of_ranks = ranks.to_first(self.own_state())
        if self.rank:
            return None
        return {
            "step": self.step_of_agent,
            "updates": self.updates,
            "evaluated": self.evaluated,
            "agent": self.agent.state_dict(),
            "ranks": of_ranks,
        }

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.agent.load_state_dict(state["agent"])
        if self.rank:  # the first rank's caches are of its own replay's observations
            forget_embeddings(self.agent)
        set_random_state(state["ranks"][self.rank]["random"])
        self.updates, self.evaluated = state["updates"], state["evaluated"]
        self.next_eval = following(self.evaluated, self.eval_every) if self.evaluated >= 0 else 0


def build_agent(config: RunConfig, observation_space: Any, action_space: Any, batch_size: int | None = None) -> Agent:
    """Builds the agent of a configuration.

    Args:
        config: of the run.
        observation_space, action_space: of the environment.
        batch_size: on this rank; the run's if None.
    """
    return make_agent(
        config.agent["algorithm"],
        observation_space.shape,
        action_space,
        objectives=config.objectives,
        objective_options={name: own_share(name, options) for name, options in config.objective.items()},
        encoder_options=config.encoder.options,
        freeze_encoder=config.encoder.freeze,
        shift=config.shift,
        device=config.device,
        path=config.path,
        joint=config.update == "joint",
        batch_size=batch_size or config.batch_size,
        n_step=config.nstep,
        **config.agent_options,
    )


def own_share(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """An objective's options on this rank, with its part of a batch size of its own."""
    if not options.get("batch_size"):
        return dict(options)
    part = ranks.share(f"objective.{name}.batch_size", options["batch_size"])
    return {**options, "batch_size": part}


def check_ranks(state: dict[str, Any]) -> None:
    """Refuses a checkpoint of another number of processes, because each has its own replay or sampler."""
    saved, started = len(state["ranks"]), ranks.world_size()
    if saved != started:
        raise CheckpointError(
            f"the run was trained by {saved} process{'es' if saved > 1 else ''}, and now there are {started}: go on "
            f"with torchrun --nproc-per-node={saved}"
        )
