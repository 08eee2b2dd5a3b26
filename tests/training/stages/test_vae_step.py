"""The codec's real updates against what its docstrings say, written out in float64; the losses of pictures have tests of their own."""

from __future__ import annotations

import copy
from random import Random

import pytest
import torch
import torch.nn.functional as F

from training.losses.adversarial_patches import draw_patches
from training.losses.haar import haar_loss
from training.losses.reconstruction import edge_loss, rhythm_loss

from ..reference import adamw, clipped

WEIGHTS = {"edge": 0.7, "haar": 1.3, "rhythm": 0.2, "kl": 1e-2}
LEARNING = {"warmup": 4, "clip": 0.05, "betas": [0.8, 0.9], "muon_learning_rate": 0}
JUDGE = {"learning_rate": 1e-3, "betas": [0.5, 0.9], "weight_decay": 0}


def reference(stage, batch):
    """Losses by name, and their gradients by network and name, of a batch whose discriminator has no earlier fakes."""
    vae, judge = copy.deepcopy(stage.vae).double(), copy.deepcopy(stage.discriminator).double()
    video, unit = batch.video.double(), stage.deviation.double().view(1, -1, 1, 1, 1)
    mean, logvar, _ = vae.encode_moments(video)
    latents = mean + (0.5 * logvar).exp() * batch.posterior.double() + unit * batch.disturbance.double()
    output = vae.decode(latents, clamp=False)[0]
    error = output - video
    losses = {
        "pixel": error.abs().mean() + 3 * error.pow(2).mean(),
        "edge": edge_loss(output, video, 2),
        "haar": haar_loss(output, video),
        "rhythm": rhythm_loss(output, video),
        "kl": (mean.pow(2) + logvar.exp() - 1 - logvar).mean() / 2,
    }
    total = sum(WEIGHTS.get(name, 1.0) * loss for name, loss in losses.items())
    gradients = {}
    if batch.judged:  # crops are as large as patches, so a patch's place is its crop and its first frame
        places = patches(stage, batch)
        at = [[min(t + i, video.shape[2] - 1) for i in range(3)] for _, t in places]
        fake, true = (
            torch.stack([x[b][:, f].flatten(0, 1) for (b, _), f in zip(places, at, strict=True)])
            for x in (output, video)
        )
        latent = torch.stack(
            [(mean / unit)[b, :, (f[1] + 3) // 4] for (b, _), f in zip(places, at, strict=True)]
        ).detach()

        def squares(moved):
            scores = zip(judge(moved, latent), judge(true, latent), strict=True)
            return sum(((a - b.detach()) ** 2).mean((1, 2, 3)).sum() for a, b in scores)

        moved = fake.detach().requires_grad_()
        (slope,) = torch.autograd.grad(squares(moved), moved)
        target = fake.detach() - 0.1 * slope / slope.flatten(1).std(1).view(-1, 1, 1, 1)
        losses["adversarial"] = F.mse_loss(fake, target)
        total = total + 0.5 * losses["adversarial"]
        scores = list(zip(judge(true, latent), judge(fake.detach(), latent), strict=True))
        losses["discriminator"] = sum((a - 1).pow(2).mean() + b.pow(2).mean() for a, b in scores) / len(scores)
        found = torch.autograd.grad(losses["discriminator"], list(judge.parameters()), retain_graph=True)
        gradients["discriminator"] = dict(zip(dict(judge.named_parameters()), found, strict=True))
    found = torch.autograd.grad(total, list(vae.parameters()), allow_unused=True)  # a still doubles no frames
    pairs = zip(dict(vae.named_parameters()), found, strict=True)
    gradients["vae"] = {name: gradient for name, gradient in pairs if gradient is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def patches(stage, batch):
    """The crop and the first frame of each patch that the stage looks at, told by patches of numbered frames."""
    count, _, frames, edge, _ = batch.video.shape
    numbers = torch.arange(count * frames).view(count, 1, frames, 1, 1).expand(-1, 3, -1, edge, edge)
    size = edge // 8
    grid = torch.zeros(count, 1, 1 + frames // 4, size, size)
    plan = stage.recipe.adversary
    seen = draw_patches(numbers, numbers, grid, plan.patches, plan.size, 8, Random(batch.places))[0]
    return [divmod(int(one[0, 0, 0]), frames) for one in seen]


@pytest.fixture
def trainer(training):
    """`trainer(kind)`: all of its updates are of one kind."""

    def make(kind: str):
        batches = [{"share": 1, "count": 2, "frames": {"clip": 9, "still": 1}[kind], "crop": 16}]
        made = training(
            footage={"curriculum": [{"until": 1, "batches": batches}]},
            optimizer=LEARNING,
            weights=WEIGHTS,
            squared=3.0,
            adversary={"ramp": 0, "weight": 0.5, "optimizer": JUDGE},
            ema={"decay": 0.9},
        )
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():  # no weight is zero or one, so that each matters
            for parameter in made.stage.vae.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        made.stage.average.reset()
        made.stage.deviation.copy_(torch.linspace(0.5, 1.5, 16))
        return made

    return make


@pytest.mark.parametrize("kind", ["clip", "still"])
@pytest.mark.parametrize("step", [0, 2])  # before the discriminator begins, and as it does
def test_an_update_is_that_of_the_reference(trainer, kind, step):
    """Losses, gradients as they are clipped, weights by AdamW, and the average; neither network's loss reaches the other."""
    made = trainer(kind)
    stage, made.step = made.stage, step
    (batch,) = stage.draw(step).batches
    losses, gradients = reference(stage, batch)
    begun = {name: copy.deepcopy(part.module).double() for name, part in stage.parts.items()}
    average = {name: weight.double() for name, weight in stage.average.weights.items()}
    found = made.update()
    assert set(found) == set(losses) and ("discriminator" in losses) == (step == 2)
    for name, value in losses.items():
        torch.testing.assert_close(found[name].double(), value, atol=1e-6, rtol=1e-4, msg=name)
    assert all(p.grad is None for p in stage.discriminator.parameters()) == (step == 0)
    rates = {"vae": 1e-3 * (step + 1) / 4, "discriminator": 1e-3}
    betas = {"vae": (0.8, 0.9), "discriminator": (0.5, 0.9)}
    for part, expected in gradients.items():
        expected = clipped(expected, {"vae": 0.05, "discriminator": 1.0}[part])
        before = dict(begun[part].named_parameters())
        for name, p in stage.parts[part].module.named_parameters():
            if name not in expected:
                assert p.grad is None and "time_conv" in name and torch.equal(p.double(), before[name])
                continue
            most = max(expected[name].abs().max().item(), 1e-6)
            told = f"{part} {name}"
            torch.testing.assert_close(p.grad.double(), expected[name], atol=1e-3 * most, rtol=1e-3, msg=told)
            moved = adamw(before[name].detach(), [p.grad.double()], [rates[part]], betas[part], 0.0)
            torch.testing.assert_close(p.detach().double(), moved, atol=1e-6, rtol=1e-6, msg=told)
    keep = min(0.9, (1 + step) / (10 + step))
    for name, p in stage.vae.named_parameters():
        told = keep * average[name] + (1 - keep) * p.detach().double()
        torch.testing.assert_close(stage.average.weights[name].double(), told, atol=1e-6, rtol=1e-6, msg=name)
