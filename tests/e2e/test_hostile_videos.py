"""Videos that are valid but strange, damaged, cut off, or none at all: each is decoded right, or refused."""

import socket
from collections.abc import Iterable
from pathlib import Path

import av
import pytest

from descore.video.isolation import IsolatedReader
from tests.robustness.bad_videos import READER, judge
from tests.robustness.hostile_videos import CODECS, Case, cut_off, damaged, encode, exotic, no_videos, remux

needs_av1 = pytest.mark.skipif("libsvtav1" not in av.codecs_available, reason="this PyAV writes no AV1")


def unexpected(cases: Iterable[Case]) -> dict[str, tuple[str, str, float]]:
    decode = IsolatedReader(READER, seconds=20)
    judged = {case.name: judge(case, decode) for case in cases}
    assert len(judged) >= 20
    return {name: said for name, said in judged.items() if said[0] not in {"right", "refused"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in ("h264.mp4", "h264.mkv", "mpeg4.avi", "av1.mp4"):
        codec, pixels, options = CODECS[name]
        encode(folder / name, codec, pixels, **options)
    remux(folder / "h264.mp4", folder / "index_first.mp4", movflags="+faststart")
    return folder


@needs_av1
def test_what_is_cut_off_or_damaged_is_refused_or_right_all_the_same(folder):
    assert not unexpected(cut_off(folder))
    assert not unexpected(damaged(folder))


@needs_av1
def test_what_is_no_video_is_refused_and_leads_nowhere(folder):
    with socket.create_server(("127.0.0.1", 0)) as trap:
        assert not unexpected(no_videos(folder, trap.getsockname()[1]))
        trap.setblocking(False)
        with pytest.raises(BlockingIOError):
            trap.accept()


@pytest.mark.slow
@needs_av1
def test_strange_videos_are_decoded_right_or_refused_by_their_header(tmp_path):
    assert not unexpected(exotic(tmp_path))
