"""Makes the backbone that ships with the package: random weights, trained on rendered videos until it sees.

    make tiny-backbone                      writes the start, trains, measures, and ships
    python -m data_modules.tiny_backbone --steps 500 --ship ""      a shorter trial that ships nothing
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

from data_modules.random_backbone import Sizes, write_random_backbone
from data_modules.teacher import Teacher
from data_modules.wording import write_prompt
from data_modules.world import draw_request, draw_shown
from descore.prompts import PromptTemplate

START = Path("runs/tiny_backbone/start")
CONFIG = Path("conf/tiny_backbone.yaml")


def corpus(num_texts: int = 2000, seed: int = 0) -> list[str]:
    """Write prompts and thoughts of the rendered world, for the tokenizer to learn from."""
    rng = np.random.default_rng(seed)
    template = PromptTemplate.read("conf/prompts/rendered.txt")
    texts = []
    for index in range(num_texts):
        request = draw_request(rng, "train", 0.25)
        shown = draw_shown(rng, request, "train", 0.3)
        prompt = write_prompt(request, "train", rng)
        texts.append(str(template.messages(prompt)[0]["content"][1]["text"]))
        texts.append(Teacher(habits={}).thought(request, shown, seed=seed, video=str(index)))
        texts.append(f"<{rng.uniform(0, 9):.1f} seconds>")
    return texts


if __name__ == "__main__":
    shutil.rmtree(START, ignore_errors=True)
    write_random_backbone(START, corpus(), sizes=Sizes())
