"""A conversation gives what its turns give one by one, in training, in decoding and in scoring."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from descore.families import FAMILIES
from descore.frame_tool.calls import write_call
from descore.frame_tool.settings import FrameTool
from descore.inputs.processor import prefixes_of
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.scoring.scorer import Scorer
from descore.thinking import looking
from descore.thinking.conversation import SELECTED, Conversation, begin, converse, go_on, said_before
from descore.thinking.looking import look_and_think
from descore.types import Frames, Group, Thought
from tests.helpers.examples import export_model, make_frames
from tests.helpers.small_families import write_family
from tests.parity.plain import plain_forward, stock

TOOL = FrameTool(first_frames=2, frames_per_call=3, max_calls=2)
POOL = make_frames(6, seed=3)
CALL, WRONG = f"Unsure.{write_call([3, 4])}", f"Hm.{write_call([9])}"
TEXTS = {"none": "It fits.", "one": f"{CALL}It fits.", "wrong_then_right": f"{WRONG}{CALL}It fits.", "silent": ""}
TOLD = "There is no frame 9. Ask for frames from 1 to 6."


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl"])
def looker(request: pytest.FixtureRequest, build) -> RewardModel:
    return build(request.param, tool=TOOL, max_thought_tokens=200)


@pytest.fixture(scope="module", params=["video", "pictures"])
def is_loose(request: pytest.FixtureRequest) -> bool:
    return request.param == "pictures"


@pytest.fixture(scope="module", params=FAMILIES)
def shower(request: pytest.FixtureRequest, is_loose, tmp_path_factory) -> RewardModel:
    """A model of each family, that is shown a video, or the same frames as loose pictures."""
    folder = tmp_path_factory.mktemp(request.param) / "backbone"
    write_family(folder, request.param)
    template = "Judge it: {frames}{prompt}" if is_loose else "Judge it: {prompt}"
    return RewardModel.create(ModelSettings(str(folder), template, max_thought_tokens=300, tool=TOOL)).eval()


def pool_of(model: RewardModel) -> Frames:
    return make_frames(6, *(model.processor.video_reader.size or (32, 48)), seed=3)


def turns_of(model: RewardModel, *texts: str) -> list[tuple[Conversation, Thought]]:
    """The turns of a conversation, each with what was before it."""
    conversation, found = begin(model.processor, "a cat", pool_of(model)), []
    for text in texts:
        found.append((conversation, model.processor.thought(text)))
        conversation = go_on(model.processor, *found[-1])
    return found


@pytest.mark.parametrize("turns", [[CALL, "It fits."], [WRONG, CALL, "It fits."]], ids=["one", "wrong_then_right"])
def test_packed_equals_one_by_one(shower, turns):
    """The reward is that of the last turn, and every turn has the log-probabilities of its own prefix and branch."""
    prefix, last = converse(shower.processor, "a cat", pool_of(shower), "".join(turns))
    other = shower.processor.prefix("a dog", make_frames(4, *pool_of(shower).pixels.shape[2:], seed=5))
    branches = shower.processor.pack([other, prefix, other], [[last], [last, Thought()], [last]])
    forward = shower(branches, with_logprobs=True)
    plain, expected = stock(shower), turns_of(shower, *turns)
    found = [plain_forward(plain, one.prefix, turn) for one, turn in expected]
    assert_close(forward.rewards[1], found[-1][0], atol=1e-5, rtol=0)
    assert_close(forward.rewards[2], plain_forward(plain, prefix, Thought())[0], atol=1e-5, rtol=0)
    own = forward.logprobs[branches.target_branch == 1]
    assert_close(own, torch.cat([logprobs for _, logprobs in found]), atol=1e-5, rtol=0)


def test_a_conversation_reads_as_the_chat_template_writes_it(looker):
    processor = looker.processor
    prefix, _ = converse(processor, "a cat", POOL, f"{CALL}{WRONG}It fits.")
    first, chosen = (
        replace(POOL, pixels=POOL.pixels[own], indices=tuple(4 * i for i in own)) for own in ([0, 5], [2, 3])
    )
    chat = processor.tokenizer.apply_chat_template(
        [
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Judge it: a cat"}]},
            {"role": "assistant", "content": CALL},
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": SELECTED}]},
            {"role": "assistant", "content": WRONG},
            {"role": "user", "content": [{"type": "text", "text": TOLD}]},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    pieces = chat.split(processor.family.video.text)
    grids = [processor.family.patches(frames.pixels)[1] for frames in (first, chosen)]
    videos = [processor.family.video_text(*pair) for pair in zip((first, chosen), grids, strict=True)]
    expected = pieces[0] + videos[0] + pieces[1] + videos[1] + pieces[2]
    assert processor.tokenizer.decode(prefix.input_ids.tolist()) == expected
    assert prefix.grids.tolist() == [grid.tolist() for grid in grids]
    assert len(prefix.patches) == int(prefix.grids.prod(1).sum())
    said = [processor.tokenizer.decode(prefix.input_ids[start : end - 1].tolist()) for start, end in prefix.turns]
    assert said == [CALL, WRONG]


def test_frames_are_repeated_where_the_backbone_takes_no_such_number(looker):
    conversation = go_on(looker.processor, *turns_of(looker, write_call([5]))[0])
    assert conversation.shown[1].indices == (16, 16)
    assert begin(looker.processor, "a cat", make_frames(2)).shown[0].indices == (0, 4)


def scripted(monkeypatch, *rounds: list[list[str]]) -> list[list[str]]:
    """Let the model say what is written down for each round of turns, and list what keyed its tokens."""
    left, asked = list(rounds), []

    @torch.no_grad()
    def think(model, videos, sampling, *, names, seen):
        asked.append(list(names))
        texts = left.pop(0)
        thoughts = [[model.processor.thought(text) for text in row] for row in texts]
        forward = model(model.processor.pack(prefixes_of(videos), thoughts), with_logprobs=True, seen=seen)
        rewards = forward.rewards.split([len(row) for row in thoughts])
        sizes = [len(one.token_ids) + one.closed for row in thoughts for one in row]
        logprobs = iter(forward.logprobs.split(sizes))
        return [
            Group(tuple(row), tuple(said), tuple(next(logprobs) for _ in row), own)
            for row, said, own in zip(thoughts, texts, rewards, strict=True)
        ]

    monkeypatch.setattr(looking, "think", think)
    return asked


@torch.no_grad()
def test_decoding_gives_what_a_run_over_the_finished_conversation_gives(looker, monkeypatch):
    """Three videos: one thought calls twice, wrongly first; one calls at once; others never, or too often."""
    rounds = (
        [[WRONG, "No."], [f"{CALL} and on it goes", "It fits."], ["Never.", CALL]],
        [[CALL], ["Seen."], ["Seen too."]],
        [[f"{CALL}Too late."]],
    )
    names = scripted(monkeypatch, *rounds)
    prompts, pools = ("a cat", "a dog", "a cow"), [make_frames(6, seed=seed) for seed in (3, 4, 5)]
    begun = [begin(looker.processor, *video) for video in zip(prompts, pools, strict=True)]
    groups = look_and_think(looker, begun, Sampling(num_thoughts=2, temperature=1.0), names=("u", "v", "w"))
    said = [text for group in groups for text in group.texts]
    assert said == [f"{WRONG}{CALL}{CALL}Too late.", "No.", f"{CALL}Seen.", "It fits.", "Never.", f"{CALL}Seen too."]
    assert names == [["u", "v", "w"], ["u/0+", "v/0+", "w/1+"], ["u/0++"]]
    for prompt, pool, group in zip(prompts, pools, groups, strict=True):
        for index, text in enumerate(group.texts):
            prefix, last = converse(looker.processor, prompt, pool, text)
            branches = looker.processor.pack([prefix], [[last]])
            forward = looker(branches, with_logprobs=True)
            assert_close(group.rewards[index], forward.rewards[0], atol=1e-5, rtol=0)
            assert group.thoughts[index].token_ids == said_before(prefix) + last.token_ids
            if not (text.startswith(CALL) and "Seen." in text):  # one turn was cut after its call, before its end
                assert_close(group.logprobs[index], forward.logprobs, atol=1e-5, rtol=0)


def test_the_vision_tower_sees_every_frame_once(looker, monkeypatch):
    scripted(monkeypatch, [[CALL], [WRONG], ["Fine."]], [["Seen."], [CALL]], [["Seen."]])
    seen = []
    see = RewardModel._see
    monkeypatch.setattr(
        RewardModel, "_see", lambda self, branches: seen.append(len(branches.grids)) or see(self, branches)
    )
    begun = [begin(looker.processor, "a cat", make_frames(6, seed=seed)) for seed in (3, 4, 5)]
    look_and_think(looker, begun)
    assert seen == [3, 1, 1]


def test_an_export_scores_as_the_model_does(build, clips, tmp_path, monkeypatch):
    """The tool travels in the export; a thought with its calls that is given scores as the model's own."""
    video = replace(build().settings.video, fps=8.0, max_frames=16)
    model = build(tool=TOOL, video=video, max_thought_tokens=200)
    scorer = Scorer(export_model(model, tmp_path / "export"), device="cpu")
    assert scorer.model.settings.tool == TOOL
    texts = [f"{CALL}It fits.", "No."]
    scripted(monkeypatch, [[CALL], ["No."]], [["It fits."]])
    own = scorer.score(clips[:2], "a cat")
    assert [score.thought for score in own] == texts
    assert [score.error for score in own] == [None, None]
    given = scorer.score(clips[:2], "a cat", thought=texts)
    pools = [model.processor.read(clip) for clip in clips[:2]]
    begun = [converse(model.processor, "a cat", *video) for video in zip(pools, texts, strict=True)]
    prefixes, lasts = zip(*begun, strict=True)
    rewards = model(model.processor.pack(prefixes, [[last] for last in lasts])).rewards[:, 0].tolist()
    for found in (own, given):
        assert [score.reward for score in found] == pytest.approx(rewards, abs=1e-4)
        assert [score.num_thought_tokens for score in found] == [
            len(said_before(prefix)) + len(last.token_ids) for prefix, last in begun
        ]
    first = scorer.score(clips[:2], "a cat", thought="")
    alone = [begin(model.processor, "a cat", pool).prefix for pool in pools]
    rewards = model(model.processor.pack(alone, [[Thought()]] * 2)).rewards[:, 0].tolist()
    assert [score.reward for score in first] == pytest.approx(rewards, abs=1e-4)
