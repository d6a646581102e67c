"""Text that TensorBoard shows adds nothing to the page."""

import html
import re

import pytest
from tensorboard.plugin_util import markdown_to_safe_html

from callbacks.tensorboard import escape
from tests.helpers.fitting import HOSTILE


@pytest.mark.parametrize(
    "text", [HOSTILE, "a|b", "```\nx\n```", "[a]: http://b.example", "- x\r\n- y", "***", "~~~\n~~~"]
)
def test_escaped_text_adds_nothing_to_the_page(text):
    page = markdown_to_safe_html(f"| | A |\n|---|---|\n| label | {escape(text)} |")
    (cell,) = re.findall(r"<td>label</td>\s*<td>(.*)</td>", page)
    assert html.unescape(cell.replace("<br>", "\n")).strip() == "\n".join(text.splitlines())
