"""Other labels and answers of a rendered pair, by hand, and that the table and its videos stay as they are."""

import math
from dataclasses import replace

import pytest

from data_modules.rendered import RenderedPairDataModule
from data_modules.world.labels import DIGITS, Labels, comparison, digits_reward, rating
from data_modules.world.rendering import RenderSettings, render_split
from descore.answer import Answer, write_thought
from descore.inputs.answers import said_values
from descore.inputs.choice import ChoiceSettings
from descore.types import DIMENSIONS, Pair, Side

A = {"subject": 2, "dynamics": 1, "camera": 0, "environment": None, "style": None}
B = {"subject": 1, "dynamics": 2, "camera": 2, "environment": 0, "style": 2}
PAIR = Pair(
    "p",
    "a circle",
    Side("a.mp4", write_thought("Of A.", Answer(A, 2.5)), A, mos=(2.5,)),
    Side("b.mp4", write_thought("Of B.", Answer(B, 3.5)), B, mos=(3.5,)),
    (-1.0,),
)


def said(subject: object, dynamics: object, style: object) -> str:
    scores = f'{{"subject": {subject}, "dynamics": {dynamics}, "style": {style}}}'
    return f'<answer>{{"dimension_scores": {scores}}}</answer>'


def test_ratings_are_means_of_what_was_asked_from_1_to_5():
    """A: motion 1 + 2 * 0.5, alignment of the subject alone. B: alignment 1 + 2 * 0.5."""
    assert [rating(A, name) for name in ("motion", "alignment", "dynamics")] == [2, 5, 3]
    assert [rating(B, name) for name in ("visual", "motion", "alignment", "environment")] == [5, 5, 2, 1]
    assert math.isnan(rating(A, "visual"))


def test_a_pair_is_labelled_by_the_higher_rating():
    found = Labels(("overall", "visual", "motion", "alignment", "style"))(PAIR)
    assert found.preference[0] == -1
    assert found.preference[2:4] == (-1, 1)
    assert math.isnan(found.preference[1])
    assert found.a.mos[0] == 2.5
    assert found.a.mos[2:4] == (2, 5)
    assert found.b.mos == (3.5, 5, 5, 2, 5)
    assert (found.a.thought, found.a.scores, found.id) == (PAIR.a.thought, A, "p")
    assert Labels()(PAIR) == PAIR


def test_thoughts_end_in_digits_or_grades_that_say_what_they_found():
    """What is not asked for has no flaw."""
    digits = Labels(answer="digits")(PAIR)
    assert digits.a.thought == "<think>Of A.</think>" + said(5, 2, 5)
    assert said_values(digits.b.thought, DIGITS) == [5, 5, 2]
    grades = Labels(answer="grades")(PAIR)
    assert grades.a.thought == said(2, 0, 2)
    assert grades.b.thought == said(0, 2, 2)


def test_a_thought_about_both_videos_says_what_was_found_of_each():
    """Found 2.5 and 3.5: B wins, which calls itself video 2 with A first, and video 1 with B first."""
    pair, a = PAIR, PAIR.a.thought
    found = Labels(choice=ChoiceSettings())(pair)
    of_a = '{"dimension_scores": {"subject": 2, "dynamics": 1, "camera": 0, "environment": "N/A", "style": "N/A"}, '
    of_b = '{"dimension_scores": {"subject": 1, "dynamics": 2, "camera": 2, "environment": 0, "style": 2}, '
    of_a, of_b = of_a + '"overall_score": 2.5}', of_b + '"overall_score": 3.5}'
    assert found.thoughts == (
        f"<think>{of_a}\n{of_b}</think><answer>Video 2 is better</answer>",
        f"<think>{of_b}\n{of_a}</think><answer>Video 1 is better</answer>",
    )
    boxed = ChoiceSettings("\\boxed{", "1}", "2}", "")
    assert [boxed.said(text) for text in Labels(choice=boxed)(pair).thoughts] == ["B", "A"]
    assert all(map(boxed.is_whole, Labels(choice=boxed)(pair).thoughts))
    assert Labels()(pair).thoughts == ("", "")
    assert Labels(choice=ChoiceSettings())(replace(pair, preference=(1.0,))).thoughts == ("", ""), "not the label"
    assert comparison(a, a, boxed) == ""
    assert comparison(a, a, ChoiceSettings()).endswith("<answer>Both videos are equally good</answer>")


@pytest.mark.parametrize(
    ("digits", "reward"),
    [("525", 1.0), ("425", 0.7), ("415", 0.4), ("434", 0.1), ("325", 0.0), ("5", 0.0), ("526", 0.0)],
)
def test_the_reward_of_digits_falls_with_their_distance(digits, reward):
    text = f"<think>{said(5, 2, 5)}</think>" + (said(*reversed(digits)) if len(digits) == 3 else "<answer>{}</answer>")
    assert digits_reward(text, A, 9) == reward
    with pytest.raises(ValueError, match="needs annotated scores"):
        digits_reward(text, None, 9)


@pytest.mark.parametrize(("options", "reason"), [({"dimensions": ("look",)}, "'look'"), ({"answer": "json"}, "'json'")])
def test_unknown_names_are_refused(options, reason):
    with pytest.raises(ValueError, match=rf"is {reason}|has {reason}"):
        Labels(**options)


def test_the_data_module_reads_the_same_table_with_other_labels(tmp_path):
    """The fingerprints of what was rendered do not change, so nothing is rendered or written again."""
    plain, other = (
        RenderedPairDataModule(str(tmp_path), 3, 2, RenderSettings(48, 2, labels=labels))
        for labels in (Labels(), Labels(DIMENSIONS, answer="digits"))
    )
    plain.prepare_data()
    table = tmp_path / "train/pairs.jsonl"
    before = table.stat().st_mtime_ns
    other.prepare_data()
    assert render_split(tmp_path, "train", 3, other.render) == table
    assert table.stat().st_mtime_ns == before
    first, second = plain._read(str(table), "train"), other._read(str(table), "train")
    assert [pair.preference for pair in first] != [pair.preference for pair in second]
    assert all(len(pair.a.mos) == len(pair.preference) == 5 for pair in second)
    assert all('</think><answer>{"dimension_scores": {"subject": ' in pair.b.thought for pair in second)
