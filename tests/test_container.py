"""The container files, read: no daemon builds or runs them here."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from descore.cli import make_parser
from descore.serving.guard import OPEN_PATHS
from descore.serving.options import Limits

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def values(instructions: list[tuple[str, str]], name: str) -> list[str]:
    return [value for found, value in instructions if found == name]


def test_the_image_runs_the_server_not_as_root_with_a_health_check(instructions):
    names = [name for name, _ in instructions]
    assert values(instructions, "USER") == ["10001"]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in {"RUN", "COPY"})
    check = values(instructions, "HEALTHCHECK")[0]
    port = values(instructions, "EXPOSE")[0]
    path = re.search(rf"http://127\.0\.0\.1:{port}(/\w+)", check)[1]
    assert path in OPEN_PATHS, "a health check has no key"
    entry, command = (json.loads(values(instructions, name)[0]) for name in ("ENTRYPOINT", "CMD"))
    options = make_parser().parse_args([*entry, *command][1:])
    assert (options.host, str(options.port), options.api_key_env) == ("0.0.0.0", port, "DESCORE_KEY")


def test_what_the_image_copies_is_there_and_not_ignored(instructions):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [shlex.split(value)[:-1] for value in values(instructions, "COPY") if "--from" not in value]
    names = [name.removeprefix("./") for words in copied for name in words]
    assert names
    assert ignored[0] == "*"
    for name in names:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (extras,) = re.findall(r"'\.\[(.+?)\]'", " ".join(values(instructions, "RUN")))
    assert set(extras.split(",")) <= project["project"]["optional-dependencies"].keys()
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= set(names)


def test_the_image_is_of_a_pinned_base_for_both_devices(instructions):
    assert all("latest" not in value for _, value in instructions)
    assert [value.split("=")[0] for value in values(instructions, "ARG")].count("DEVICE") == 2
    assert "cpu|cuda" in " ".join(values(instructions, "RUN"))
    assert "ADD" not in {name for name, _ in instructions}
    assert not re.search(r"KEY=|TOKEN=|PASSWORD", " ".join(values(instructions, "ENV")))


def test_compose_gives_the_server_what_it_needs_and_nothing_more(services, instructions):
    server = services["services"]["descore"]
    entry = json.loads(values(instructions, "ENTRYPOINT")[0])
    options = make_parser().parse_args([*entry, *server["command"]][1:])
    mounted = {volume.rsplit(":", 2)[1]: volume.rsplit(":", 2)[2] for volume in server["volumes"]}
    assert mounted == {options.model[0]: "ro", str(options.allow_root[0]): "ro"}
    assert options.api_key_env in server["environment"]
    assert server["environment"][options.api_key_env].startswith("${DESCORE_KEY:?")
    assert (server["read_only"], server["cap_drop"], server["tmpfs"]) == (True, ["ALL"], ["/tmp"])
    assert all(port.startswith("127.0.0.1:") for one in services["services"].values() for port in one["ports"])
    assert int(server["stop_grace_period"].removesuffix("s")) > Limits().shutdown_seconds
    assert server["build"]["args"].keys() <= {value.split("=")[0] for value in values(instructions, "ARG")}


def test_prometheus_asks_the_server_with_its_key(services, instructions):
    prometheus = services["services"]["prometheus"]
    assert re.fullmatch(r"prom/prometheus:v\d+\.\d+\.\d+", prometheus["image"])
    (job,) = yaml.safe_load(services["configs"]["prometheus"]["content"])["scrape_configs"]
    port = values(instructions, "EXPOSE")[0]
    assert job["static_configs"] == [{"targets": [f"descore:{port}"]}]
    assert job["metrics_path"] == "/metrics"
    (secret,) = prometheus["secrets"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert services["secrets"][secret] == {"environment": "DESCORE_KEY"}
