"""`descore doctor`, on an installation that works and on broken ones."""

import json

import pytest

from descore.cli import main
from descore.commands import doctor
from descore.scoring import self_test
from descore.scoring.scorer import Scorer
from tests.helpers.commands import refused


def examined(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict]:
    code = main(["doctor", "--device", "cpu", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_all_is_well_here(capsys):
    code, found = examined(capsys)
    assert (code, found["problems"]) == (0, [])
    assert found["self_test"]["ok"]
    assert found["self_test"]["seconds"] < 60
    assert found["packages"]["torch"]
    assert set(found["extras"]) >= {"parquet", "report"}
    assert (found["device"]["name"], found["device"]["dtype"]) == ("cpu", "float32")
    assert 0 < found["device"]["free_bytes"] <= found["device"]["total_bytes"]
    assert found["decoders"]["decord"]


def test_it_prints_for_people(capsys):
    assert main(["doctor", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["descore", "packages", "extras", "decoders", "device", "self-test"]
    assert lines[-1].split()[1] == "OK,"


@pytest.mark.parametrize(
    ("place", "name", "step"),
    [
        (self_test, "write_video", "writing a video"),
        (self_test, "Scorer", "loading the tiny model"),
        (Scorer, "score", "scoring with a thought"),
    ],
)
def test_what_fails_is_said_with_its_step(capsys, monkeypatch, place, name, step):
    def broken(*_: object, **__: object) -> None:
        raise OSError("libx264 is gone\nmore")

    monkeypatch.setattr(place, name, broken)
    code, found = examined(capsys)
    assert code == 1
    assert found["problems"] == [f"the self-test failed at {step}: OSError: libx264 is gone"]


def test_a_reward_that_is_not_finite_is_a_problem(capsys, monkeypatch):
    monkeypatch.setattr(self_test.Scorer, "score", lambda *_, **__: [self_test.Score(float("nan"), error="no reward")])
    code, found = examined(capsys)
    assert (code, found["self_test"]["error"]) == (1, "scoring with a thought: RuntimeError: no reward")


def test_a_package_that_is_missing_or_old_is_a_problem(capsys, monkeypatch):
    versions = {"decord": None, "av": "1.0"}
    monkeypatch.setattr(doctor, "_version", lambda name: versions.get(name, "999"))
    monkeypatch.setattr(
        doctor, "requires", lambda _: ["av>=17", "decord>=0.6", 'x==999; extra == "big"', 'y<1; extra == "small"']
    )
    code, found = examined(capsys)
    assert code == 1
    assert found["problems"] == [
        "descore requires av>=17, found 1.0: pip install 'av>=17'",
        "descore requires decord>=0.6, found none: pip install 'decord>=0.6'",
    ]
    assert found["extras"] == {"big": True, "small": False}


def test_a_device_that_is_not_there_is_wrong_use(capsys):
    refused(capsys, "device 'cuda:99' is not there", "doctor", "--device", "cuda:99")
