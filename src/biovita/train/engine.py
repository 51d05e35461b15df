"""How a stage runs, on one process or many: what may change the speed and the memory, but not the result."""

from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import nn

from biovita.errors import ConfigError
from biovita.train import ranks
from biovita.train.recipe import Recipe
from biovita.train.trainee import Trainee

PATIENCE = timedelta(hours=6)  # one process may validate or embed while the others wait


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How a stage runs.

    Attributes:
        workers: processes that read, decode and augment ahead, for each training process; 0: none.
        cpu: do not use a GPU that is there.
        compiled: compile the towers, which takes minutes at the first step.
        checkpoint_activations: compute activations again in the backward pass, in less memory and a third more time.
        sharded: spread weights and moments over the processes (FSDP) instead of keeping them all in each.
    """

    workers: int = 0
    cpu: bool = False
    compiled: bool = False
    checkpoint_activations: bool = False
    sharded: bool = False

    def start(self) -> Accelerator:
        """Join the other processes, if torchrun or accelerate started several."""
        return Accelerator(
            cpu=self.cpu or not torch.cuda.is_available(),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that does not suit so many processes.

        Raises:
            ConfigError: it does not.
        """
        n = ranks.world_size()
        if recipe.batch_size % n:
            raise ConfigError(f"batch_size {recipe.batch_size} is not a multiple of the {n} processes")
        listens = recipe.audio_text or recipe.audio_image
        if n > 1 and listens and not recipe.freeze_batch_norm:
            raise ConfigError(
                f"{n} processes and freeze_batch_norm is false: each would take HTS-AT's batch statistics from its own "
                "share; set freeze_batch_norm"
            )

    def wrap(self, accelerator: Accelerator, trainee: Trainee, recipe: Recipe) -> nn.Module:
        """Make a trainee ready for its device and the other processes.

        Raises:
            ConfigError: the recipe does not suit so many processes.
        """
        self.check(recipe)
        n = ranks.world_size()
        if self.checkpoint_activations:
            trainee.model.gradient_checkpointing_enable({"use_reentrant": False})
        if self.compiled:
            for tower in (trainee.model.audio_model, trainee.model.clip.vision_model, trainee.model.clip.text_model):
                tower.compile()
        return trainee if self.sharded and n > 1 else accelerator.prepare(trainee)
