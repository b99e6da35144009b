"""No code of a file is executed: archives give their tensors, and files that need code are refused in one line."""

import io
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from modeling_rogle.conversion.checkpoint_files import ConvertError, read_archive, read_state_dict
from modeling_rogle.conversion.convert import convert_checkpoint, rogle_from_layout
from modeling_rogle.conversion.layouts import recognise
from tests.helpers.checkpoint_layouts import encode_image, encode_text, openai_state

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


class _Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_files_that_need_code_or_are_damaged_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Code()}, "code.pt")
    torch.save({"model": {"weight": torch.zeros(1)}, "config": _Code()}, "beside.pt")
    torch.save({"epoch": 3, "weights": {}}, "wrapped.pt")
    torch.save({"epoch": 3, "state_dict": {}}, "nothing.pt")
    torch.save([torch.zeros(1)], "list.pt")
    whole = Path("code.pt").read_bytes()
    Path("cut.pt").write_bytes(whole[: len(whole) // 2])
    Path("empty.pt").touch()
    Path("text.safetensors").write_text("not tensors")
    for name, reason in {
        "code.pt": "without executing its code",
        "beside.pt": "without executing its code",
        "wrapped.pt": "'epoch' is a int",
        "nothing.pt": "no tensors",
        "list.pt": "a list, not a state dict",
        "cut.pt": "damaged",
        "empty.pt": "damaged",
        "text.safetensors": "damaged",
    }.items():
        with pytest.raises(ConvertError, match=reason) as caught:
            read_state_dict(Path(name))
        assert str(caught.value).startswith(f"{name}: ") and "\n" not in str(caught.value)
    assert not Path("ran").exists()


def test_wrappers_and_module_prefixes_are_removed(tmp_path: Path):
    weight = torch.randn(2, 3)
    optimizer = torch.optim.Adam([nn.Parameter(weight)])
    for wrapper in ("model", "state_dict"):
        torch.save(
            {wrapper: {"module.a.weight": weight}, "epoch": 7, "optimizer": optimizer.state_dict()}, tmp_path / "f"
        )
        state, field = read_state_dict(tmp_path / "f")
        assert field == wrapper and list(state) == ["a.weight"] and torch.equal(state["a.weight"], weight)


def test_settings_in_the_file_are_read_without_their_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # TBPS-CLIP saves its configuration, an EasyDict; a class of that name which must not be called again.
    module = types.ModuleType("easydict")
    exec(
        "class EasyDict(dict):\n"
        "    def __init__(self, *args):\n"
        "        super().__init__(*args)\n"
        "        for key, value in self.items(): setattr(self, key, value)\n"
        "    def __setattr__(self, key, value):\n"
        "        super().__setattr__(key, value); self[key] = value\n",
        module.__dict__,
    )
    module.EasyDict.__module__ = "easydict"
    monkeypatch.setitem(sys.modules, "easydict", module)
    config = module.EasyDict({"model": module.EasyDict({"embed_dim": 24}), "seed": 1})
    torch.save({"model": {"weight": torch.ones(2)}, "config": config}, tmp_path / "tbps.pth")
    monkeypatch.delitem(sys.modules, "easydict")
    state, wrapper = read_state_dict(tmp_path / "tbps.pth")
    assert wrapper == "model" and torch.equal(state["weight"], torch.ones(2))
    assert "easydict" not in sys.modules


class _Tree(nn.Module):
    """Parameters under given dotted names, as a module that can be traced."""

    def __init__(self, state: dict[str, torch.Tensor]):
        super().__init__()
        groups: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in state.items():
            first, _, rest = key.partition(".")
            if rest:
                groups.setdefault(first, {})[rest] = value
            elif value.is_floating_point():
                self.register_parameter(first, nn.Parameter(value))
            else:
                self.register_buffer(first, value)
        for name, inner in groups.items():
            self.add_module(name, _Tree(inner))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Traced modules keep what they use.
        for value in [*self.parameters(recurse=False), *self.buffers(recurse=False)]:
            x = x + value.sum()
        for inner in self.children():
            x = inner(x)
        return x


def test_openai_archives_give_their_tensors_and_no_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    state = {key: value.half() for key, value in openai_state().items()}
    state["visual.proj"] = state["visual.proj"].T.contiguous().T  # with strides
    numbers = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(30), "vocab_size": torch.tensor(64)}
    torch.jit.trace(_Tree(state | numbers), torch.zeros(1)).save(str(tmp_path / "ViT-B-16.pt"))
    expected = torch.jit.load(tmp_path / "ViT-B-16.pt").state_dict()

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("an archive was loaded as code")

    monkeypatch.setattr(torch.jit, "load", forbidden)
    monkeypatch.setattr(torch._C, "import_ir_module", forbidden)
    tensors, wrapper = read_state_dict(tmp_path / "ViT-B-16.pt")
    assert wrapper is None and set(tensors) == set(expected)
    for key, value in expected.items():
        assert tensors[key].dtype == value.dtype and torch.equal(tensors[key], value)
    layout = recognise(tensors, "ViT-B-16.pt")
    assert layout.name == "OpenAI CLIP" and not layout.notes
    model = rogle_from_layout(layout, (32, 32), 30)
    wide = {key: value.float() for key, value in state.items()}
    pixels, ids = torch.randn(1, 3, 32, 32), torch.tensor([[62, 5, 9, 63]])
    torch.testing.assert_close(model.encode_images(pixels)[0], encode_image(wide, pixels), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode_texts(ids), encode_text(wide, ids), atol=1e-5, rtol=0)
    assert convert_checkpoint(tmp_path / "ViT-B-16.pt", tmp_path / "out").layout == "OpenAI CLIP"


def _archive(path: Path, pickled: bytes, data: bytes = b"\0" * 8) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/constants.pkl", b"")
        archive.writestr("a/data/0", data)
    return path


def _tensor(
    size: str,
    storage: str = "(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ",
) -> bytes:
    # A module with one attribute `w`: a tensor of `size`, all strides 0, from the two floats of data/0.
    return (
        b"\x80\x02c__torch__\nM\n)\x81}(X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n("
        + storage.encode("latin1")
        + b"K\x00"
        + size.encode("latin1")
        + b"\x89ccollections\nOrderedDict\n)RtRub."
    )


def test_hand_made_archives_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    good = _tensor("K\x02\x85K\x01\x85")
    assert read_archive(_archive(tmp_path / "good.pt", good))["w"].tolist() == [0.0, 0.0]
    call = io.BytesIO()
    pickle.Pickler(call, protocol=2).dump(_Code())
    wide = "K\x03\x85K\x01\x85"
    endless = "J\xff\xff\xff\x7f\x85K\x00\x85"
    for name, pickled, reason in (
        ("call", call.getvalue(), "without executing its code"),
        ("torch", b"\x80\x02ctorch\nload\n.", "names torch.load"),
        ("dict", b"\x80\x02}.", "not of a module"),
        ("beyond", _tensor(wide), "from 2 numbers"),
        ("endless", _tensor(endless), "from 2 numbers"),
        ("short", good[:-9], "damaged"),
        ("number", b"\x80\x02K\x01.", "not of a module"),
        ("unnamed", _tensor("K\x02\x85K\x01\x85").replace(b"\x00\x00\x000X", b"\x00\x00\x00xX"), "storage 'x'"),
    ):
        with pytest.raises(ConvertError, match=reason) as caught:
            read_state_dict(_archive(tmp_path / f"{name}.pt", pickled))
        assert "\n" not in str(caught.value)
    with pytest.raises(ConvertError, match="4 bytes, not 2 of torch.float32"):
        read_state_dict(_archive(tmp_path / "less.pt", good, b"\0" * 4))
    assert not Path("ran").exists()
