"""Pages: which pairs they show, what their tables and figures say, and that text stays text."""

import base64
import io
import json
import math
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure as Drawing
from PIL import Image

from descore.cli import main
from descore.evaluation.benchmark import table_benchmark
from descore.evaluation.folder import load_evaluation
from descore.evaluation.query_attention import query_attention
from descore.evaluation.run import evaluate
from descore.evaluation.summary import summarise
from descore.model.reward_model import RewardModel
from descore.report import Cell, Figure, Highlight, Page, Section, Table, browse, figures, report_on, write_page
from descore.report.attention import Attended
from descore.report.evaluation_figures import figures_of
from descore.report.evaluations import hacking_tables
from descore.report.figures import Estimate
from descore.report.page import render
from descore.scoring.folder import plain, write_lines
from descore.scoring.protocol import ScoringProtocol
from descore.tables.writer import write_pairs
from descore.types import Pair, Side
from tests.helpers.commands import refused
from tests.helpers.evaluations import Judged, Shown, write_evaluation

ROOT = Path(__file__).parents[3]
LIBRARY = ROOT / "src" / "descore"


def judged(clips: list[str], margin: float, label: str = "A", prompt: str = "a bar") -> Judged:
    return Judged(prompt, Shown(clips[0], margin), Shown(clips[1], 0.0), label)


@pytest.fixture
def runs(clips: list[str], tmp_path: Path):
    def write(**pairs: list[Judged]):
        return {name: load_evaluation(write_evaluation(tmp_path / name, rows)) for name, rows in pairs.items()}

    return write


def prompts_of(viewer) -> list[str]:
    return [pair["prompt"] for pair in viewer.data["pairs"]]


def test_the_worst_errors_come_first_and_failures_last(runs, clips):
    rows = [
        judged(clips, 2.0, "A", "right"),
        judged(clips, 1.0, "B", "wrong by 1"),
        Judged("failed", Shown("gone.mp4", None, "gone.mp4: is not there"), Shown(clips[1], 0.0)),
        judged(clips, -3.0, "A", "wrong by 3"),
        judged(clips, 0.5, "tie", "a tie"),
        judged(clips, 0.1, "A", "just right"),
    ]
    viewer = browse(runs(one=rows))
    assert prompts_of(viewer) == ["wrong by 3", "wrong by 1", "just right", "right", "failed", "a tie"]
    assert [pair["calls"][0]["verdict"] for pair in viewer.data["pairs"]] == [
        "wrong",
        "wrong",
        "right",
        "right",
        "failed",
        "tie",
    ]
    assert (viewer.num_shown, viewer.num_pairs) == (6, 6)


def test_half_of_the_room_is_for_errors_and_a_quarter_for_failures(runs, clips):
    errors = [judged(clips, -1.0 - i, "A", f"wrong {i}") for i in range(9)]
    failed = [Judged(f"failed {i}", Shown("gone.mp4", None, "gone"), Shown(clips[1], 0.0)) for i in range(9)]
    right = [judged(clips, 1.0 + i, "A", f"right {i}") for i in range(9)]
    viewer = browse(runs(one=[*errors, *failed, *right]), num_pairs=8)
    prompts = prompts_of(viewer)
    assert viewer.kinds == {"errors": (4, 9), "failed": (2, 9), "others": (2, 9)}
    assert prompts[:4] == ["wrong 8", "wrong 7", "wrong 6", "wrong 5"]
    assert prompts[4:] == ["right 7", "right 8", "failed 0", "failed 1"]


def test_room_that_one_kind_does_not_use_is_left_to_the_others(runs, clips):
    rows = [judged(clips, 1.0 + i, "A", f"right {i}") for i in range(9)]
    viewer = browse(runs(one=rows), num_pairs=8)
    assert (viewer.num_shown, viewer.num_pairs) == (8, 9)


