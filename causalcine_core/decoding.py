"""From latents to frames and back: a film decoded, or a clip encoded, piece by piece, exactly as the whole would be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import FilmStoppedError, NotFiniteError
from .runner import Runner
from .sampling import Chunk, State
from .vae import VAEState, WanVAE, frames_to_uint8, uint8_to_frames

WIDER = 8  # positions that a weight of a VAE's decoder meets for each of the latent, about: later layers have more


@dataclass(frozen=True)
class Decoding:
    """A VAE that encodes and decodes beside a network, which says how passes are run on this machine."""

    vae: WanVAE
    network: Runner

    def stream(self, stream: Iterator[Chunk], state: State, overlap: bool) -> Iterator[Chunk]:
        """Chunks of a film that goes on from `state`, with their frames. overlap: on a GPU, decode a chunk while the next one is made:
        each then comes a chunk later. What decodes beside the next chunk does so in a GPU stream of its own."""
        device = next(self.vae.parameters()).device
        overlap = overlap and state.settings.budget is None  # it holds one more state, which no budget counts
        aside = torch.cuda.Stream(device) if overlap and device.type == "cuda" else None
        waiting: tuple[Chunk, Tensor] | None = None
        decoder = self._left_by(state)
        del state  # so that only who gave it holds what it remembers

        def done(chunk: Chunk, frames: Tensor) -> Chunk:
            with torch.cuda.stream(aside):
                return replace(chunk, frames=frames.cpu().numpy())

        try:
            for chunk in stream:
                with torch.cuda.stream(aside):
                    frames, decoder = self._frames(chunk.latent, decoder)
                newest = replace(chunk, state=replace(chunk.state, decoder=decoder)), frames
                ready, waiting = (waiting, newest) if overlap else (newest, None)
                if ready is not None:
                    yield done(*ready)
                del chunk, newest, ready
        except FilmStoppedError:
            if waiting is not None:
                yield done(*waiting)
            raise
        if waiting is not None:
            yield done(*waiting)

    @torch.no_grad()
    def encode_picture(self, picture: NDArray[np.uint8]) -> Tensor:
        """One latent frame `[1, C, 1, h, w]` of a picture, uint8 `[H, W, 3]`."""
        weight = next(self.vae.parameters())
        return self.vae.encode(uint8_to_frames(torch.tensor(picture)[None]).to(weight.device, weight.dtype))[0]

    @torch.no_grad()
    def picture(self, latent: Tensor) -> NDArray[np.uint8]:
        """The picture, uint8 `[H, W, 3]`, of one latent frame."""
        weight = next(self.vae.parameters())
        return frames_to_uint8(self.vae.decode(latent.to(weight.device, weight.dtype))[0])[0].cpu().numpy()

    def _left_by(self, state: State) -> VAEState | None:
        """The decoder's part of a state; where it was never decoded, or was cut back, what decoding its latents leaves."""
        decoder, weight = state.decoder, next(self.vae.parameters())
        if decoder is not None:
            return decoder.to(weight.device)
        for latent in state.latents:
            _, decoder = self._frames(latent, decoder)
        return decoder

    def replay(self, state: State) -> Iterator[Chunk]:
        """The chunks that a film has, decoded once more; `state` of each is the film's."""
        decoder: VAEState | None = None
        for record, latent in zip(state.records, state.latents, strict=True):
            frames, decoder = self._frames(latent, decoder)
            done = Chunk(record.plan.index, record.plan.shot, latent, record.routing, state, record.seconds)
            yield replace(done, frames=frames.cpu().numpy())

    @torch.no_grad()
    def encode(self, frames: Iterator[NDArray[np.uint8]], pieces: Iterable[int]) -> Tensor:
        """Latents `[1, C, F, h, w]` in VAE space, on the CPU, of a clip's frames, uint8 `[H W 3]`. pieces: how many frames are encoded
        at once, the first time and after that; without end."""
        weight, encoder, latents = next(self.vae.parameters()), None, list[Tensor]()
        for count in pieces:
            piece = list(islice(frames, count))
            if not piece:
                break
            video = uint8_to_frames(torch.from_numpy(np.stack(piece))).to(weight.device, weight.dtype)
            latent, encoder = self.vae.encode(video, encoder)
            latents.append(latent.float().cpu())
        return torch.cat(latents, 2)

    @torch.no_grad()
    def _frames(self, latent: Tensor, decoder: VAEState | None) -> tuple[Tensor, VAEState]:
        """Frames uint8 `[F, H, W, 3]` of a film's next latents, and the decoder's state after them."""
        weight = next(self.vae.parameters())
        latent, before = latent.to(weight.device, weight.dtype), decoder

        def trial() -> Tensor:
            return self.vae.decode(latent, before)[0]

        work = 2.0 * WIDER * sum(p.numel() for p in self.vae.decoder.parameters()) * latent[0, 0].numel() * len(latent)
        with self.network.as_passes(("decode", before is None, *latent.shape), work, trial):
            video, decoder = self.vae.decode(latent, before)
            if not torch.isfinite(video).all():
                raise NotFiniteError(
                    "the decoder gives numbers that are none (NaN or infinity): the VAE or the state's decoder is damaged"
                )
            return frames_to_uint8(video), decoder
