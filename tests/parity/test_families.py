"""Every family of backbones: inputs, packed forward, decoding, gradients, adapters, export and scoring."""

from __future__ import annotations

import importlib
import math
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import InternVLConfig, InternVLForConditionalGeneration
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet
from transformers.video_utils import VideoMetadata

from descore import Scorer
from descore.families import FAMILIES, family_of
from descore.families.known_layers import check_layers
from descore.families.patches import grids_of_pictures
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.model.trainable import make_trainable, part_of, trainable
from descore.scoring.schedule import count_tokens
from descore.thinking.think import think
from descore.types import Frames, ModelError, Prefix, Thought
from descore.video.settings import VideoSettings
from tests.helpers.examples import make_frames, make_thought
from tests.helpers.small_families import SQUARES, TEXT, write_family
from tests.parity.plain import stock
from tests.parity.test_packed import TRAINED, compare, packed, plainly

AS_IT_IS = dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_convert_rgb", "do_sample_frames"), False)
THOUGHTS = [
    [make_thought(7, seed=1), Thought(), make_thought(3, seed=2, closed=False)],
    [Thought()],
    [make_thought(70, seed=3), make_thought(1, seed=4)],
]
SIZES = [(4, 32, 48), (2, 32, 32), (6, 48, 32)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(family: str, tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    """A model of the family, to be read only."""
    folder = tmp_path_factory.mktemp(family) / "backbone"
    write_family(folder, family)
    video = VideoSettings(min_pixels=256, max_pixels=1024, max_frames=6)
    settings = ModelSettings(str(folder), "Judge it: {prompt}", video=video, max_thought_tokens=12)
    return RewardModel.create(settings).eval()


def frames_of(model: RewardModel, index: int) -> Frames:
    num, *size = SIZES[index]
    size = model.processor.video_reader.size or size
    return make_frames(num, *size, seed=index)


def prefixes_of_examples(model: RewardModel) -> list[Prefix]:
    prompts = ("it", "a red circle", "two words")
    return [model.processor.prefix(prompt, frames_of(model, index)) for index, prompt in enumerate(prompts)]


def own_processor(family: str, kind: str, model: RewardModel) -> Any:
    """transformers' own processor, without the parts that the text of a video does not need."""
    module = importlib.import_module(f"transformers.models.{family}.processing_{family}")
    processor = getattr(module, kind).__new__(getattr(module, kind))
    side = model.processor.family.token_shape(torch.tensor([1, 4, 4]))
    processor.__dict__ |= {
        "video_processor": SimpleNamespace(merge_size=2, temporal_patch_size=2),
        "image_processor": SimpleNamespace(merge_size=2),
        "image_seq_length": side[1] * side[2],
        "image_seq_len": side[1] * side[2],
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "image_token": model.processor.family.placeholder,
    }
    return processor


OWN = {
    # The video processors of Qwen2-VL and InternVL are for torchvision only. The order of patches is that of
    # Qwen3-VL's, and frames stay whole as in SmolVLM2's.
    "qwen2_vl": ("qwen2_vl", "Qwen2VLProcessor", "qwen3_vl", "Qwen3VLVideoProcessor"),
    "qwen2_5_vl": ("qwen2_5_vl", "Qwen2_5_VLProcessor", "qwen3_vl", "Qwen3VLVideoProcessor"),
    "qwen3_vl": ("qwen3_vl", "Qwen3VLProcessor", "qwen3_vl", "Qwen3VLVideoProcessor"),
    "qwen3_vl_moe": ("qwen3_vl", "Qwen3VLProcessor", "qwen3_vl", "Qwen3VLVideoProcessor"),
    "qwen3_5": ("qwen3_vl", "Qwen3VLProcessor", "qwen3_vl", "Qwen3VLVideoProcessor"),
    "glm4v": ("glm4v", "Glm4vProcessor", "glm4v", "Glm4vVideoProcessor"),
    "internvl": ("internvl", "InternVLProcessor", "smolvlm", "SmolVLMVideoProcessor"),
    "smolvlm": ("smolvlm", "SmolVLMProcessor", "smolvlm", "SmolVLMVideoProcessor"),
}
WRITTEN = {"glm4v": "<|video|>", "internvl": "<video>", "smolvlm": "<video>"}
"""What the processor replaces by the text of a video; the chat template may write more around it."""


def test_ids_are_those_of_transformers_own_processor(model: RewardModel, family: str) -> None:
    frames, processor = frames_of(model, 0), model.processor
    prefix = processor.prefix("a cat", frames)
    metadata = VideoMetadata(total_num_frames=16, fps=8.0, frames_indices=list(frames.indices), duration=2.0)
    pixels = frames.pixels[None] if family in ("smolvlm", "internvl") else None
    inputs = {"video_grid_thw": prefix.grids, "video_metadata": [metadata]}
    inputs |= {"pixel_values": pixels, "pixel_values_videos": pixels}
    video = own_processor(*OWN[family][:2], model).replace_video_token(inputs, 0)
    text = processor.tokenizer.apply_chat_template(
        processor.template.messages("a cat"), tokenize=False, add_generation_prompt=True
    )
    before, written, after = text.partition(WRITTEN.get(family, "<|video_pad|>"))
    if "seconds>" in video:  # Qwen3-VL's processor replaces the vision block, not its placeholder alone
        before, after = before.removesuffix("<|vision_start|>"), after.removeprefix("<|vision_end|>")
    assert written
    assert prefix.input_ids.tolist() == processor.tokenizer.encode(before + video + after, add_special_tokens=False)
    num_tokens = len(model.see(one_video(model, prefix))[0].main)
    assert (prefix.input_ids == processor.family.placeholder_id).sum() == num_tokens
    assert math.prod(processor.family.token_shape(prefix.grids[0])) == num_tokens


def one_video(model: RewardModel, prefix: Prefix) -> Any:
    return model.processor.pack([prefix], [[Thought()]])


def test_pixels_are_those_of_transformers_own_processor(model: RewardModel, family: str) -> None:
    module, kind = OWN[family][2:]
    sizes = {"patch_size": 8} if model.processor.family.position_rows == 4 else {"do_pad": False}
    own = getattr(importlib.import_module(f"transformers.models.{module}.video_processing_{module}"), kind)
    frames = frames_of(model, 0)
    prefix = model.processor.prefix("a cat", frames)
    theirs = own(**sizes, cap_pixels_per_frame=False, **AS_IT_IS)(
        videos=[frames.pixels.float() / 127.5 - 1], return_tensors="pt"
    )
    pixels = theirs["pixel_values_videos" if "pixel_values_videos" in theirs else "pixel_values"]
    ours = model.processor.normalise(prefix.patches)
    assert_close(ours, pixels.reshape(ours.shape), atol=1e-6, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
def test_packed_is_one_by_one_with_the_same_gradients(model: RewardModel, checkpointing: bool) -> None:
    """The other side is transformers' own forward from pixels, with its own positions, one sequence for a thought."""
    trained = deepcopy(model)
    make_trainable(trained, TRAINED)
    if checkpointing:
        trained.train().base.gradient_checkpointing_enable({"use_reentrant": False})
    compare(trained, prefixes_of_examples(model), THOUGHTS)


def test_two_videos_in_one_prefix_are_what_transformers_makes_of_them(family: str, model: RewardModel) -> None:
    """Text, positions and features of both videos, and branches after them: one by one through transformers' own."""
    settings = replace(model.settings, template="1: {video:1} 2: {video:2} {prompt}", reward_from="choice")
    judge = RewardModel.create(settings).eval()
    make_trainable(judge, TRAINED)
    one, other = frames_of(model, 0), frames_of(model, 1)
    prefixes = [judge.processor.prefix("a red circle", *videos) for videos in ((one, other), (other, one))]
    assert prefixes[0].grids.tolist() == prefixes[1].grids.flip(0).tolist()
    compare(judge, prefixes, THOUGHTS[:2])


LOOSE_IN = {"glm4v": "<|image|>", "internvl": "<IMG_CONTEXT>", "smolvlm": "<image>"}
"""What the processor replaces by the text of a picture."""
PICTURES = {
    # The image processors that need no torchvision.
    "glm4v": ("glm4v", "Glm4vImageProcessorPil", {"patch_size": 8}),
    "internvl": ("got_ocr2", "GotOcr2ImageProcessorPil", {"crop_to_patches": False}),
    "smolvlm": (
        "smolvlm",
        "SmolVLMImageProcessorPil",
        {"do_image_splitting": False, "do_pad": False, "max_image_size": {"longest_edge": 32}},
    ),
}
PICTURES |= {name: ("qwen2_vl", "Qwen2VLImageProcessorPil", {"patch_size": 8}) for name in FAMILIES if "qwen" in name}


@pytest.fixture(scope="module")
def loose(model: RewardModel) -> RewardModel:
    """A model that is shown loose pictures, to be read only."""
    return RewardModel.create(replace(model.settings, template="Judge {frames} it: {prompt}")).eval()


def test_loose_pictures_have_the_ids_of_transformers_own_processor(loose: RewardModel, family: str) -> None:
    frames, processor = frames_of(loose, 0), loose.processor
    prefix, num = processor.prefix("a cat", frames), len(frames.pixels)
    grids = grids_of_pictures(prefix.grids)
    inputs = {"image_grid_thw": grids, "num_patches": [1] * num, "rows": [[0] * num], "cols": [[0] * num]}
    own = own_processor(*OWN[family][:2], loose)
    messages = processor.template.messages("a cat", [num])
    assert [part["type"] for part in messages[0]["content"]] == ["text", *["image"] * num, "text"]
    text = processor.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    first, *pieces = text.split(LOOSE_IN.get(family, "<|image_pad|>"))
    text = first + "".join(own.replace_image_token(inputs, index) + piece for index, piece in enumerate(pieces))
    assert prefix.input_ids.tolist() == processor.tokenizer.encode(text, add_special_tokens=False)
    assert len(pieces) == num
    assert (prefix.input_ids == processor.family.placeholder_id).sum() == len(
        loose.see(one_video(loose, prefix))[0].main
    )


def test_loose_pictures_have_the_pixels_of_transformers_own_processor(loose: RewardModel, family: str) -> None:
    module, kind, options = PICTURES[family]
    name = f"transformers.models.{module}.image_processing_pil_{module}"
    frames = replace(frames_of(loose, 0), pixels=frames_of(loose, 0).pixels[:3])  # an odd number
    own = getattr(importlib.import_module(name), kind)(do_resize=False, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    pictures = [frame.permute(1, 2, 0).numpy() for frame in frames.pixels]
    theirs = own(images=pictures, return_tensors="pt", **options)
    prefix = loose.processor.prefix("a cat", frames)
    ours = loose.processor.normalise(prefix.patches)
    assert_close(ours, theirs["pixel_values"].reshape(ours.shape), atol=1e-6, rtol=0)
    if "image_grid_thw" in theirs:
        assert torch.equal(theirs["image_grid_thw"], grids_of_pictures(prefix.grids))


def test_loose_pictures_are_what_transformers_makes_of_them(loose: RewardModel) -> None:
    """Positions, features and gradients, with branches after them: one by one through transformers' own forward."""
    trained = deepcopy(loose)
    make_trainable(trained, TRAINED)
    compare(trained, prefixes_of_examples(loose)[:2], THOUGHTS[:2])


def test_a_model_that_is_shown_loose_pictures_scores_by_its_export(
    loose: RewardModel, tmp_path: Any, clips: Any
) -> None:
    loose.save_pretrained(str(tmp_path / "export"), weights="merged")
    frames = loose.processor.video_reader(clips[0])
    prefix = loose.processor.prefix("a cat", frames)
    num_tokens = int((prefix.input_ids == loose.processor.family.placeholder_id).sum())
    assert count_tokens([clips[0]], loose.processor.video_reader) == [num_tokens], "what a batch is bounded by"
    expected = packed(loose, [prefix], [[Thought()]])[0]
    (score,) = Scorer(str(tmp_path / "export"), thoughts=False, device="cpu").score([clips[0]], "a cat")
    assert score.error is None
    assert score.reward == pytest.approx(expected.item(), abs=1e-5)


def test_two_videos_of_loose_pictures_are_what_transformers_makes_of_them(model: RewardModel) -> None:
    settings = replace(model.settings, template="1: {frames:1} 2: {frames:2} {prompt}", reward_from="choice")
    judge = RewardModel.create(settings).eval()
    make_trainable(judge, TRAINED)
    one, other = frames_of(model, 0), frames_of(model, 1)
    compare(
        judge,
        [judge.processor.prefix("a red circle", *videos) for videos in ((one, other), (other, one))],
        THOUGHTS[:2],
    )


@pytest.mark.parametrize("is_loose", [False, True], ids=["video", "pictures"])
def test_decoding_is_a_run_over_the_finished_thought(model: RewardModel, loose: RewardModel, is_loose: bool) -> None:
    brief, names = deepcopy(loose if is_loose else model), ("a", "b", "c")
    brief.processor.forbidden_ids = sorted(set(range(384)) - {*range(100, 109), brief.processor.end_id})
    prefixes = prefixes_of_examples(brief)
    videos = brief.processor.pack(prefixes, [[Thought()]] * 3)
    groups = think(brief, videos, Sampling(num_thoughts=5, temperature=1.0), names=names)
    assert len({len(thought.token_ids) for group in groups for thought in group.thoughts}) > 3, "slots end apart"
    forward = brief(brief.processor.pack(prefixes, [group.thoughts for group in groups]), with_logprobs=True)
    assert_close(torch.cat([group.rewards for group in groups]), forward.rewards, atol=1e-5, rtol=0)
    found = torch.cat([logprobs for group in groups for logprobs in group.logprobs])
    assert_close(found, forward.logprobs, atol=1e-5, rtol=0)


def test_siblings_do_not_see_each_other(model: RewardModel) -> None:
    prefixes = prefixes_of_examples(model)
    changed = [[make_thought(9, seed=8), *THOUGHTS[0][1:]], *THOUGHTS[1:]]
    before, after = (packed(model, prefixes, thoughts)[0][:, 0] for thoughts in (THOUGHTS, changed))
    assert abs(after[0] - before[0]) > 1e-3, "the thought that changed is scored anew"
    assert_close(after[1:], before[1:], atol=1e-5, rtol=0)


def test_every_part_has_parameters_and_lora_finds_its_layers(model: RewardModel) -> None:
    adapted = deepcopy(model)
    prefixes = prefixes_of_examples(model)
    make_trainable(adapted, TRAINED, lora_parts=("language",), lora_rank=2, lora_alpha=4)
    assert set(trainable(adapted)) == set(TRAINED)
    assert all(len(layers) >= 2 for layers in model.processor.family.layers(model.base.model)), "the units of FSDP"
    targets = {name.partition(".lora_A")[0] for name, _ in adapted.named_parameters() if ".lora_A" in name}
    assert {part_of(name) for name in targets} == {"language"}
    per_layer = {name.split(".")[-1] for name in targets}
    assert {"q_proj", "k_proj", "v_proj", "o_proj"} <= per_layer
    assert "lm_head" not in per_layer
    assert_close(packed(adapted, prefixes, THOUGHTS), packed(model, prefixes, THOUGHTS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("weights", ["merged", "adapter"])
def test_an_export_scores_as_the_model_does(model: RewardModel, tmp_path: Any, clips: list[str], weights: Any) -> None:
    trained = deepcopy(model)
    make_trainable(trained, ("language", "query", "head"), lora_parts=("language",), lora_rank=2, lora_alpha=4)
    with torch.no_grad():
        for parameters in trainable(trained).values():
            for parameter in parameters:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.05)
    trained.eval().save_pretrained(str(tmp_path / "export"), weights=weights)
    prefix = trained.processor.prefix("a cat", trained.processor.video_reader(clips[0]))
    expected = packed(trained, [prefix], [[Thought()]])[0]
    loaded = RewardModel.from_pretrained(str(tmp_path / "export"))
    assert_close(packed(loaded, [prefix], [[Thought()]])[0], expected, atol=1e-5, rtol=0)
    if weights == "merged":
        (score,) = Scorer(str(tmp_path / "export"), thoughts=False, device="cpu").score([clips[0]], "a cat")
        assert score.error is None
        assert score.reward == pytest.approx(expected.item(), abs=1e-5)


class SelfAttention(nn.Module):
    """A layer that runs through the whole row, as a recurrent one does."""

    def forward(self, hidden_states: torch.Tensor, **options: Any) -> tuple[torch.Tensor, None]:
        return hidden_states.cumsum(1) / 10, None


def layers_of(model: RewardModel) -> nn.ModuleList:
    return model.processor.family.layers(model.base.model)[0]


def test_a_layer_that_would_mix_branches_is_refused(model: RewardModel) -> None:
    """It is wrong by far, and only the check says so."""
    wrong = deepcopy(model)
    known = type(layers_of(wrong)[1].self_attn)
    SelfAttention.__name__ = known.__name__  # the name alone does not make it known
    layers_of(wrong)[1].self_attn = SelfAttention()
    prefixes = prefixes_of_examples(model)
    error = (packed(wrong, prefixes, THOUGHTS)[0] - plainly(stock(wrong), prefixes, THOUGHTS)[0]).abs().max()
    assert error > 1e-2
    with pytest.raises(ModelError, match=r"has tests\..* at .*layers\.1\.self_attn, for which branches of one prefix"):
        RewardModel(wrong.processor, wrong.base)


def test_a_kind_of_layer_that_is_not_known_is_refused(model: RewardModel) -> None:
    sliding = deepcopy(model)
    text = sliding.base.config.get_text_config()
    text.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(ModelError, match="layers of the kind sliding_attention"):
        check_layers(sliding.base, sliding.processor.family)
    text.layer_types = ["full_attention"] * 2
    attention = layers_of(sliding)[1].self_attn
    attention.sliding_window = 4
    if "sliding_window" in type(attention).forward.__code__.co_names:
        with pytest.raises(ModelError, match="asks for sliding_window"):
            packed(sliding, prefixes_of_examples(model), THOUGHTS)


def test_linear_attention_without_forks_is_refused_and_wrong(tmp_path: Any) -> None:
    write_family(tmp_path / "backbone", "qwen3_5")
    model = RewardModel.create(ModelSettings(str(tmp_path / "backbone"), "Judge it: {prompt}"))
    for layer in layers_of(model):
        if hasattr(layer, "linear_attn"):
            layer.linear_attn.__class__ = Qwen3_5GatedDeltaNet
    prefixes = prefixes_of_examples(model)
    error = (packed(model, prefixes, THOUGHTS)[0] - plainly(stock(model), prefixes, THOUGHTS)[0]).abs().max()
    assert error > 1e-2
    with pytest.raises(ModelError, match=r"Qwen3_5GatedDeltaNet at language_model\.layers\.0\.linear_attn"):
        check_layers(model.base, model.processor.family)


@pytest.mark.parametrize(
    ("kinds", "reason"), [(None, "kind sliding_attention"), (["full_attention"], "GptOssModel at")]
)
def test_internvl_on_a_language_model_with_windows_and_sinks_is_refused(kinds: Any, reason: str) -> None:
    text = {**TEXT, "model_type": "gpt_oss", "num_hidden_layers": 1, "num_local_experts": 2, "layer_types": kinds}
    config = InternVLConfig(text_config=text, vision_config={**SQUARES, "image_size": [32, 32], "patch_size": [8, 8]})
    with torch.device("meta"):
        network = InternVLForConditionalGeneration(config)
    with pytest.raises(ModelError, match=reason):
        check_layers(network, family_of(config))


def test_a_family_that_is_not_there_says_what_is() -> None:
    with pytest.raises(ValueError, match=r"'llava' is not among descore\.families; supported are qwen2_vl, .*glm4v$"):
        family_of(SimpleNamespace(model_type="llava"))  # type: ignore[arg-type]


def test_a_black_frame_of_smolvlm_is_seen(tmp_path: Any) -> None:
    """transformers takes a frame whose normalised pixels are all 0 for padding, and leaves it out."""
    write_family(tmp_path / "backbone", "smolvlm")
    (tmp_path / "backbone" / "preprocessor_config.json").write_text('{"image_mean": [0,0,0], "image_std": [1,1,1]}')
    model = RewardModel.create(ModelSettings(str(tmp_path / "backbone"), "Judge it: {prompt}")).eval()
    frames = make_frames(3, 32, 32)
    pixels = frames.pixels.clone()
    pixels[1] = 0
    prefix = model.processor.prefix("a cat", replace(frames, pixels=pixels))
    assert len(model.see(one_video(model, prefix))[0].main) == 3 * 4
    assert packed(model, [prefix], [[Thought()]])[0].isfinite().all()
