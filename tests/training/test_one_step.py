"""The trainer's real steps against an independent reference: loss, gradients, updated weights and averages."""

from __future__ import annotations

import pytest
import torch

from training.data.shards import save_shard
from training.recipe import read
from training.stages import teacher_forcing
from training.stages.teacher_forcing import TeacherForcing, TeacherForcingRecipe
from training.trainer import Trainer

from .conftest import RECIPE, SHOTS, changed
from .reference import Shape, adamw, clipped, flow_loss, muon

IDS = {",": 2, "[character1]": 3, "a": 4, "cat": 5, "red": 6}  # of the sorted vocabulary, behind padding and unknown
RATE, DECAY, BETAS, CLIP, WARMUP, KEEP = 0.01, 0.1, (0.8, 0.9), 0.5, 4, 0.9


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """`trainer(kind, **changes)`: on films of random latents, of which each update takes two samples; one is withheld its text in
    some of the updates."""
    monkeypatch.setattr(teacher_forcing, "CAPTION_VOCABULARY", list(IDS))

    def make(kind: str, precision: str = "fp32", **changes) -> Trainer:
        films = torch.randn(3, 16, 21, 4, 4, generator=torch.Generator().manual_seed(1))
        save_shard(tmp_path / "films-0.safetensors", list(films), [{"chunk": 3, "shots": SHOTS, "cast": [{}] * 21}] * 3)
        optimizer = {"learning_rate": RATE, "muon_learning_rate": 0, "weight_decay": DECAY, "betas": BETAS}
        data = changed(
            {name: value for name, value in RECIPE.items() if name not in ("mixture", "auxiliary", "teacher_every")},
            mixture={"batch": {kind: 2}, "curriculum": [{"until": 1, "mix": {kind: 1}}], "name_only_weight": 2.0},
            optimizer={**optimizer, "clip": CLIP, "warmup": WARMUP, "cooldown": 0} | changes,
            ema={"decay": KEEP},
            run={"precision": precision},
            text_dropout=0.5,
            clip_window=1,
        )
        recipe = read(TeacherForcingRecipe, data)
        stage = TeacherForcing(recipe, torch.device("cpu"), tmp_path)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():  # no weight is zero or one, so that each matters
            for parameter in stage.model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            stage.model.text.tokens.weight[0] = 0
        stage.average.reset()
        return Trainer(stage, recipe, tmp_path, torch.device("cpu"))

    return make


def reference_loss(stage: TeacherForcing, step: int, weights: dict[str, torch.Tensor], kind: str) -> torch.Tensor:
    """The loss of what the stage draws at a step."""
    (batch,) = stage.draw(step).batches
    ids = [[[IDS[word] for word in text.replace(",", " ,").split()] for text in of] for of in batch.prompts]
    by_name = torch.tensor([[text == "[character1]" for text in of] for of in described(batch)])
    shares = 1.0 + by_name  # name_only_weight is 2
    shape = Shape(heads=2, text_heads=2, chunk=3, window=1, top_k=2)
    return flow_loss(weights, shape, batch.clean, batch.noise, batch.levels, ids, shares / shares.sum())


def described(batch):
    """What the prompts were before any was withheld: told by the latents, whose films the test knows."""
    films = torch.randn(3, 16, 21, 4, 4, generator=torch.Generator().manual_seed(1))
    out = []
    for clean in batch.clean:
        texts = []
        for chunk in clean.split(3, 1):
            found = [
                (f, n)
                for f in range(3)
                for n in range(7)
                if torch.allclose(normal(films[f, :, 3 * n : 3 * n + 3]), chunk, atol=1e-2)
            ]
            ((_, n),) = found
            texts.append(next(shot["prompt"] for shot in SHOTS if shot["chunks"][0] <= n < shot["chunks"][1]))
        out.append(texts)
    return out


def normal(latents):
    from causalcine_core.vae import normalize

    return normalize(latents[None].half().float())[0]


