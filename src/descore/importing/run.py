"""An import from beginning to end: find the files, read them by their layout, check all, and write the export."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from huggingface_hub import RepoCard

from descore.importing import descore_stages, hpsv3, plain, videoreward
from descore.importing.assembling import Published, assemble
from descore.importing.request import ImportRequest, LayoutName
from descore.inputs.backbone import download, is_hub_id
from descore.inputs.tensor_files import reading
from descore.inputs.typed_json import FileError
from descore.model.description import Origin
from descore.model.export import check_replaceable, save
from descore.model.sums import sums_of


@dataclass(frozen=True, slots=True)
class Layout:
    """How the files of a published model are laid out.

    Attributes:
        read: Reads a folder of them.
        files: Patterns of the files that are downloaded from the hub.
    """

    read: Callable[[Path, ImportRequest], Published]
    files: tuple[str, ...]


LAYOUTS: Mapping[LayoutName, Layout] = MappingProxyType({
    "videoreward": Layout(videoreward.read, videoreward.FILES),
    "hpsv3": Layout(hpsv3.read, hpsv3.FILES),
    "descore-stage1": Layout(descore_stages.read_stage1, descore_stages.STAGE1_FILES),
    "descore-stage2": Layout(descore_stages.read_stage2, descore_stages.STAGE2_FILES),
    "plain": Layout(plain.read, plain.FILES),
})


def import_model(request: ImportRequest) -> Origin:
    """Turn published files into an exported folder, which appears whole or not at all.

    Every tensor of the files is used once, and every parameter of the model is filled once.

    Args:
        request: What is asked for.

    Returns:
        The record of where the model comes from, which the export holds.

    Raises:
        FileError: If a file is missing or damaged, or a tensor is missing, extra, not finite or of another shape; the
            message names it.
        ValueError: If the source or the backbone cannot be found, or the output holds something else.
    """
    check_replaceable(request.output)
    if request.protocol is not None and request.layout != "plain":
        raise ValueError(f"a protocol is for the layout plain; {request.layout} has its own")
    layout = LAYOUTS[request.layout]
    folder, revision = _find(request, layout)
    published = layout.read(folder, request)
    model = assemble(published)
    origin = Origin(
        request.layout,
        request.source,
        published.protocol,
        _sums(published, model.processor.backbone.folder),
        revision,
        request.license or _license(folder),
    )
    save(model, request.output, calibration=published.calibration, origin=origin)
    return origin


def _find(request: ImportRequest, layout: Layout) -> tuple[Path, str | None]:
    """Return the folder of the published files, and their commit."""
    if os.path.isdir(request.source):
        return Path(request.source), request.revision
    if not is_hub_id(request.source):
        raise FileError(f"{request.source} is neither an existing folder nor a hub id such as owner/name")
    folder = download(request.source, list(layout.files), request.revision)
    return folder, folder.name if re.fullmatch("[0-9a-f]{40}", folder.name) else request.revision


def _sums(published: Published, backbone: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that was read, those of the backbone's configuration and tokenizer included."""
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
    files = dict(published.files)
    files |= {f"backbone:{name}": backbone / name for name in names if (backbone / name).is_file()}
    return dict(zip(files, sums_of(files.values()), strict=True))


def _license(folder: Path) -> str | None:
    """Return the license that a model card in the folder states."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    with reading(card):
        stated = RepoCard.load(card, ignore_metadata_errors=True).data.get("license")
    return stated if isinstance(stated, str) else None
