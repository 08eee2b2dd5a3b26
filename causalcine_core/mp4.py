"""What ffmpeg is told to make our mp4 files: H.264, yuv420p, BT.709 in limited range, AAC; as arguments of its command line."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

EXACT = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"  # of the scaler: no rounding downwards
_BT709 = "colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
_WHOLE = ["-movflags", "+faststart+use_metadata_tags", "-f", "mp4"]  # the index stands before the pictures


def pictures(rate: Fraction | int, size: tuple[int, int], metadata: Path | None = None) -> list[str]:
    """Frames (rgb24, from the pipe) as one mp4, ready to stream. metadata: of `metadata_file`."""
    return [*_encoded(rate, size, metadata), *_WHOLE]


def fragment(rate: Fraction, size: tuple[int, int], metadata: Path) -> list[str]:
    """Frames (rgb24, from the pipe) as one fragment behind a head without any: the first one leads to all that follow."""
    flags = "+empty_moov+default_base_moof+skip_trailer+use_metadata_tags"
    scale = ["-bf", "0", "-video_track_timescale", str(time_scale(rate))]  # frames in the order in which they are shown
    return [*_encoded(rate, size, metadata), *scale, "-movflags", flags, "-f", "mp4"]


def time_scale(rate: Fraction) -> int:
    """Ticks a second of a file's clock: a whole number of them is a frame, at any rate that a file can hold."""
    scale = rate.numerator * -(-10_000 // rate.numerator)
    return scale if scale < 1 << 31 else 90_000


def joined(film: Path, metadata: Path, sound: tuple[Sequence[str], str] | None) -> list[str]:
    """The pictures of a film as they are, in one mp4 that is ready to stream. sound: the arguments that open it, and a filter that
    cuts it to the film."""
    opened, cut = sound or ((), "")
    steady = ["-flush_packets", "1"]  # not by 256 KiB, which may be minutes of film: who waits sees it move
    track = ["-map", "2:a:0", "-af", cut, "-c:a", "aac"] if sound else []
    return [
        *("-i", str(film.absolute()), "-f", "ffmetadata", "-i", str(metadata), *opened),
        *("-map", "0:v", "-c:v", "copy", *track, "-map_metadata", "1", "-map_chapters", "-1", *steady, *_WHOLE),
    ]


def metadata_file(metadata: Mapping[str, str]) -> Path:
    """A file in ffmpeg's metadata format: an argument could not hold a whole workflow."""

    def escaped(text: str) -> str:
        return "".join("\\" + c if c in "=;#\\\n" else c for c in text.replace("\0", ""))

    lines = [";FFMETADATA1", *(f"{escaped(name)}={escaped(str(value))}" for name, value in metadata.items()), ""]
    with tempfile.NamedTemporaryFile("wb", prefix="causalcine-", suffix=".txt", delete=False) as file:
        file.write("\n".join(lines).encode("utf-8", "replace"))
    return Path(file.name)


def _encoded(rate: Fraction | int, size: tuple[int, int], metadata: Path | None) -> list[str]:
    told = [] if metadata is None else ["-f", "ffmetadata", "-i", str(metadata), "-map", "0:v", "-map_metadata", "1"]
    # fmt: off
    return [
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}",
        "-r", f"{rate.numerator}/{rate.denominator}", "-i", "-", *told,
        "-vf", f"scale=in_range=pc:out_range=tv:out_color_matrix=bt709:flags={EXACT},setparams={_BT709}",
        "-c:v", "libx264", "-preset", "fast", "-crf", "16", "-pix_fmt", "yuv420p", "-tag:v", "avc1",
    ]
    # fmt: on
