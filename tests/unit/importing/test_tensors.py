"""Names and LoRA of published tensors, with numbers worked out by hand."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from descore.importing.tensors import Lora, Named, merge_lora, modern, named, read_pickle, rename
from descore.inputs.typed_json import FileError

PATH = Path("model.pth")


def tensors(**values: Tensor) -> dict[str, Named]:
    return {name.replace("__", "."): Named(name, value) for name, value in values.items()}


def halves(b: Tensor, a: Tensor) -> dict[str, Named]:
    return tensors(q__lora_A__default__weight=a, q__lora_B__default__weight=b)


def test_a_merged_layer_is_w_plus_alpha_over_r_times_b_a() -> None:
    """[[1, 2], [3, 4]] + 8 / 2 * [[1, 0], [0, 1]] [[1, 1], [0, 2]] = [[1, 2], [3, 4]] + [[4, 4], [0, 8]]."""
    layer = tensors(q__base_layer__weight=torch.tensor([[1.0, 2.0], [3.0, 4.0]]), q__base_layer__bias=torch.ones(2))
    pair = halves(torch.eye(2), torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    merged = merge_lora(layer | pair, Lora(2, 8), PATH)
    assert merged["q.weight"].tensor.tolist() == [[5.0, 6.0], [3.0, 12.0]]
    assert set(merged) == {"q.weight", "q.bias"}
    stabilised = merge_lora(layer | pair, Lora(2, 8, rank_stabilised=True), PATH)["q.weight"].tensor
    assert stabilised[1, 1].item() == pytest.approx(4 + 2 * 8 / 2**0.5)


@pytest.mark.parametrize(
    ("gone", "reason"),
    [
        ("q.lora_A.default.weight", "missing q.lora_A.weight"),
        ("q.lora_B.default.weight", "missing q.lora_B.weight"),
        ("q.base_layer.weight", "missing q.weight"),
    ],
)
def test_half_an_adapter_is_refused(gone: str, reason: str) -> None:
    content = tensors(q__base_layer__weight=torch.eye(2)) | halves(torch.eye(2), torch.eye(2))
    del content[gone]
    with pytest.raises(FileError, match=reason):
        merge_lora(content, Lora(2, 8), PATH)


def test_a_layer_that_should_have_an_adapter_and_has_none_is_refused() -> None:
    with pytest.raises(FileError, match=r"missing q.lora_A.weight, q.lora_B.weight"):
        merge_lora(tensors(q__weight=torch.eye(2)), Lora(2, 8), PATH, ["q"])


def test_another_rank_is_refused() -> None:
    content = tensors(q__base_layer__weight=torch.eye(2)) | halves(torch.ones(2, 1), torch.ones(1, 2))
    with pytest.raises(FileError, match=r"q__lora_A__default__weight has shape \[1, 2\], expected \[2, 2\]"):
        merge_lora(content, Lora(2, 8), PATH)


def test_two_tensors_for_one_parameter_are_refused() -> None:
    both = tensors(visual__norm__weight=torch.ones(2), model__visual__norm__weight=torch.ones(2))
    with pytest.raises(FileError, match="model__visual__norm__weight and visual__norm__weight are the same tensor"):
        rename(both, modern, PATH)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"a": torch.tensor([1.0, float("nan")])}, "a has numbers that are not finite"),
        ({"a": torch.tensor([1])}, "a is torch.int64; expected a tensor of floating numbers"),
        ({"a": "text"}, "a is str"),
        ({}, "expected tensors by name"),
        ([1], "expected tensors by name, got list"),
    ],
)
def test_what_is_no_finite_tensor_is_refused(content: object, reason: str) -> None:
    with pytest.raises(FileError, match=reason):
        named(content, PATH)


class Code:
    """What a pickle runs when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('the code of the file ran')",))


def test_the_code_of_a_pickle_does_not_run(tmp_path: Path) -> None:
    torch.save({"a": Code()}, tmp_path / "model.pth")
    with pytest.raises(FileError, match=r"model.pth cannot be read: .*weights_only|Weights only"):
        read_pickle(tmp_path / "model.pth")
