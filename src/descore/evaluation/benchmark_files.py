"""The YAML files of benchmarks, by name."""

from __future__ import annotations

from pathlib import Path

CONF = Path("conf/benchmarks")


def known_benchmarks() -> dict[str, Path]:
    """Return the YAML file of each benchmark by name; the current folder takes precedence over the source checkout."""
    folders = (CONF, Path(__file__).parents[3] / CONF)
    found = [path for folder in folders for path in sorted(folder.glob("*.yaml"))]
    return {path.stem: path for path in reversed(found)}


def find_benchmark(name: str) -> Path:
    """Return the YAML file of a benchmark.

    Args:
        name: Name of a known benchmark, or path of a YAML file.

    Raises:
        ValueError: If there is no such benchmark.
    """
    known = known_benchmarks()
    if name in known:
        return known[name]
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"} or not path.is_file():
        names = ", ".join(sorted(known)) or "none here"
        raise ValueError(f"expected a benchmark of {names}, or the path of a YAML file, got {name!r}")
    return path
