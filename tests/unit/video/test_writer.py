"""The same frames give the same file, and what cannot be written is refused."""

import av
import numpy as np
import pytest
import torch

from descore.video.writer import write_video


def gradient(num_frames: int, height: int = 96, width: int = 96) -> np.ndarray:
    frames, rows, columns, channels = np.ogrid[:num_frames, :height, :width, :3]
    return ((frames * 3 + rows + columns * (channels + 1)) % 256).astype(np.uint8)


def test_reads_back_what_it_wrote(tmp_path):
    # Slow slopes survive the halved colour resolution of yuv420p; steps of one pixel would not.
    frames = gradient(6, 64, 80) // 4
    write_video(tmp_path / "clip.mp4", frames, fps=12.5, crf=1)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.frames, float(stream.average_rate), stream.codec_context.pix_fmt) == (6, 12.5, "yuv420p")
        found = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert np.abs(found - frames.astype(int)).mean() < 3


def test_the_index_stands_in_front(tmp_path):
    write_video(tmp_path / "clip.mp4", gradient(4), fps=8)
    data = (tmp_path / "clip.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_the_same_frames_give_the_same_bytes(tmp_path):
    for number in range(30):
        write_video(tmp_path / f"{number}.mp4", gradient(16), fps=8)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_the_order_of_the_channels_does_not_matter(tmp_path):
    write_video(tmp_path / "last.mp4", gradient(4), fps=8)
    write_video(tmp_path / "first.mp4", torch.from_numpy(gradient(4)).permute(0, 3, 1, 2), fps=8)
    assert (tmp_path / "first.mp4").read_bytes() == (tmp_path / "last.mp4").read_bytes()


def test_a_larger_crf_gives_a_smaller_file(tmp_path):
    sizes = []
    for crf in (5, 20, 40):
        write_video(tmp_path / "clip.mp4", gradient(8), fps=8, crf=crf)
        sizes.append((tmp_path / "clip.mp4").stat().st_size)
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (gradient(4, 95, 96), "got 95x96"),
        (gradient(4).astype(np.float32), "got float32"),
        (gradient(4)[0], r"got uint8 \[96, 96, 3\]"),
        (gradient(0), r"got uint8 \[0, 96, 96, 3\]"),
    ],
)
def test_frames_that_cannot_be_written_are_refused(tmp_path, frames, reason):
    with pytest.raises(ValueError, match=reason):
        write_video(tmp_path / "bad.mp4", frames, fps=8)
    assert not (tmp_path / "bad.mp4").exists()