def test_two_runs_of_a_benchmark_share_their_pairs_and_count_margins_in_their_own_units(runs, clips):
    """Run one: margins -1, 1, 1 (rms 1): wrong by 1. Run two: 100, -100, 300 (rms 191.5): wrong by 0.52."""
    one = [judged(clips, value, "A", prompt) for value, prompt in ((-1.0, "x"), (1.0, "y"), (1.0, "z"))]
    two = [judged(clips, value, "A", prompt) for value, prompt in ((100.0, "x"), (-100.0, "y"), (300.0, "z"))]
    viewer = browse(runs(one=one, two=two))
    assert prompts_of(viewer) == ["x", "y", "z"]
    first, second, _ = viewer.data["pairs"]
    assert [call["verdict"] for call in first["calls"]] == ["wrong", "right"]
    assert [call["wrongness"] for call in first["calls"]] == pytest.approx([1.0, -100 / math.sqrt(110000 / 3)])
    assert second["calls"][1]["wrongness"] == pytest.approx(0.5222, abs=1e-4)
    assert len(viewer.data["videos"]) == 2  # each file once, however many pairs and runs show it


def test_frames_are_pictures_with_their_times_and_a_bad_video_has_its_reason(runs, clips, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(Path(clips[0]).read_bytes()[:900])
    viewer = browse(runs(one=[Judged("p", Shown(clips[0], 1.0), Shown(str(cut), None, "cut"))]), num_frames=4)
    good, bad = viewer.data["videos"]
    assert len(good["frames"]) == 4
    assert all(frame.startswith("data:image/webp;base64,UklG") for frame in good["frames"])
    assert good["times"] == [0.0, 0.62, 1.25, 1.88]  # frames 0, 5, 10 and 15 of 16, at 8 fps
    assert "frames" not in bad
    assert bad["error"]


def test_nothing_to_browse_is_an_error():
    with pytest.raises(ValueError, match="at least one evaluation"):
        browse({})


def test_the_page_of_two_runs(runs, clips, tmp_path):
    def rows(margins):
        shown = [
            Judged(
                f"p{i}", Shown(clips[0], m, generator="x$y", each=(m,) * 4), Shown(clips[1], 0.0, generator="z"), "A"
            )
            for i, m in enumerate(margins)
        ]
        return [*shown, Judged("tie", Shown(clips[0], 0.1), Shown(clips[1], 0.0), "tie")]

    for name, margins in (("one", (1.0, 2.0, -3.0)), ("two", (1.0, 2.0, 3.0))):
        write_evaluation(tmp_path / name, rows(margins), thoughts=4)
    page = report_on([tmp_path / "one", tmp_path / "two"])
    table = page.sections[0].tables[0]
    first, second = ([cell.value if isinstance(cell, Cell) else cell for cell in row] for row in table.rows)
    assert [(one.label, one.value, one.series) for one in page.highlights] == [
        ("one", "66.7 %", 0),
        ("two", "100.0 %", 1),
    ]
    assert first[:2] == ["one", "overall"]
    assert first[2] == "66.7 %"
    assert second[2:7] == ["100.0 %", "100.0 %", 4, 3, 0]
    assert first[-3:-1] == ["bars", "runs/one/export"]
    assert first[-1] == "4 thoughts, temperature 1, reward from head, 2 frames per second"
    section = page.sections[1]
    assert section.text == "Bars that move."
    assert [figure.title for figure in section.figures] == [
        "Accuracy by dimension",
        "Accuracy by generator",
        "Margins",
        "Calibration",
        "Accuracy by number of thoughts",
    ]
    against = [cell.value if isinstance(cell, Cell) else cell for cell in section.tables[0].rows[0]]
    assert against == ["two", "overall", "100.0 %", "+33.3 %", "1", 3]  # one pair tells them apart: McNemar's p is 1
    assert set(page.configuration) == {"one", "two"}
    assert page.title == "runs/one/export and runs/two/export on bars"
    assert (
        report_on([tmp_path / "one", tmp_path / "two"], names=["before", "after"]).title == "before and after on bars"
    )
    assert [section.title for section in page.sections[2:]] == ["Signs of hacking"]
    html = render(page)
    assert ">x$y</text>" in html
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_single_videos_with_opinion_scores_have_a_table_and_a_figure_and_nothing_to_browse(clips, tmp_path):
    """Rewards 1, 0, 3 and opinions 1, 2, 3: Spearman 0.5."""
    rows = [
        Judged(f"p{i}", Shown(clips[0], float(a)), Shown(clips[1], float(b)))
        for i, (a, b) in enumerate([(1, 0), (3, 9)])
    ]
    folder = write_evaluation(tmp_path / "rated", rows)
    (folder / "pairs.jsonl").write_text("")
    videos = load_evaluation(folder).videos
    opinions = (1.0, 2.0, 3.0, None)
    write_lines(folder / "videos.jsonl", [v | {"mos": {"overall": o}} for v, o in zip(videos, opinions, strict=True)])
    (folder / "summary.json").write_text(json.dumps(plain(summarise(load_evaluation(folder)))))
    page = report_on([folder])
    assert page.viewer is None
    assert page.sections[0].tables[0].rows[0][2:6] == [pytest.approx(0.5), pytest.approx(1 / 3), 3, 0]
    assert [figure.title for figure in page.sections[1].figures] == ["Rewards and opinion scores"]
    assert "Pairs</h2>" not in render(page)


def test_signs_of_hacking_are_tabled_and_lengths_drawn(runs, clips):
    """Margins 2 and 0 of two prompts: 2 squares over 2 within, and over 3 of all. The longer thoughts are worse."""
    rows = [judged(clips, 2.0, prompt="x"), judged(clips, 0.0, prompt="y")]
    found = runs(one=rows, two=rows)
    lengths = iter((10, 20, 5, 5))
    found["one"].scores[:] = [score | {"num_thought_tokens": next(lengths)} for score in found["one"].scores]
    (table,) = hacking_tables(found)
    assert tuple(table.header[2:]) == ("spread in a prompt", "flat prompts", "length", "length in a prompt")
    first, second = ([(cell.value, cell.note) for cell in row[2:]] for row in table.rows)
    assert first == [("1", "100.0 % of all"), ("50.0 %", "of 2"), ("+0.27", "4 videos"), ("-1.00", "")]
    assert second[2:] == [("-", "4 videos"), ("-", "")]
    figure = figures_of(found, figures.colors_of(found))[-1]
    assert figure.title == "Rewards and lengths of thoughts"


def test_an_evaluation_that_is_not_finished_is_refused(clips, tmp_path):
    folder = write_evaluation(tmp_path / "one", [judged(clips, 1.0)])
    (folder / "summary.json").unlink()
    (folder / "scores.jsonl").write_text((folder / "scores.jsonl").read_text().splitlines(keepends=True)[0])
    with pytest.raises(ValueError, match="one is not finished: 1 of 2 videos are scored"):
        report_on([folder])


def test_the_reward_of_a_dimension_is_shown_where_a_model_gives_several(clips, tmp_path):
    folder = write_evaluation(tmp_path / "one", [judged(clips, 1.0)])
    scores = [
        score | {"rewards": {"Overall": 5.0 + score["index"], "style": 1.0}} for score in load_evaluation(folder).scores
    ]
    write_lines(folder / "scores.jsonl", scores)
    call = browse({"one": load_evaluation(folder)}).data["pairs"][0]["calls"][0]
    assert [side["reward"] for side in call["sides"]] == [5.0, 6.0]
    assert call["margin"] == -1.0


def test_all_text_is_escaped(runs, clips, tmp_path):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    rows = [Judged(evil, Shown(clips[0], 1.0, think=evil, generator=evil), Shown(clips[1], 0.0))]
    section = Section(
        evil, evil, [Figure(Drawing(figsize=(1, 1)), evil, evil)], [Table([evil], [[Cell(evil, evil)]], evil)]
    )
    page = Page(evil, evil, [section], evil, browse(runs(one=rows)), [Highlight(evil, evil, evil)])
    html = render(page)
    assert html.count("<script") == html.count("</script>") == 2
    assert "<img" not in html.partition("<script>")[0]
    data = re.search(r'id="viewer-data">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["pairs"][0]["prompt"] == evil


def test_a_page_is_the_same_bytes_again_and_loads_nothing(runs, clips, tmp_path):
    evaluation = write_evaluation(tmp_path / "one", [judged(clips, 1.0), judged(clips, -1.0, prompt="b")])
    first, second = (write_page(report_on([evaluation]), tmp_path / f"{i}.html").read_bytes() for i in (1, 2))
    assert first == second
    assert not re.search(rb'(src|href)\s*=\s*"(?!#|data:,)|@import|url\((?!#)', first)
    assert b"default-src 'none'" in first


def test_a_table_shows_numbers_notes_and_the_best(tmp_path):
    table = Table(
        ["run", "accuracy", "n"],
        [[Cell("a", series=1), Cell(0.12345, "0.1 to 0.2", strong=True), 1234], ["b", None, 5]],
    )
    html = render(Page("t", sections=[Section("s", tables=[table])]))
    assert '<span class="mark" style="--color:var(--series-2)"></span>a' in html
    assert '<td class="number short best">0.123 <span class="note">0.1 to 0.2</span></td>' in html
    assert '<td class="number short">1,234</td>' in html
    assert '<td class="number short">-</td>' in html


def test_a_picture_that_is_no_svg_is_refused():
    with pytest.raises(ValueError, match="begins with <svg"):
        render(Page("t", sections=[Section("s", figures=[Figure("picture.svg")])]))


def test_figures_follow_the_page_and_keep_their_text(tmp_path):
    drawing = figures.bars({"a": {"x & y": Estimate(0.5, 0.4, 0.6)}, "b": {"x & y": Estimate(math.nan)}}, reference=0.5)
    svg = figures.to_svg(drawing, "f")
    assert svg.startswith("<svg")
    assert "x &amp; y</text>" in svg
    assert ">no value</text>" in svg
    assert "var(--series-1, #3b5bdb)" in svg
    assert "currentColor" in svg
    assert not re.search(r"(?<!, )#(1c2026|636b76|e1e4e8|3b5bdb|000000)\b", svg)


def test_a_bar_is_as_long_as_its_value_and_its_whisker_as_its_interval():
    axes = figures.bars({"a": {"x": Estimate(0.5, 0.4, 0.7)}}).axes[0]
    assert axes.patches[0].get_width() == 0.5
    assert axes.collections[0].get_segments()[0][:, 0].tolist() == [0.4, 0.7]


def test_curves_are_the_mean_over_seeds_in_the_band_of_their_extremes():
    """Step 3 is left out: one seed lacks it."""
    axes = figures.curves({"a": [{1: 0.0, 2: 4.0, 3: 9.0}, {1: 2.0, 2: 6.0}]}).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[1, 1], [2, 5]]
    band = axes.collections[0].get_paths()[0].vertices
    assert {tuple(point) for point in band.tolist()} == {(1, 0), (1, 2), (2, 4), (2, 6)}


def test_lines_stand_at_their_places_with_their_intervals():
    axes = figures.lines({"a": {1.0: Estimate(0.5, 0.4, 0.6), 8.0: Estimate(0.7)}}, log_x=True).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[1, 0.5], [8, 0.7]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "8"]


