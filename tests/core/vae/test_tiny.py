"""The tiny decoder: piece by piece it gives what it gives whole, and refuses files that are none."""

from __future__ import annotations

import pytest
import torch

from causalcine_core.errors import InputError
from causalcine_core.vae.tiny import TinyDecoder


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return TinyDecoder().eval()


@pytest.mark.parametrize("pieces", [[1] * 6, [3, 3], [1, 2, 3]])
def test_streaming_decode_is_whole_decode(tiny, pieces):
    latent = torch.randn(2, 16, 6, 4, 5)
    whole, _ = tiny.decode(latent)
    assert whole.shape == (2, 3, 21, 32, 40)
    parts, state = [], None
    for piece in latent.split(pieces, 2):
        video, state = tiny.decode(piece, state)
        parts.append(video)
    torch.testing.assert_close(torch.cat(parts, 2), whole)


@pytest.mark.parametrize(("channels", "patch"), [(16, 1), (48, 2)])
def test_shapes_are_told_from_the_weights(channels, patch):
    weights = TinyDecoder(channels, patch).state_dict() | {"encoder.0.weight": torch.zeros(1)}
    tiny = TinyDecoder.from_weights({name: t.half() for name, t in weights.items()}, "taew.pth")
    video, _ = tiny.decode(torch.randn(1, channels, 2, 2, 2))
    assert video.shape == (1, 3, 5, 16 * patch, 16 * patch)


def test_odd_tensors_are_refused(tiny):
    """Of another rank, empty, of whole or complex numbers: by name, and not as whatever torch says."""
    for name in ("decoder.1.weight", "decoder.8.weight", "decoder.22.bias"):
        held = tiny.state_dict()[name]
        for odd in (held[0], held[:0], held[None], held.int(), held.to(torch.complex64)):
            with pytest.raises(InputError, match=r"^odd\.pth "):
                TinyDecoder.from_weights(tiny.state_dict() | {name: odd}, "odd.pth")


def test_other_files_are_refused(tiny):
    with pytest.raises(InputError, match=r"vae\.pth is no tiny decoder for Wan"):
        TinyDecoder.from_weights({"decoder.conv1.weight": torch.zeros(1)}, "vae.pth")
    narrow = {name: t for name, t in tiny.state_dict().items() if name != "decoder.8.weight"}
    with pytest.raises(InputError, match=r"lacks decoder\.8\.weight .*another architecture"):
        TinyDecoder.from_weights(narrow, "odd.pth")
