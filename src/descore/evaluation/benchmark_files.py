"""The YAML files of benchmarks, by name: published ones ship with the package, others lie in conf/benchmarks."""

from __future__ import annotations

from pathlib import Path

from descore.tables.faults import did_you_mean

CONF = Path("conf/benchmarks")


def known_benchmarks() -> dict[str, Path]:
    """Return the YAML file of each benchmark by name.

    Of one name, the file in conf/benchmarks of the current folder comes first, then that of the source checkout, then
    that of the package.
    """
    package = Path(__file__).parents[1]
    folders = (CONF, package.parents[1] / CONF, package / "benchmarks")
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
        expected = f"expected a benchmark of {', '.join(sorted(known))}, or the path of a YAML file"
        raise ValueError(f"{expected}, got {name!r}{did_you_mean(name, known)}")
    return path
