"""Official checkpoint files are read as plain tensors, and no code in them runs."""

import argparse
import os
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fastmim.convert import restricted_reader
from fastmim.convert.restricted_reader import read_official
from tests.methods import hostile_weights

WEIGHTS = {"cls_token": torch.arange(4.0).reshape(1, 1, 4), "norm.bias": torch.ones(4)}


@pytest.fixture
def foreign(monkeypatch):
    """Function that makes a class, which pickles under the given module and name while a file is written."""

    def make(module, name, *bases, **members):
        parts = module.split(".")
        for i in range(len(parts)):
            path = ".".join(parts[: i + 1])
            if path not in sys.modules:
                monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
        cls = type(name, bases, {"__module__": module, **members})
        monkeypatch.setattr(sys.modules[module], name, cls, raising=False)
        return cls

    return make


def same(state):
    assert state.keys() == WEIGHTS.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in WEIGHTS.items())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("container", [None, "model", "state_dict"])
def test_plain_files(tmp_path, container, zipped):
    content = {container: WEIGHTS, "epoch": 3} if container else WEIGHTS
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    read = read_official(tmp_path / "a.pth")
    same(read.state)
    assert read.container == container and read.rest == ({"epoch": 3} if container else {})


def test_safetensors(tmp_path):
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    same(read_official(tmp_path / "a.safetensors").state)
    (tmp_path / "b.safetensors").write_bytes(b"no such file")
    with pytest.raises(ValueError, match="expected a safetensors file"):
        read_official(tmp_path / "b.safetensors")


def test_what_mae_writes(tmp_path):
    args = argparse.Namespace(model="mae_vit_base_patch16", blr=1.5e-4)
    torch.save({"model": OrderedDict(WEIGHTS), "args": args, "scaler": {}, "epoch": 799}, tmp_path / "a.pth")
    read = read_official(tmp_path / "a.pth")
    same(read.state)
    assert read.rest["args"].model == "mae_vit_base_patch16"


def test_what_simmim_writes(tmp_path, foreign):
    node = foreign("yacs.config", "CfgNode", dict)
    inner = node(TYPE="swin", SWIN=node(NUM_HEADS=[4, 8]))
    inner.__dict__["__immutable__"] = True
    torch.save({"model": WEIGHTS, "config": node(MODEL=inner), "max_accuracy": np.float64(0.5)}, tmp_path / "a.pth")
    read = read_official(tmp_path / "a.pth")
    same(read.state)
    assert read.rest["config"] == {"MODEL": {"TYPE": "swin", "SWIN": {"NUM_HEADS": [4, 8]}}}


def test_what_mmengine_writes(tmp_path, foreign):
    buffer = foreign("mmengine.logging.history_buffer", "HistoryBuffer", object)

    def mean(self): ...

    mean.__module__, mean.__qualname__ = buffer.__module__, "HistoryBuffer.mean"
    buffer.mean = mean
    history = buffer()
    history.__dict__ |= {"_log_history": np.arange(3.0), "_statistics_methods": {"mean": buffer.mean}}
    node = foreign("mmengine.config.config", "ConfigDict", dict, __reduce__=lambda self: (type(self), (dict(self),)))
    content = {"state_dict": WEIGHTS, "message_hub": {"loss": history}, "meta": {"cfg": node(depth=12)}}
    torch.save(content, tmp_path / "a.pth")
    read = read_official(tmp_path / "a.pth")
    same(read.state)
    assert read.rest["meta"]["cfg"] == {"depth": 12}


