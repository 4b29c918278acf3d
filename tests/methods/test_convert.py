"""`fastmim convert`: official files in and out; every name accounted for, and what the official code computes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastmim import checkpoint, cli
from fastmim.config import from_json, load
from fastmim.convert import official
from fastmim.convert.read import OfficialFile
from fastmim.tasks.pretrain import PARTS, build
from fastmim.tokens import Mask

GOLDEN = Path(__file__).parents[1] / "golden"
KEY_LISTS = {path.stem: path for path in sorted((GOLDEN / "state_dict_keys").glob("*.json"))}
TINY_MAE = """
from dataclasses import replace
from pathlib import Path
from fastmim.config import load
from fastmim.decoders import TransformerDecoder
from fastmim.encoders import ViT
base = load(Path({configs!r}) / "mae/pretrain/vit_base_patch16_224_800ep.py")
config = replace(
    base,
    encoder=ViT("vit_base_patch16_224", embed_dim=64, depth=2, num_heads=4),
    decoder=TransformerDecoder(dim=32, depth=1, num_heads=4),
    data=replace(base.data, size=(96, 96)),
)
"""


def official_file(name: str) -> OfficialFile:
    """A full-size official file that takes no memory: each tensor holds one number, its own."""
    entries = json.loads(KEY_LISTS[name].read_text())["entries"]
    state = {
        e["key"]: torch.tensor(1.0 + i, dtype=getattr(torch, e["dtype"])).expand(e["shape"])
        for i, e in enumerate(entries)
    }
    return OfficialFile("model" if "model" in official_container(entries) else "state_dict", state, {})


def official_container(entries) -> str:
    return "state_dict" if any(e["key"].startswith("backbone.") for e in entries) else "model"


@pytest.fixture
def convert(capsys):
    """convert(*words): what the command prints."""

    def run(*words):
        cli.main(["convert", *map(str, words)])
        return capsys.readouterr().out

    return run


@pytest.fixture
def refusal(capsys):
    """refusal(*words): the one line that the command says when it cannot."""

    def refuse(*words):
        with pytest.raises(SystemExit) as error:
            cli.main(["convert", *map(str, words)])
        assert error.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return refuse


@pytest.fixture
def tiny_mae(golden, tmp_path):
    """The weights of the tiny golden MAE as the official code saves them, and its config file."""
    data = golden("forward_mae_tiny")
    state = {name[3:]: tensor for name, tensor in data.items() if name.startswith("sd/")}
    torch.save({"model": state, "epoch": 5, "optimizer": {}}, tmp_path / "mae.pth")
    (tmp_path / "config.py").write_text(TINY_MAE.format(configs=str(GOLDEN.parents[1] / "configs")))
    return data, state, tmp_path / "mae.pth", tmp_path / "config.py"


def weights(run: Path):
    loaded = checkpoint.load(run / "checkpoints")
    config = from_json(loaded.meta["config"], PARTS)
    mim = build(config)
    mim.load_state_dict(loaded.state["model"])
    return config, mim


@pytest.mark.parametrize("name", KEY_LISTS)
def test_key_lists_there_and_back(name):
    """Recognised, sizes inferred, every name and shape at home, and the same tensors come back."""
    file = official_file(name)
    fmt = official.recognise(file)
    assert official.recognise(replace(file, container=None)) is fmt
    with torch.device("meta"):
        mim = build(official.configuration(fmt, file.state))
    state, account = official.to_ours(fmt, file.state, mim)
    assert not account.missing and not account.unmatched and not account.resized
    assert account.matched + len(account.derived) == len(file.state)
    mim.load_state_dict(state, assign=True)
    back, returned = official.to_official(fmt, mim)
    assert not returned.unmatched and back.keys() == file.state.keys()
    for key, tensor in file.state.items():
        assert back[key].shape == tensor.shape and back[key].dtype == tensor.dtype, key
        assert key in returned.derived or torch.equal(back[key].reshape(-1)[:1], tensor.reshape(-1)[:1]), key


def test_the_tiny_mae_through_the_command(tiny_mae, tmp_path, convert):
    data, state, file, config_file = tiny_mae
    out = convert(file, tmp_path / "run", "--config", config_file)
    assert f"facebookresearch/mae: {len(state)} tensors matched" in out and "not kept: epoch, optimizer" in out
    _, mim = weights(tmp_path / "run")
    mask = Mask(data["noise"].argsort(dim=1), 9, (6, 6))
    with torch.no_grad():
        pred = mim.predict(data["img"].permute(0, 2, 3, 1), mask)
    expected = data["pred"].gather(1, mask.ids_hidden[..., None].expand(-1, -1, data["pred"].shape[-1]))
    torch.testing.assert_close(pred, expected, rtol=0, atol=1e-4)

    convert(tmp_path / "run", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == {"model"} and back["model"].keys() == state.keys()
    assert all(torch.equal(back["model"][name], tensor) for name, tensor in state.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.pth", "config.py", "mae.pth", "run"]


def test_every_name_is_accounted_for(tiny_mae, tmp_path, convert):
    _, state, file, config_file = tiny_mae
    del state["norm.bias"]
    state["head.weight"] = torch.zeros(3)
    torch.save({"model": state}, file)
    out = convert(file, tmp_path / "run", "--config", config_file)
    assert "not in the file, so initialised: 1\n    norm.bias\n" in out
    assert "in the file, but not in this model: 1\n    head.weight\n" in out


def test_an_encoder_alone_gets_a_new_decoder(tiny_mae, tmp_path, convert):
    """The plain downloads of facebookresearch/mae."""
    _, state, file, config_file = tiny_mae
    encoder = {name: t for name, t in state.items() if not name.startswith("decoder_") and name != "mask_token"}
    torch.save({"model": encoder}, file)
    out = convert(file, tmp_path / "run", "--config", config_file)
    assert "    decoder_pred.weight\n" in out
    _, mim = weights(tmp_path / "run")
    assert torch.equal(mim.encoder.norm.bias, state["norm.bias"])
    fresh = build(load(config_file))
    assert torch.equal(mim.decoder.pred.weight, fresh.decoder.pred.weight)


def test_another_image_size(tiny_mae, tmp_path, convert):
    _, state, file, config_file = tiny_mae
    out = convert(file, tmp_path / "run", "--config", config_file, "--size", "64", "128")
    assert "pos_embed (1, 37, 64) to (1, 33, 64)" in out and "decoder_pos_embed" in out
    config, mim = weights(tmp_path / "run")
    assert config.data.size == (64, 128) and mim.encoder.grid == (4, 8)
    assert torch.equal(mim.encoder.pos_embed[:, :1], state["pos_embed"][:, :1])


def test_what_cannot_be_converted_is_one_line(tiny_mae, tmp_path, refusal, convert):
    _, state, file, config_file = tiny_mae
    run = tmp_path / "run"
    base = GOLDEN.parents[1] / "configs/mae/pretrain/vit_base_patch16_224_800ep.py"
    assert "width 64" in refusal(file, run) and "--config" in refusal(file, run)
    line = refusal(file, run, "--config", base)
    assert "cls_token (1, 1, 64), here (1, 1, 768)" in line and "more" in line
    torch.save({"model": {"a.b": torch.ones(1)}}, tmp_path / "other.pth")
    assert "names (a.b, ...) are of no format" in refusal(tmp_path / "other.pth", run)
    assert "No such file" in refusal(tmp_path / "nowhere.pth", run)
    assert "--format is for writing" in refusal(file, run, "--format", "x")
    assert not run.exists()
    convert(file, run, "--config", config_file)
    assert "holds checkpoints already" in refusal(file, run, "--config", config_file)
    assert "facebookresearch/mae, got mea" in refusal(run, tmp_path / "back.pth", "--format", "mea")
    assert "leave --config and --size out" in refusal(run, tmp_path / "back.pth", "--size", "32", "32")
    assert not (tmp_path / "back.pth").exists()