def test_the_command_writes_the_page(clips, tmp_path, capsys):
    evaluation = write_evaluation(tmp_path / "one", [judged(clips, 1.0)])
    output = tmp_path / "pages" / "page.html"
    assert main(["report", str(evaluation), "--output", str(output), "--title", "My title", "--pairs", "1"]) == 0
    assert "<h1>My title</h1>" in output.read_text()
    assert "1 of 1 pairs (0 of 0 errors, 0 of 0 failed, 1 of 1 others)" in output.read_text()
    assert "1 of 1 pairs" in capsys.readouterr().out


def test_options_of_attention_without_it_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(["report", str(tmp_path), "--device", "cpu"])
    assert error.value.code == 2
    assert "are for --attention" in capsys.readouterr().err


def test_the_command_says_what_is_no_evaluation(tmp_path, capsys):
    refused(capsys, re.escape(str(tmp_path)), "report", tmp_path)


def test_the_page_of_a_real_evaluation(build, clips, tmp_path):
    model, table = tmp_path / "model", tmp_path / "pairs.jsonl"
    build().save_pretrained(str(model))
    sides = [Side(clip, generator=f"made by {i}") for i, clip in enumerate(clips)]
    pairs = [Pair("one", "a bar", sides[0], sides[1], (1.0,)), Pair("two", "a bar", sides[2], sides[3], (-1.0,))]
    write_pairs(table, pairs)
    asked = ScoringProtocol(num_thoughts=2)
    run = evaluate(str(model), table_benchmark(table), tmp_path / "run", protocol=asked, device="cpu")
    page = report_on([run.folder])
    shown = {pair["id"]: pair for pair in page.viewer.data["pairs"]}
    assert shown["one"]["calls"][0]["margin"] == pytest.approx(run.margins("overall")[0].item())
    side = shown["two"]["calls"][0]["sides"][1]
    assert side["thought"] == run.scores[run.pairs[1]["b"]]["thought"]
    assert side["num_thoughts"] == 2
    assert shown["two"]["sides"][1]["generator"] == "made by 3"
    assert all(len(video["frames"]) == 6 for video in page.viewer.data["videos"])
    assert [figure.title for figure in page.sections[1].figures][-1] == "Accuracy by number of thoughts"


