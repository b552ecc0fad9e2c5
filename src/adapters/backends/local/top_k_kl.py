"""The reverse KL of a student and a teacher on the teacher's k likeliest tokens.

Salient vocabulary alignment of Agents-A1 (arXiv 2606.30616): of teacher logits t and student logits s, S is the k
largest t; P and Q are the softmax of s and of t on S alone, and the loss of a token is sum_S P ln(P / Q), in nats. It
does not see what the student moves outside S; the coverage, the student's mass on S, does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch.nn.functional import embedding, linear
from torch.utils.checkpoint import checkpoint

TILE: Final = 1024
"""Tokens that are projected to the vocabulary at a time."""
ROWS: Final = 64
"""Tokens whose ties are settled at a time."""


@dataclass(frozen=True)
class Head:
    """An LM head, and what its model does with the logits; `temperature` divides them at last."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of (n, width) hidden states over the whole vocabulary, in float32."""
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        return self._finished(linear(hidden, self.weight.to(hidden.dtype), bias))

    def logits_at(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The logits of (n, k) tokens, with gradients to the hidden states."""
        # The tokens' own rows of the head, unless they take more memory than float32 logits of the whole vocabulary.
        if tokens.shape[-1] * hidden.shape[-1] * hidden.element_size() > 4 * len(self.weight):
            return self.logits(hidden).gather(-1, tokens)
        rows = embedding(tokens, self.weight).to(hidden.dtype)
        raw = torch.einsum("nh,nkh->nk", hidden, rows)
        return self._finished(raw if self.bias is None else raw + self.bias[tokens].to(raw.dtype))

    def _finished(self, raw: torch.Tensor) -> torch.Tensor:
        logits = raw.float() * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits / self.temperature


class TokenFigures(NamedTuple):
    """Figures of tokens, one entry each: only `loss` has gradients; `entropy` is the student's, in nats."""

    loss: torch.Tensor
    coverage: torch.Tensor
    """Mass of the student on the teacher's support."""
    teacher_coverage: torch.Tensor
    entropy: torch.Tensor


def support(teacher: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest of (n, vocabulary) logits, in any order; of equal ones the lower token id is in."""
    values, tokens = teacher.topk(k)
    least = values[..., -1:]
    # topk takes any of the equal ones at the edge; logits of 16 bits have such in most rows.
    tied = ((teacher >= least).sum(-1) > k).nonzero()[:, 0]
    for at in torch.split(tied, ROWS):
        above, equal = teacher[at] > least[at], teacher[at] == least[at]
        first = equal.cumsum(-1, dtype=torch.int32) <= k - above.sum(-1, keepdim=True)
        tokens[at] = (above | (equal & first)).nonzero()[:, 1].view(-1, k)
    return tokens


def reverse_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(P || Q) of two rows of logits over the same tokens, each renormalised on them."""
    log_p, log_q = student.log_softmax(-1), teacher.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def mass(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The probability of the given tokens together, in the whole vocabulary."""
    return (logits.gather(-1, tokens).logsumexp(-1) - logits.logsumexp(-1)).exp()


def token_figures(
    student_hidden: torch.Tensor, teacher_hidden: torch.Tensor, student: Head, teacher: Head, k: int
) -> TokenFigures:
    """Loss and figures of (n, width) hidden states, in tiles, so that no logits of all tokens are ever held."""
    tiles = [
        _tile(student_hidden[at : at + TILE], teacher_hidden[at : at + TILE], student, teacher, k)
        for at in range(0, max(1, len(student_hidden)), TILE)
    ]
    return TokenFigures(*(torch.cat(part) for part in zip(*tiles, strict=True)))


def _tile(
    student_hidden: torch.Tensor, teacher_hidden: torch.Tensor, student: Head, teacher: Head, k: int
) -> TokenFigures:
    with torch.no_grad():
        judged = teacher.logits(teacher_hidden)
        tokens = support(judged, k)
        wanted, teacher_coverage = judged.gather(-1, tokens), mass(judged, tokens)
        del judged
        whole = student.logits(student_hidden).log_softmax(-1)
        coverage = whole.gather(-1, tokens).logsumexp(-1).exp()
        entropy = -(whole.exp() * whole).sum(-1)
        del whole

    def loss(hidden: torch.Tensor) -> torch.Tensor:
        return reverse_kl(student.logits_at(hidden, tokens), wanted)

    value = checkpoint(loss, student_hidden, use_reentrant=False) if torch.is_grad_enabled() else loss(student_hidden)
    return TokenFigures(value, coverage, teacher_coverage, entropy)
