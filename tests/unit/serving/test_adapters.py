"""The shapes of trainers: what their code sends is scored as Python scores it, and a failure is never a number."""

from __future__ import annotations

import base64
import io
import math
import pickle
import pickletools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from descore.scoring.scorer import Scorer
from descore.serving.adapters.flow_grpo import plain_pickle
from descore.serving.refusals import Refused
from tests.helpers.gadgets import gadgets
from tests.helpers.serving import Running, serving

PROMPT = "a bright bar moves"


@pytest.fixture(scope="module")
def server(export: str, clips: list[str]) -> Iterator[Running]:
    bridge = ("--pickle-bridge", "flow_grpo", "--frames-fps", 8)
    with serving(f"main={export}", "--allow-root", Path(clips[0]).parent, *bridge) as running:
        yield running


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), dtype=np.uint8)


def png(frame: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    return file.getvalue()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_flow_factory(server, scorer: Scorer, frames):
    """Its client posts prompts and PNG frames, with keys that are null, and reads `rewards`."""
    video = [text(png(frame)) for frame in frames]
    body = {"prompt": [PROMPT, "a cat"], "image": None, "video": [video, ["AAAA"] * 8], "condition_images": None}
    answer = server.post("/compute", body).json()
    assert answer["rewards"] == [pytest.approx(scorer.score(frames, PROMPT, fps=8)[0].reward, abs=1e-5), None]
    assert answer["errors"][0] is None
    assert "frames.0" in answer["errors"][1]
    assert server.post("/compute", {"prompt": [PROMPT], "video": []}).status_code == 422
    assert server.post("/compute", {"prompt": [PROMPT], "image": ["AAAA"]}).status_code == 422


def test_unirl(server, scorer: Scorer, clips):
    """Its client posts histories and the rewards that are required, and reads sub-metrics by name, or errors."""
    assert server.get("/unirl/rewards").json() == {"rewards": ["main"]}
    bad = {"history": [{"text": PROMPT, "video_path": "gone.mp4"}], "required_rewards": ["main"]}
    good = {"history": [{"text": PROMPT}, {"video_path": "0.mp4"}], "required_rewards": ["main"], "metadata": {}}
    sent = {"history": [{"text": PROMPT, "video_b64": text(Path(clips[0]).read_bytes())}], "required_rewards": ["main"]}
    answer = server.post("/unirl/score", {"requests": [bad, good, sent]}).json()
    expected = pytest.approx(scorer.score(clips[0], PROMPT)[0].reward, abs=1e-5)
    assert [result.get("main", {}).get("reward") for result in answer["results"]] == [None, expected, expected]
    assert [list(errors) for errors in answer["errors"]] == [["main"], [], []]
    unknown = {"requests": [good | {"required_rewards": ["other"]}]}
    assert server.post("/unirl/score", unknown).status_code == 422
    assert server.post("/unirl/score", {"requests": [good | {"history": [{"text": PROMPT}]}]}).status_code == 422


def test_openrlhf(server, scorer: Scorer, clips):
    """Its trainer posts queries and prompts, and reads `rewards`, `scores` and `extra_logs`."""
    answer = server.post("/get_reward", {"query": ["0.mp4", "gone.mp4"], "prompts": [PROMPT] * 2}).json()
    expected = scorer.score(clips[0], PROMPT)[0]
    assert answer["rewards"] == answer["scores"] == [pytest.approx(expected.reward, abs=1e-5), None]
    assert answer["extra_logs"]["num_thought_tokens"] == [expected.num_thought_tokens, 0]
    assert server.post("/get_reward", {"query": ["0.mp4"], "prompts": []}).status_code == 422


def test_openai(server, scorer: Scorer, clips, frames):
    """Its clients post messages, read the first choice, and look for a number behind `Final Score:`."""
    data = f"data:video/mp4;base64,{text(Path(clips[0]).read_bytes())}"
    parts = [{"type": "text", "text": PROMPT}, {"type": "video_url", "video_url": {"url": data}}]
    answer = server.post("/v1/chat/completions", chat(parts)).json()
    content = answer["choices"][0]["message"]["content"]
    expected = scorer.score(clips[0], PROMPT)[0]
    assert content.startswith(expected.thought)
    assert float(re.search(r"Final Score:\s*(\S+)", content)[1]) == expected.reward
    assert answer["descore"]["reward"] == expected.reward
    images = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text(png(one))}"}} for one in frames]
    answer = server.post("/v1/chat/completions", chat([parts[0], *images])).json()
    assert answer["descore"]["reward"] == scorer.score(frames, PROMPT, fps=8)[0].reward
    assert server.get("/v1/models").json()["data"][0]["id"] == "main"


def chat(parts: list[dict]) -> dict:
    return {"model": "main", "messages": [{"role": "user", "content": parts}], "max_tokens": 512, "n": 1}


def test_a_chat_whose_video_fails_is_refused_since_text_would_be_read_as_a_score(server):
    bad = {"type": "video_url", "video_url": {"url": "gone.mp4"}}
    answer = server.post("/v1/chat/completions", chat([{"type": "text", "text": PROMPT}, bad]))
    assert answer.status_code == 422
    assert "--allow-root" in answer.json()["error"]
    assert server.post("/v1/chat/completions", chat([{"type": "text", "text": PROMPT}])).status_code == 422
    assert server.post("/v1/chat/completions", chat([bad]) | {"stream": True}).status_code == 422


def test_flow_grpo(server, scorer: Scorer, clips, frames):
    """Its reward posts a pickle of images and prompts, and unpickles lists."""
    images = [Path(clips[0]).read_bytes(), [png(frame) for frame in frames], b"none"]
    body = pickle.dumps({"images": images, "prompts": [PROMPT] * 3, "metadata": {}, "only_strict": True})
    answer = pickle.loads(server.post("/flow_grpo", content=body).content)
    expected = [scorer.score(clips[0], PROMPT)[0].reward, scorer.score(frames, PROMPT, fps=8)[0].reward]
    assert answer["scores"][:2] == pytest.approx(expected, abs=1e-5)
    assert math.isnan(answer["scores"][2])
    assert answer["errors"][2]
    for wrong in ({}, [], {"images": [1], "prompts": ["p"]}, {"images": [b"a"], "prompts": [3]}):
        assert server.post("/flow_grpo", content=pickle.dumps(wrong)).status_code == 422
    assert server.post("/flow_grpo", content=b"hello").status_code == 422


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_plain_values_is_read(protocol: int):
    numbers = [1, 300, 70_000, 2**40, -1, 0.5, None, True, False]
    value = {"images": [b"a" * 300, (b"b", "é" * 300)], "numbers": numbers, "metadata": {}}
    assert plain_pickle(pickle.dumps(value, protocol)) == value


def test_no_gadget_runs(server, tmp_path):
    canary = tmp_path / "canary"
    found = gadgets(canary)
    assert len(found) >= 20
    assert any(opcode.name == "REDUCE" for opcode, *_ in pickletools.genops(found["os.system"]))
    for name, content in found.items():
        with pytest.raises(Refused):
            plain_pickle(content)
        assert server.post("/flow_grpo", content=content).status_code == 422, name
    assert not canary.exists()


def test_the_bridge_is_off_unless_it_is_asked_for(export):
    from descore.serving.app import make_app
    from descore.serving.options import ServerOptions

    app, _ = make_app(ServerOptions({"m": export}), print)
    assert "/flow_grpo" not in app._app.openapi()["paths"]
