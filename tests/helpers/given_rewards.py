"""Evaluations whose rewards are given, without a model and without files."""

from pathlib import Path

from descore.evaluation.folder import Evaluation
from descore.evaluation.summary import summarise
from descore.scoring.folder import plain

PROTOCOL = {"kind": "pointwise", "thoughts": 1, "temperature": 0.0, "reward_from": "head"}


def score(reward: float | None, thought: str = "", each: tuple[float, ...] = (), **values: object) -> dict:
    record = {"reward": reward, "rewards": {}, "thought": thought, "num_thought_tokens": len(thought)}
    record |= {"truncated": False, "reward_std": None, "error": None if reward is not None else "v0: it broke"}
    return record | {"each": [score(one, thought) for one in each]} | values


def evaluation(
    rewards: list[float | None], pairs: list[tuple[int, int, int | None]], /, *, name: str = "run", **values: object
) -> Evaluation:
    """Videos v0, v1, ... with a generator each, and pairs of two places and a preference."""
    thoughts = values.pop("thoughts", 1)
    info = {"benchmark": "mine", "preset": "descore", "model": f"m/{name}", "rejected": {}, "dimensions": ["overall"]}
    videos = [
        {"video": f"v{i}", "prompt": f"p{i // 2}", "generator": f"g{i}", "mos": {"overall": None}}
        for i in range(len(rewards))
    ]
    records = [
        {"id": f"{i}", "prompt": f"p{i}", "a": a, "b": b, "preference": {"overall": preference}}
        | {"scores_a": None, "scores_b": None}
        for i, (a, b, preference) in enumerate(pairs)
    ]
    found = {
        "folder": Path(name),
        "info": info | {"protocol": PROTOCOL | {"thoughts": thoughts}},
        "pairs": records,
        "videos": videos,
        "scores": [score(reward) for reward in rewards],
        "summary": {"done": True},
    }
    return Evaluation(**found | values)


def numbers_of(one: Evaluation, tuned_on: Evaluation | None = None) -> dict:
    return plain(summarise(one, tuned_on))["dimensions"]["overall"]