class TestAttention:
    @pytest.fixture
    def run(self, build, clips, tmp_path):
        """An evaluation of one pair, whose first video cannot be read any more."""
        model, table = tmp_path / "model", tmp_path / "pairs.jsonl"
        build().save_pretrained(str(model))
        gone = shutil.copy(clips[2], tmp_path / "gone.mp4")
        pairs = [Pair("one", "a bar", Side(clips[0]), Side(clips[1]), (1.0,))]
        pairs.append(Pair("two", "a bar", Side(str(gone)), Side(clips[1]), (1.0,)))
        write_pairs(table, pairs)
        run = evaluate(str(model), table_benchmark(table), tmp_path / "run", device="cpu")
        gone.unlink()
        return run

    def test_shares_and_heat_maps_are_those_of_the_first_thought(self, run, clips):
        found = report_on([run.folder], attention=True, device="cpu").viewer.data
        pairs = {pair["id"]: pair for pair in found["pairs"]}
        (one,), (two,) = pairs["one"]["calls"], pairs["two"]["calls"]
        assert "attention" not in two["sides"][0]
        assert one["sides"][1]["attention"] == two["sides"][1]["attention"]

        model = RewardModel.from_pretrained(run.info["model"])
        frames = model.processor.read(clips[0])
        thought = model.processor.thought(run.scores[run.pairs[0]["a"]]["thought"])
        packed = model.processor.pack([model.processor.prefix("a bar", frames)], [[thought]])
        (expected,) = query_attention(model, packed)
        shares = one["sides"][0]["attention"]["shares"]
        assert list(shares) == ["video", "prompt", "thought", "query"]
        assert list(shares.values()) == pytest.approx(expected.shares.mean(0).tolist(), abs=1e-6)
        maps = one["sides"][0]["attention"]["maps"]
        assert len(maps) == len(found["videos"][pairs["one"]["sides"][0]["video"]]["frames"])

    def test_the_heat_is_where_the_attention_is(self):
        """Two patches of one second; the first attends to its left half, the second to nothing."""
        video = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
        attended = Attended({}, video, (0.5, 1.5))
        hot, cold = (decoded(attended.heat_map(seconds, (64, 32))) for seconds in (0.9, 1.1))
        assert hot.size == (64, 32)
        assert [hot.getpixel((x, 16))[3] for x in (4, 60)] == pytest.approx([178, 0], abs=6)
        assert cold.getextrema()[3][1] < 6

    def test_another_model_and_another_reward_are_refused(self, run, tmp_path):
        info = json.loads((run.folder / "evaluation.json").read_text())
        changes = {
            "changed since": info | {"model_digest": "0"},
            "from overall_score": info | {"protocol": info["protocol"] | {"reward_from": "overall_score"}},
            "neither an existing folder": info | {"model": str(tmp_path / "elsewhere")},
        }
        for reason, changed in changes.items():
            (run.folder / "evaluation.json").write_text(json.dumps(changed))
            with pytest.raises(ValueError, match=reason):
                report_on([run.folder], attention=True, device="cpu")


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA")


def test_what_is_missing_to_draw_is_said_with_the_remedy(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("descore.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(capsys, re.escape("pip install 'descore[report]'"), "report", tmp_path)


def test_the_wheel_holds_what_a_page_is_made_of():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["descore"]
    held = {path for pattern in patterns for path in LIBRARY.glob(pattern)}
    assert {path.name for path in held if path.parent.name == "template"} == {"page.html", "page.css", "page.js"}
    assert set((LIBRARY / "report" / "template").iterdir()) <= held
