"""Prompts swapped: each video once more, with the prompt of other videos, to see whether the reward reads it."""

from __future__ import annotations

from descore.scoring.folder import VideoList
from descore.seeding import fold

_SEED = 0


def swap_prompts(videos: VideoList) -> int:
    """Add each video once more, with another prompt of the list, and write its index in the video's entry "swapped".

    The distinct prompts are put in a seeded circle, and a video takes the next one that is none of its own. So all
    videos of a prompt take the same one, each prompt is taken about as often as it stands, and easy prompts favour
    neither side. Texts that differ only in case or white space are one prompt. A video that stands under every prompt
    has no entry.

    Args:
        videos: Videos to score; the new ones come last.

    Returns:
        Number of videos that were added.

    >>> videos = VideoList()
    >>> _ = videos.add("0.mp4", "data/0.mp4", "a cat"), videos.add("1.mp4", "data/1.mp4", "a dog")
    >>> swap_prompts(videos), videos.records[2], videos.records[0]["swapped"]
    (2, {'index': 2, 'video': '0.mp4', 'prompt': 'a dog'}, 2)
    """
    originals = list(zip(videos.records, videos.paths, strict=True))
    prompts: dict[str, str] = {}
    own: dict[str, set[str]] = {}
    for record, _ in originals:
        prompts.setdefault(_text(record["prompt"]), record["prompt"])
        own.setdefault(record["video"], set()).add(_text(record["prompt"]))
    circle = sorted(prompts, key=lambda text: fold(_SEED, "swapped prompt", text))
    places = {text: place for place, text in enumerate(circle)}
    for record, path in originals:
        place = places[_text(record["prompt"])]
        following = circle[place + 1 :] + circle[:place]
        other = next((text for text in following if text not in own[record["video"]]), None)
        if other is not None:
            record["swapped"] = videos.add(record["video"], path, prompts[other])
    return len(videos.records) - len(originals)


def _text(prompt: str) -> str:
    return " ".join(prompt.casefold().split())
