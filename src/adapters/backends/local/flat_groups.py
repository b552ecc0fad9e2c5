"""Groups of equal rewards leave the loss: they teach nothing, but count in its denominator and in the KL term."""

from __future__ import annotations

from typing import Any

from trl import GRPOTrainer

BY_TOKENS = ("dapo", "bnpo", "cispo", "vespo")
"""TRL's loss types whose denominator counts tokens, so that a masked completion leaves it; dapo is its default."""


def leave_out(trainer: GRPOTrainer) -> None:
    """Mask the completions of groups without variance, and count only the others' tokens.

    A generation without any other group stays as it is: its gradient is that of the KL term, if there is one.
    """
    generate = trainer._generate_and_score_completions

    def without_flat(inputs: Any) -> dict[str, Any]:
        out: dict[str, Any] = generate(inputs)
        accelerator, advantages = trainer.accelerator, out["advantages"]
        # A group may be shared among processes. TRL centres rewards by their group, whatever divides them.
        groups = accelerator.gather(advantages).view(-1, trainer.num_generations)
        varied = (groups.abs() > 1e-6).any(dim=1)
        if varied.all() or not varied.any():
            return out
        mine = varied.repeat_interleave(trainer.num_generations)
        start = accelerator.process_index * len(advantages)
        out["completion_mask"] = out["completion_mask"] * mine[start : start + len(advantages), None].int()
        learned = out["completion_mask"] * out.get("tool_mask", 1)
        out["num_items_in_batch"] = accelerator.gather(learned.sum()).sum()
        return out

    trainer._generate_and_score_completions = without_flat
