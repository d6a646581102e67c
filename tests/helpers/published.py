"""Small checkpoints with random weights in the layouts of published models, and what the published code computes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from tests.helpers.small_families import write_family

NAMES = ("VQ", "MQ", "TA")
STATISTICS = {"VQ": (3.6757, 2.2476), "MQ": (1.1646, 1.3811), "TA": (2.8105, 2.5121)}
THREE_QUERIES = (
    "\nJudge the video.\nThe quality: <|VQ_reward|>\nEND\nThe motion: <|MQ_reward|>\nEND\n"
    "The text - {text_prompt}\nThe alignment: <|TA_reward|>\nEND\n"
)
ONE_QUERY = "\nJudge the picture.\nThe text - {text_prompt}\n\n\n\nThe ratings: <|Reward|>\n\nEND\n"
PATCH, MERGE, DEPTH = 8, 2, 2


@dataclass
class Published:
    """A published checkpoint, and the model that it holds, as the published code has it."""

    source: Path
    backbone: Path
    template: Path
    network: Any
    tokenizer: Any
    queries: tuple[str, ...]

    @property
    def options(self) -> dict[str, Any]:
        """What an import of it is told beside its layout and output."""
        return {"source": str(self.source), "backbone": str(self.backbone), "template": str(self.template)}

    @torch.no_grad()
    def states(self, pixels: Tensor, prompt: str, kind: str) -> Tensor:
        """Return the states of the query tokens, [Q, hidden], after the final norm.

        Args:
            pixels: [T, 3, H, W] uint8 frames, two for each temporal patch.
            prompt: Text that is judged by.
            kind: "video", or "image" for a picture, which is shown twice.
        """
        patches, grid = patchify(pixels)
        message = [{"type": "video"}, {"type": "text", "text": self.template.read_text().format(text_prompt=prompt)}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
        )
        placeholders = f"<|{kind}_pad|>" * (int(grid.prod()) // MERGE**2)
        ids = self.tokenizer(text.replace("<|video_pad|>", placeholders), return_tensors="pt").input_ids
        placeholder = self.tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>")
        suffix = "_videos" if kind == "video" else ""
        output = self.network.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == placeholder).int() * (2 if kind == "video" else 1),
            **{f"pixel_values{suffix}": patches, f"{kind}_grid_thw": grid[None]},
        )
        places = [ids[0].tolist().index(self.tokenizer.convert_tokens_to_ids(token)) for token in self.queries]
        states: Tensor = output.last_hidden_state[0, places]
        return states


def patchify(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Cut frames into patches, block by block, with plain loops."""
    values = (pixels.float() / 255 - 0.5) / 0.5
    time, rows, columns = len(pixels) // DEPTH, pixels.shape[2] // PATCH, pixels.shape[3] // PATCH
    patches = []
    for step in range(time):
        for block_row in range(0, rows, MERGE):
            for block_column in range(0, columns, MERGE):
                for row in range(block_row, block_row + MERGE):
                    for column in range(block_column, block_column + MERGE):
                        here = values[step * DEPTH : (step + 1) * DEPTH]
                        here = here[:, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
                        patches.append(here.transpose(0, 1).flatten())
    return torch.stack(patches), torch.tensor([time, rows, columns])


def write_videoreward(folder: Path, **peft: Any) -> Published:
    """Write VideoReward's layout: `model.pth` in PEFT's names around the model of an old transformers."""
    queries = tuple(f"<|{name}_reward|>" for name in NAMES)
    made = _made(folder, THREE_QUERIES, queries, tied=True)
    made.network.rm_head = nn.Linear(64, 3, bias=False)
    layers = [
        name
        for name, module in made.network.named_modules()
        if isinstance(module, nn.Linear) and "language_model" in name
    ]
    options = {"r": 4, "lora_alpha": 8, "use_rslora": False} | peft
    wrapped = get_peft_model(made.network, LoraConfig(target_modules=layers, **options))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name or "rm_head" in name:
                parameter.normal_(0, 0.1)
    checkpoint = made.source / "checkpoint-20"
    checkpoint.mkdir(parents=True)
    torch.save({_old(name): tensor for name, tensor in wrapped.state_dict().items()}, checkpoint / "model.pth")
    made.tokenizer.save_pretrained(checkpoint / "tokenizer")
    statistics = {
        f"{name}_{kind}": pair[at] for name, pair in STATISTICS.items() for at, kind in enumerate(["mean", "std"])
    }
    config = {
        "data_config": {
            "fps": 2.0,
            "num_frames": None,
            "max_frame_pixels": 200704,
            "sample_type": "uniform",
            "eval_dim": list(NAMES),
            "prompt_template_type": "detailed_special",
            "meta_data": "elsewhere.csv",
        },
        "model_config": {
            "model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct",
            "output_dim": 3,
            "use_special_tokens": True,
            "reward_token": "special",
        },
        "peft_lora_config": {
            "lora_enable": True,
            "lora_r": options["r"],
            "lora_alpha": options["lora_alpha"],
            "use_rslora": options["use_rslora"],
        },
        "inference_config": statistics,
    }
    (made.source / "model_config.json").write_text(json.dumps(config))
    (made.source / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# A small one\n")
    return made


def write_hpsv3(folder: Path, *, old_names: bool) -> Published:
    """Write HPSv3's layout: one safetensors file with the head among the tensors of the model."""
    made = _made(folder, ONE_QUERY, ("<|Reward|>",), tied=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        widths = (24, 8)
        made.network.rm_head = nn.Sequential(
            nn.Linear(64, widths[0]),
            nn.ReLU(),
            nn.Dropout(0.05),
            nn.Linear(*widths),
            nn.ReLU(),
            nn.Linear(widths[1], 2),
        )
    made.network.eval()
    made.source.mkdir(parents=True)
    state = {_old(name) if old_names else name: tensor for name, tensor in made.network.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, made.source / "HPSv3.safetensors")
    return made


def _made(folder: Path, template: str, queries: tuple[str, ...], *, tied: bool) -> Published:
    """Write a backbone and an instruction, and build the model with the query tokens that the published code adds."""
    backbone = folder / "backbone"
    write_family(backbone, "qwen2_vl")
    config = Qwen2VLConfig.from_pretrained(backbone)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    network = Qwen2VLForConditionalGeneration.from_pretrained(backbone, config=config)
    network.save_pretrained(backbone)
    (folder / "template.txt").write_text(template)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    tokenizer.add_special_tokens({"additional_special_tokens": list(queries)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return Published(folder / "source", backbone, folder / "template.txt", network.eval(), tokenizer, queries)


def _old(name: str) -> str:
    """Return the name that a tensor had before transformers 4.52."""
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.", 1)