@pytest.mark.parametrize("kind", ["film", "clip"])
def test_loss_and_gradients_of_a_step_are_those_of_the_reference(trainer, kind):
    made = trainer(kind, clip=0)
    withheld = 0
    for step in range(3):
        names = dict(made.stage.model.named_parameters())
        weights = {name: p.detach().double().requires_grad_() for name, p in names.items()}
        loss = reference_loss(made.stage, step, weights, kind)
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        (batch,) = made.stage.draw(step).batches
        withheld += sum(of[0] == "" for of in batch.prompts)
        made.step = step
        made.stage.parts["model"].optimizers.step = lambda *_: None  # only measured here
        losses = made.update()
        torch.testing.assert_close(losses["flow"].double(), loss.detach(), atol=0, rtol=1e-5)
        for name, p in names.items():
            scale = gradients[name].abs().max().item()
            torch.testing.assert_close(
                p.grad.double(), gradients[name], atol=1e-5 * max(scale, 1e-3), rtol=1e-4, msg=name
            )
    assert 0 < withheld < 6


def test_three_updates_and_their_average_are_those_of_the_reference(trainer):
    """Clipping, warm-up, AdamW with its moments and weight decay, and the average after every update."""
    made = trainer("clip")
    parameters = dict(made.stage.model.named_parameters())
    begun = {name: p.detach().double() for name, p in parameters.items()}
    average, seen = begun, []
    for step in range(3):
        leaves = {name: p.detach().double().requires_grad_() for name, p in parameters.items()}
        loss = reference_loss(made.stage, step, leaves, "clip")
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        expected = clipped(gradients, CLIP)
        assert expected["net.head.head.bias"].norm() < 0.9 * gradients["net.head.head.bias"].norm()
        made.update()
        seen.append({name: p.grad.double() for name, p in parameters.items()})
        rates = [RATE * (n + 1) / WARMUP for n in range(step + 1)]
        keep = min(KEEP, (1 + step) / (10 + step))
        average = {n: keep * average[n] + (1 - keep) * p.detach().double() for n, p in parameters.items()}
        for name, parameter in parameters.items():
            most = max(expected[name].abs().max().item(), 1e-4)
            torch.testing.assert_close(
                seen[-1][name],
                expected[name],
                atol=3e-5 * most,
                rtol=1e-4,
                msg=lambda told, name=name: f"{name}: {told}",
            )
            weight = adamw(begun[name], [g[name] for g in seen], rates, BETAS, DECAY)
            torch.testing.assert_close(
                parameter.detach().double(),
                weight,
                atol=RATE * 1e-4,
                rtol=1e-6,
                msg=lambda told, name=name: f"{name}: {told}",
            )
            told = made.stage.average.weights[name].double()
            torch.testing.assert_close(
                told, average[name], atol=1e-6, rtol=1e-6, msg=lambda told, name=name: f"{name}: {told}"
            )
            assert step == 0 or (told - weight).abs().max() > RATE / 100, name


def test_hidden_matrices_are_moved_by_muon_and_the_rest_by_adamw(trainer):
    """Given the same gradients, each weight goes where the reference's optimizer for it puts it, two updates long."""
    rate = 0.02
    made = trainer("clip", muon_learning_rate=rate, clip=0)
    begun = {name: p.detach().double() for name, p in made.stage.model.named_parameters()}
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in begun}
    for _ in range(2):
        made.update()
        for name, parameter in made.stage.model.named_parameters():
            seen[name].append(parameter.grad.double())
    matrices = 0
    for name, parameter in made.stage.model.named_parameters():
        hidden = parameter.ndim == 2 and name not in ("text.tokens.weight", "text.positions", "net.head.head.weight")
        if hidden:
            expected = muon(begun[name], seen[name], [rate / WARMUP, 2 * rate / WARMUP], DECAY)
        else:
            expected = adamw(begun[name], seen[name], [RATE / WARMUP, 2 * RATE / WARMUP], BETAS, DECAY)
        error = (parameter.detach().double() - expected).norm() / (expected - begun[name]).norm()
        assert error < (5e-3 if hidden else 1e-3), name
        matrices += hidden
    assert matrices > 30


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_at_2e_6_changes_weights(trainer, precision):
    """The published rate of distillation: below the spacing of bfloat16 at nearly every weight, so weights must be float32."""
    made = trainer("clip", precision, learning_rate=2e-6, warmup=0, weight_decay=0)
    begun = {name: p.detach().clone() for name, p in made.stage.model.named_parameters()}
    made.update()
    moved = [(p.detach() != begun[name]).float().mean().item() for name, p in made.stage.model.named_parameters()]
    assert min(moved) > 0.2 and sum(moved) / len(moved) > 0.9
    assert all(p.dtype == torch.float32 for p in made.stage.model.parameters())
