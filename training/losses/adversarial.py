"""The adversarial term of self-forcing: logistic losses on logits, f(u) = log(1 + exp(u)), and an approximate R1.

A critic gives high logits to true samples and low ones to made ones (Goodfellow and others, arXiv:1406.2661, with the
generator's non-saturating loss). R1 keeps it smooth about true samples: its square gradient there, which needs second derivatives, is
replaced by a finite difference as in APT (Lin and others, arXiv:2501.08316): (D(x) - D(x + sigma e))^2 with e of unit deviation,
which is about sigma^2 times the square gradient and, as there, not divided by sigma^2.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus


def critic_loss(true: Tensor, made: Tensor) -> Tensor:
    """Mean f(-D(true)) + mean f(D(made)) of logits of any shape; 2 log 2 for a critic that cannot tell."""
    return softplus(-true).mean() + softplus(made).mean()


def generator_loss(made: Tensor) -> Tensor:
    """Mean f(-D(made)) of logits of any shape."""
    return softplus(-made).mean()


def approximate_r1(true: Tensor, nearby: Tensor) -> Tensor:
    """Mean (D(x) - D(x + sigma e))^2. true, nearby: logits of true samples, and of the same ones with noise on them."""
    return (true - nearby).square().mean()