class Bomb:
    """Object that runs a command when it is unpickled in the usual way."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def touch(path):
    Path(path).touch()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", ["os.system", "builtins.eval", "own function", "getattr"])
def test_a_malicious_file_is_refused_and_runs_nothing(tmp_path, function, zipped):
    proof = tmp_path / "executed"
    statement = f"open({str(proof)!r}, 'w')"
    bomb, name = {
        "os.system": (Bomb(__import__("os").system, f"touch {proof}"), "posix.system"),
        "builtins.eval": (Bomb(eval, statement), "eval"),
        "own function": (Bomb(touch, str(proof)), f"{touch.__module__}.touch"),
        # `getattr` is let through, but only its name: what it would find is never looked up or called.
        "getattr": (Bomb(Bomb(getattr, Path, "touch"), proof), None),
    }[function]
    if function == "getattr":
        bomb = Bomb(getattr, Path(proof), "touch")
    torch.save({"model": WEIGHTS, "extra": bomb}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    if name is None:
        same(read_official(tmp_path / "a.pth").state)
    else:
        with pytest.raises(ValueError, match=f"holds {name.replace('.', '[.]')}, which is no weight") as error:
            read_official(tmp_path / "a.pth")
        assert "\n" not in str(error.value)
    assert not proof.exists()
    if function != "getattr":
        torch.load(tmp_path / "a.pth", weights_only=False)
        assert proof.exists(), "the file would have done nothing anyway"


def test_what_is_no_checkpoint_is_one_line(tmp_path):
    path = tmp_path / "a.pth"
    for content, message in [
        ([1, 2], "expected a dictionary of tensors, found a list"),
        ({"model": {}}, "found none"),
        ({"model": {"a": torch.ones(1), "b": 3}}, 'found also "b"'),
        ({"model": {"a": torch.ones(1), 7: torch.ones(1)}}, "found also 7"),
        ({"model": {"a": torch.eye(2).to_sparse()}}, 'found also "a"'),
        ({"model": {"a": torch.ones(1, device="meta")}}, 'found also "a"'),
    ]:
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            read_official(path)
    torch.save(WEIGHTS, path)
    whole = path.read_bytes()
    for broken in (b"", b"not a checkpoint", whole[: len(whole) // 2], pickle.dumps({"a": object()}), b"\x80\x02R."):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=str(path)) as error:
            read_official(path)
        assert "\n" not in str(error.value)
    with pytest.raises(OSError):
        read_official(tmp_path / "missing.pth")


@pytest.mark.costly("processes", "a process is left to run into its limit of CPU time")
def test_a_file_that_asks_for_endless_work_is_refused_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(restricted_reader, "_SECONDS", 1)
    for path in hostile_weights.write_all(tmp_path).values():
        with pytest.raises(ValueError, match="expected|takes more than|the file has only") as error:
            read_official(path)
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    for content in hostile_weights.sound():
        (tmp_path / "sound.pth").write_bytes(content)
        assert read_official(tmp_path / "sound.pth").state.keys() == {"w"}


@pytest.mark.parametrize("subclass", [torch.nn.Parameter, torch.nn.Buffer, torch.Tensor])
def test_attributes_of_a_tensor_replace_none_of_its_methods(tmp_path, subclass):
    odd = torch.ones(4).as_subclass(subclass) if subclass is torch.Tensor else subclass(torch.ones(4))
    for name in ("to", "detach", "is_complex", "is_neg", "element_size", "dim"):
        odd.__dict__[name] = 5
    torch.save(WEIGHTS | {"norm.bias": odd}, tmp_path / "a.pth")
    state = read_official(tmp_path / "a.pth").state
    same(state)
    assert all(type(tensor) is torch.Tensor and not tensor.__dict__ for tensor in state.values())


def test_a_tensor_that_only_torch_can_negate_is_named(tmp_path):
    torch.save(WEIGHTS | {"norm.bias": torch._neg_view(torch.ones(4))}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r'a\.pth: expected a dictionary of tensors .*, found also "norm\.bias"'):
        read_official(tmp_path / "a.pth")


def test_only_a_regular_file_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "folder.safetensors").mkdir()
    for path in (tmp_path / "pipe.pth", tmp_path / "folder.safetensors", Path("/dev/zero")):
        with pytest.raises(ValueError, match="expected a file, found a"):
            read_official(path)


def test_weights_within_several_dictionaries_are_found(tmp_path):
    torch.save({"state": 1, "model": {"epoch": 3, "module": {"state_dict": WEIGHTS}}}, tmp_path / "a.pth")
    file = read_official(tmp_path / "a.pth")
    assert file.container == "model.module.state_dict" and file.rest == {"state": 1}
    same(file.state)
