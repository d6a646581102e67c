"""What an import is asked for, checked before a file is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LayoutName = Literal["videoreward", "hpsv3", "descore-stage1", "descore-stage2", "plain"]
ProtocolName = Literal[
    "videoscore2",
    "unifiedreward",
    "unifiedreward2",
    "unifiedreward_think",
    "unifiedreward_flex",
    "rationalrewards",
]


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """An import.

    Attributes:
        layout: Layout of the published files.
        source: Hub id or folder of the published files.
        output: Exported folder to write; an older export there is replaced.
        backbone: Hub id or folder of the backbone whose configuration and tokenizer the files leave out; the one that
            the layout names if not given.
        template: Text file of the instruction as published, with `{text_prompt}` or `{prompt}`, and with the published
            query tokens where they stand; for DeScore, the name of a template of the package too.
        revision: Commit, branch or tag of a hub id; of a folder, the commit to record.
        license: License of the weights; that of the source's model card if not given.
        protocol: For the layout "plain": name of a protocol, or a settings file, see `read_settings`.
    """

    layout: LayoutName
    source: str
    output: Path
    backbone: str | None = None
    template: str | None = None
    revision: str | None = None
    license: str | None = None
    protocol: str | None = None
