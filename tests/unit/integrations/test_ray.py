"""The actor of Ray Data, called as `map_batches` calls it; and the pipeline on a local Ray, where Ray is installed."""

import json
import socket
from pathlib import Path

import fsspec
import pytest
from pyarrow import Table, parquet

from descore.client import Client
from descore.integrations.ray import COLUMNS, ScoreBatch, score_parquet
from descore.serving.options import ServerOptions


def rows_of(clips: list[str]) -> list[dict]:
    return [{"id": f"{n}", "prompt": "a bar", "video": clip, "seed": n} for n, clip in enumerate([*clips, "gone.mp4"])]


def test_a_batch_gets_the_fields_of_the_score_records(export, scorer, clips):
    scored = ScoreBatch(export, device="cpu")(Table.from_pylist(rows_of(clips))).to_pylist()
    for row, score in zip(scored, scorer.score(clips, "a bar"), strict=False):
        assert (row["reward"], row["thought"], row["error"]) == (score.reward, score.thought, None)
    assert [row["seed"] for row in scored] == [0, 1, 2, 3, 4]
    assert scored[-1]["reward"] is None
    assert "gone.mp4: cannot be opened" in scored[-1]["error"]


def test_blocks_have_the_same_types_whatever_is_in_them(scorer, clips):
    actor = ScoreBatch(scorer, num_thoughts=2)
    good, bad = (actor(Table.from_pylist(rows_of(clips)[part])) for part in (slice(2), slice(4, 5)))
    assert good.schema == bad.schema
    assert list(COLUMNS) == good.column_names[4:]
    assert len(json.loads(good.to_pylist()[0]["each"])) == 2


def test_videos_of_object_storage_are_fetched_and_one_that_cannot_be_fails_alone(scorer, clips):
    with open(clips[0], "rb") as file, fsspec.open("memory://bucket/videos/a.mp4", "wb") as copy:
        copy.write(file.read())
    videos = ["videos/a.mp4", "videos/none.mp4", "nowhere://b.mp4", None]
    table = Table.from_pylist([{"prompt": "a bar", "video": video} for video in videos])
    first, *failed = ScoreBatch(scorer, table="memory://bucket/videos.parquet")(table).to_pylist()
    assert first["reward"] == scorer.score(clips[0], "a bar")[0].reward
    assert [row["reward"] for row in failed] == [None] * 3
    assert failed[0]["error"].startswith("videos/none.mp4: ")
    assert "nowhere" in failed[1]["error"]
    assert failed[2]["error"] == "None: expected the path or URL of a video"


def test_a_table_without_its_columns_is_refused(scorer):
    with pytest.raises(ValueError, match="expected the columns prompt and video, found prompt: no video"):
        ScoreBatch(scorer)(Table.from_pylist([{"prompt": "a"}]))
    with pytest.raises(ValueError, match="has the columns reward, which are to be added"):
        ScoreBatch(scorer)(Table.from_pylist([{"prompt": "a", "video": "a.mp4", "reward": 1.0}]))


@pytest.fixture
def local_ray():
    ray = pytest.importorskip("ray", reason="ray is an extra: pip install 'descore[ray]'")
    ray.init(num_cpus=6, include_dashboard=False)  # a resumed pipeline has actors that leave out what is done
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_a_pipeline_on_a_local_ray_gives_the_rewards_of_python_and_resumes(export, scorer, clips, tmp_path, local_ray):
    rows = rows_of(clips)
    source, output, checkpoint = (tmp_path / name for name in ("videos", "scored", "checkpoint"))
    source.mkdir()
    for number, part in enumerate((rows[:3], rows[3:])):  # the second run finds the rows of the first one done
        parquet.write_table(Table.from_pylist(part), source / f"{number}.parquet")
        score_parquet(str(source), str(output), export, checkpoint=str(checkpoint), device="cpu")
        found = [row["id"] for row in parquet.read_table(output).to_pylist()]
        assert sorted(found) == [row["id"] for row in rows[: 3 + 2 * number]]
    score_parquet(str(source), str(output), export, checkpoint=str(checkpoint), device="cpu")
    scored = {row["id"]: row for row in parquet.read_table(output).to_pylist()}
    assert len(parquet.read_table(output)) == len(rows) == len(scored)
    expected = [*scorer.score(clips[:3], "a bar"), *scorer.score(clips[3:], "a bar")]
    assert [scored[f"{number}"]["reward"] for number in range(4)] == [score.reward for score in expected]
    assert "gone.mp4: cannot be opened" in scored["4"]["error"]


@pytest.mark.slow
def test_a_deployment_on_ray_serve_gives_the_rewards_of_python(export, scorer, clips, local_ray):
    from ray import serve

    from descore.integrations.ray_serve import application

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    options = ServerOptions({"descore": export}, devices=("cpu",), roots=(Path(clips[0]).parent,))
    serve.run(application(options))
    client = Client(f"http://127.0.0.1:{port}", send_paths=True)
    try:
        (score,) = client.score(clips[0], "a bar")
    finally:
        serve.shutdown()
    assert score == scorer.score(clips[0], "a bar")[0]
