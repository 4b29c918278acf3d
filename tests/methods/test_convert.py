"""`fastmim convert`: official files in and out, with every name accounted for and the official outputs."""

import json
import re
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.published import simmim as published_simmim
from fastmim import cli, recipe
from fastmim.config.config_file import load
from fastmim.config.json_form import from_json
from fastmim.convert import official_weights
from fastmim.convert.restricted_reader import OfficialFile
from fastmim.model.build import build
from fastmim.model.targets import LowPass
from fastmim.run import checkpoint
from fastmim.tokens import Mask, patchify, take
from tests.methods.tiny import ROWS, row, tiny, traits
from tests.sweep import covering

GOLDEN = Path(__file__).parents[1] / "golden"
KEY_LISTS = {path.stem: path for path in sorted((GOLDEN / "state_dict_keys").glob("*.json"))}
# One of those that differ in their epochs only.
CONFIGS = {(path.parts[-3], path.stem.rpartition("_")[0]): path for path in ROWS}
TINY_MAE = """
from dataclasses import replace
from pathlib import Path
from fastmim.config.config_file import load
from fastmim.model.decoders import TransformerDecoder
from fastmim.model.encoders import ViT
base = load(Path({configs!r}) / "mae/pretrain/vit_base_patch16_224_800ep.py")
config = replace(
    base,
    encoder=ViT("vit_base_patch16_224", embed_dim=64, depth=2, num_heads=4),
    decoder=TransformerDecoder(dim=32, depth=1, num_heads=4),
    data=replace(base.data, size=(96, 96)),
)
"""

TINY_UM_MAE = """
from dataclasses import replace
from pathlib import Path
from fastmim.config.config_file import load
base = load(Path({configs!r}) / "um_mae/pretrain/swin_tiny_256_200ep.py")
encoder = replace(base.encoder, embed_dim=16, depths=(2, 2, 2, 1), num_heads=(1, 2, 4, 8), window=8, posmlp_dim=8)
decoder = replace(base.decoder, dim=32, depth=1, num_heads=4)
config = replace(base, encoder=encoder, decoder=decoder, data=replace(base.data, size=(128, 128)))
"""


def official_file(name: str) -> OfficialFile:
    """Full-size official file that takes no memory: each tensor holds one number of its own."""
    entries = json.loads(KEY_LISTS[name].read_text())["entries"]
    state = {
        e["key"]: torch.tensor(1.0 + i, dtype=getattr(torch, e["dtype"])).expand(e["shape"])
        for i, e in enumerate(entries)
    }
    return OfficialFile("state_dict" if any(e["key"].startswith("backbone.") for e in entries) else "model", state, {})


@pytest.fixture
def convert(capsys):
    """Function that runs the command and returns its output."""

    def run(*words):
        cli.main(["convert", *map(str, words)])
        return capsys.readouterr().out

    return run


@pytest.fixture
def refusal(capsys):
    """Function that runs the command and returns its one-line error."""

    def refuse(*words):
        with pytest.raises(SystemExit) as error:
            cli.main(["convert", *map(str, words)])
        assert error.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return refuse


@pytest.fixture
def tiny_mae(golden, tmp_path):
    """Weights of the tiny golden MAE as the official code saves them, and its config file."""
    data = golden("forward_mae_tiny")
    state = {name[3:]: tensor for name, tensor in data.items() if name.startswith("sd/")}
    torch.save({"model": state, "epoch": 5, "optimizer": {}}, tmp_path / "mae.pth")
    (tmp_path / "config.py").write_text(TINY_MAE.format(configs=str(GOLDEN.parents[1] / "configs")))
    return data, state, tmp_path / "mae.pth", tmp_path / "config.py"


def weights(run: Path):
    loaded = checkpoint.load(run / "checkpoints")
    config = from_json(loaded.meta["config"], recipe)
    mim = build(config)
    mim.load_state_dict(loaded.state["model"])
    return config, mim


@pytest.mark.parametrize("name", KEY_LISTS)
def test_key_lists_there_and_back(name):
    """A file is recognised, its sizes are inferred, every name fits, and the same tensors come back."""
    file = official_file(name)
    fmt, state = official_weights.unwrap(file).format, file.state
    assert official_weights.unwrap(replace(file, container=None)).format is fmt
    with torch.device("meta"):
        mim = build(official_weights.infer_config(fmt, state))
    ours, account = official_weights.to_ours(fmt, state, mim)
    assert not account.missing and not account.unmatched and not account.resized
    assert account.matched + len(account.derived) == len(file.state)
    mim.load_state_dict(ours, assign=True)
    back, returned = official_weights.to_official(fmt, mim)
    assert not returned.unmatched and back.keys() == file.state.keys()
    for key, tensor in file.state.items():
        assert back[key].shape == tensor.shape and back[key].dtype == tensor.dtype, key
        assert key in returned.derived or torch.equal(back[key].reshape(-1)[:1], tensor.reshape(-1)[:1]), key

    lost = next(key for key in reversed(state) if key not in account.derived)
    others = {key: tensor for key, tensor in state.items() if key != lost} | {"head.weight": torch.zeros(3)}
    _, account = official_weights.to_ours(fmt, others, mim)
    assert account.missing == [lost] and account.unmatched == ["head.weight"]


@pytest.mark.parametrize("name", KEY_LISTS)
def test_a_file_that_lacks_what_tells_its_size_is_refused_in_words(name):
    file = official_file(name)
    fmt, keys = official_weights.unwrap(file).format, list(file.state)
    for lost in keys[:20] + keys[20::29]:
        state = {key: tensor for key, tensor in file.state.items() if key != lost}
        try:
            official_weights.infer_config(fmt, state)
        except ValueError as error:
            assert "--config" in str(error)
    with pytest.raises(ValueError, match="--config"):
        official_weights.infer_config(fmt, {})


@pytest.mark.parametrize(
    "path",
    covering(zip(CONFIGS.values()), lambda path: traits(tiny(row(path))), lambda path: f"{path.parts[-3]}-{path.stem}"),
)
def test_models_of_all_configs_go_out_and_come_back(path):
    """Each model is written in every official format that fits, and at least one fits."""
    with torch.device("meta"):
        mim = build(load(path))
        fitting = [fmt for fmt in official_weights.FORMATS if official_weights._fits(fmt, mim)]
        assert fitting
        for fmt in fitting:
            state, account = official_weights.to_official(fmt, mim)
            assert not account.unmatched
            assert official_weights.unwrap(OfficialFile(fmt.container, state, {})).format is fmt
            same = build(official_weights.infer_config(fmt, state))
            shapes = [{name: t.shape for name, t in module.state_dict().items()} for module in (mim, same)]
            assert shapes[0] == shapes[1]


def test_the_tiny_mae_through_the_command(tiny_mae, tmp_path, convert):
    data, state, file, config_file = tiny_mae
    out = convert(file, tmp_path / "run", "--config", config_file)
    assert (
        f"MAE (facebookresearch/mae, long_seq_mae): {len(state)} tensors matched" in out
        and 'not kept: "epoch", "optimizer"' in out
    )
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


def test_the_tiny_swin_through_the_command(golden, tmp_path, convert):
    """Sizes and heads are read from the tables. Tables that only the official code saves come back too."""
    data = golden("forward_simmim_swin_ms_tiny")
    state = {name[3:]: tensor for name, tensor in data.items() if name.startswith("sd/")}
    torch.save({"model": state}, tmp_path / "swin.pth")
    out = convert(tmp_path / "swin.pth", tmp_path / "run")
    assert "not in the file" not in out and "not in this model" not in out
    config, mim = weights(tmp_path / "run")
    hidden = data["mask"][:, ::8, ::8].flatten(1)
    mask = Mask(hidden.argsort(dim=1, stable=True), 3, (3, 3))
    with torch.no_grad():
        pred = mim.predict(data["img"].permute(0, 2, 3, 1), mask)
    expected = take(patchify(data["pred"].permute(0, 2, 3, 1), 32), mask.ids_hidden)
    torch.testing.assert_close(pred, expected, rtol=0, atol=1e-4)

    convert(tmp_path / "run", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    official_state = published_simmim.from_config(config).state_dict()  # its buffers are computed the official way
    assert back.keys() == official_state.keys()
    for name, tensor in back.items():
        assert torch.equal(tensor, state.get(name, official_state[name])), name


def test_the_tiny_um_mae_through_the_command(golden, tmp_path, convert):
    """The heads of a decoder of an unpublished width come from a configuration."""
    data = golden("forward_ummae_swin_tiny")
    state = {name[3:]: tensor for name, tensor in data.items() if name.startswith("sd/")}
    torch.save({"model": state, "args": Namespace(model="tiny")}, tmp_path / "um.pth")
    (tmp_path / "config.py").write_text(TINY_UM_MAE.format(configs=str(GOLDEN.parents[1] / "configs")))
    out = convert(tmp_path / "um.pth", tmp_path / "run", "--config", tmp_path / "config.py")
    assert "not in the file" not in out and "not in this model" not in out and 'not kept: "args"' in out
    _, mim = weights(tmp_path / "run")
    hidden, vertical = data["mask"].bool(), torch.arange(64) // 8
    block = vertical // 2 * 4 + torch.arange(64) % 8 // 2
    ids = (hidden * 64 + torch.where(hidden, torch.arange(64), block)).argsort(dim=1)
    visible = ids[:, :16]
    order = (data["noise"] + data["mask"]).argsort(dim=1)[:, 12:16]
    secondary = (visible[:, :, None] == order[:, None]).any(dim=2)
    mask = Mask(ids, 16, (8, 8), secondary)
    with torch.no_grad():
        pred = mim.predict(data["img"].permute(0, 2, 3, 1), mask)
    torch.testing.assert_close(pred, data["pred"][:, 16:], rtol=0, atol=1e-4)

    convert(tmp_path / "run", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == state.keys() and all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_every_name_is_accounted_for(tiny_mae, tmp_path, convert):
    _, state, file, config_file = tiny_mae
    del state["norm.bias"]
    state["head.weight"] = torch.zeros(3)
    torch.save({"model": state}, file)
    out = convert(file, tmp_path / "run", "--config", config_file)
    assert "not in the file, so initialised: 1\n    norm.bias\n" in out
    assert "in the file, but not in this model: 1\n    head.weight\n" in out


def test_a_file_without_key_biases(tiny_mae, tmp_path, convert):
    """long_seq_mae has an option for this."""
    _, state, file, config_file = tiny_mae
    for name in [name for name in state if name.endswith(".attn.qkv.bias")]:
        q, k, v = state.pop(name).chunk(3)
        state |= {name.replace("qkv.bias", "q_bias"): q, name.replace("qkv.bias", "v_bias"): v}
    torch.save({"model": state}, file)
    out = convert(file, tmp_path / "run", "--config", config_file)
    assert "not in the file" not in out and "not in this model" not in out
    _, mim = weights(tmp_path / "run")
    q, k, v = mim.encoder.blocks[1].attn.qkv.bias.chunk(3)
    assert torch.equal(q, state["blocks.1.attn.q_bias"]) and torch.equal(v, state["blocks.1.attn.v_bias"])
    assert not k.any()


def test_tables_of_another_window():
    """SimMIM's Swin-B goes from window 6 to window 7, as in its fine-tuning."""
    file = official_file("simmim_swin_base_192_window6")
    fmt, state = official_weights.unwrap(file).format, file.state
    config = official_weights.infer_config(fmt, state)
    config = replace(config, encoder=replace(config.encoder, window=7), data=replace(config.data, size=(224, 224)))
    with torch.device("meta"):
        mim = build(config)
    ours, account = official_weights.to_ours(fmt, state, mim)
    assert len(account.resized) == 24 and not account.missing
    assert "attn.relative_position_bias_table (121, 4) to (169, 4)" in account.resized[0]
    mim.load_state_dict(ours, assign=True)


def test_an_encoder_alone_gets_a_new_decoder(tiny_mae, tmp_path, convert):
    """Such files are the usual downloads of facebookresearch/mae."""
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


def test_the_format_to_write(tiny_mae):
    """PixMIM's model is MAE's, and its file also holds a filter."""
    config = load(tiny_mae[3])
    assert official_weights.choose_format(build(config), None).name.startswith("MAE (")
    assert official_weights.choose_format(build(config), "mae").name.startswith("MAE (")
    pixmim = build(replace(config, target=LowPass()))
    with pytest.raises(ValueError, match="2 official formats fit; .* PixMIM .*; MAE"):
        official_weights.choose_format(pixmim, None)
    state, _ = official_weights.to_official(official_weights.choose_format(pixmim, "mmselfsup"), pixmim)
    assert official_weights.choose_format(pixmim, None, "PixMIM (open-mmlab/mmselfsup)").name.startswith("PixMIM")
    with pytest.raises(ValueError, match="do not fit SimMIM Swin .microsoft/SimMIM.; they fit: PixMIM .*; MAE"):
        official_weights.choose_format(pixmim, "SimMIM Swin (micro")
    with pytest.raises(ValueError, match="do not fit SimMIM Swin .* or SimMIM ViT .*; they fit: MAE"):
        official_weights.choose_format(build(config), "simmim")
    assert state["target_generator.low_pass_filter"].shape == (3, 96, 96)


def test_what_cannot_be_converted_is_one_line(tiny_mae, tmp_path, refusal, convert):
    _, state, file, config_file = tiny_mae
    run = tmp_path / "run"
    base = GOLDEN.parents[1] / "configs/mae/pretrain/vit_base_patch16_224_800ep.py"
    assert "width 64" in refusal(file, run) and "--config" in refusal(file, run)
    line = refusal(file, run, "--config", base)
    assert "cls_token (1, 1, 64), here (1, 1, 768)" in line and "more" in line
    torch.save({"model": {"a.b": torch.ones(1)}}, tmp_path / "other.pth")
    assert 'found the names "a.b", ...' in refusal(tmp_path / "other.pth", run)
    assert "expected an official checkpoint" in refusal(tmp_path / "nowhere.pth", run)
    assert "--format is for writing" in refusal(file, run, "--format", "x")
    assert not run.exists()
    convert(file, run, "--config", config_file)
    assert "holds checkpoints already" in refusal(file, run, "--config", config_file)
    assert "no official format has this name; this model fits: MAE" in refusal(
        run, tmp_path / "back.pth", "--format", "mea"
    )
    line = refusal(run, tmp_path / "back.pth", "--format", "um-mae")
    assert "do not fit UM-MAE ViT" in line and line.endswith("they fit: MAE (facebookresearch/mae, long_seq_mae)")
    assert "leave --config and --size out" in refusal(run, tmp_path / "back.pth", "--size", "32", "32")
    assert not (tmp_path / "back.pth").exists()


WRAPPED = {
    "ddp": (lambda state: {"model": prefixed("module.", state)}, "names taken without 'module.'"),
    "compile": (lambda state: {"model": prefixed("_orig_mod.", state)}, "such as '_orig_mod.'"),
    "compiled blocks": (
        lambda state: {"model": {k.replace("blocks.0.", "blocks.0._orig_mod."): v for k, v in state.items()}},
        "such as '_orig_mod.'",
    ),
    "compiled ddp": (lambda state: {"model": prefixed("module._orig_mod.", state)}, "names taken without 'module.'"),
    "lightning": (
        lambda state: {"state_dict": prefixed("model.", state) | {"loss.weight": torch.ones(1)}, "callbacks": {}},
        "not kept: 1 tensors outside 'model.', such as \"loss.weight\"",
    ),
    "deepspeed": (lambda state: {"module": state, "ds_config": {}}, "taken: the weights under 'module'"),
    "nested": (lambda state: {"epoch": 3, "model": {"module": state}}, "taken: the weights under 'model.module'"),
    "averages alone": (lambda state: {"model_ema": state}, "taken: the weights under 'model_ema'"),
    "averages beside": (lambda state: {"model": state, "model_ema": state}, 'not kept: "model_ema"'),
    "a student and its teacher": (
        lambda state: {"model": prefixed("teacher.", state) | prefixed("student.module.", state)},
        "names taken without 'student.module.'",
    ),
    "another program's container": (lambda state: {"state_dict": state}, "tensors matched"),
}


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("name", WRAPPED)
def test_weights_in_the_wrappers_of_other_programs_are_found_and_named(name, tiny_mae, tmp_path, convert):
    _, state, file, config_file = tiny_mae
    wrap, said = WRAPPED[name]
    torch.save(wrap(state), file)
    out = convert(file, tmp_path / "run", "--config", config_file)
    assert said in out and f"{len(state)} tensors matched" in out
    _, mim = weights(tmp_path / "run")
    assert torch.equal(mim.encoder.norm.bias, state["norm.bias"])


def test_a_file_is_replaced_only_with_overwrite(tiny_mae, tmp_path, refusal, convert):
    _, _, file, config_file = tiny_mae
    convert(file, tmp_path / "run", "--config", config_file)
    before = file.read_bytes()
    line = refusal(tmp_path / "run", file)
    assert "--overwrite replaces it" in line and "fastmim convert FILE RUN" in line
    assert "found a folder" in refusal(tmp_path / "run", tmp_path)
    assert "found a file" in refusal(file, config_file)
    assert file.read_bytes() == before
    (tmp_path / "link.pth").symlink_to(file)
    assert "--overwrite" in refusal(tmp_path / "run", tmp_path / "link.pth")
    convert(tmp_path / "run", tmp_path / "link.pth", "--overwrite")
    assert file.read_bytes() == before and not (tmp_path / "link.pth").is_symlink()


@pytest.mark.parametrize(("blocks", "each", "reason"), [(10, 4, "a model of"), (99, 1, "at most .* blocks")])
def test_a_file_that_describes_a_far_larger_model_is_refused(blocks, each, reason, tmp_path, refusal):
    state = {"cls_token": torch.zeros(1), "pos_embed": torch.zeros(1, 257, 1280)}
    state |= {"patch_embed.proj.weight": torch.zeros(1280, 3, 14, 14), "blocks.0.attn.qkv.weight": torch.zeros(1)}
    state |= {f"blocks.{i}.{n}.x": torch.zeros(1) for i in range(blocks) for n in range(each)}
    torch.save({"model": state}, tmp_path / "mae.pth")
    assert re.search(reason, refusal(tmp_path / "mae.pth", tmp_path / "run"))


def test_shapes_of_no_model_are_refused_in_words(tiny_mae, tmp_path, refusal):
    _, state, file, config_file = tiny_mae
    for wrong in (torch.zeros(()), torch.zeros(0), torch.zeros(3), torch.zeros(1, 1, 1, 1, 1)):
        for name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"):
            torch.save({"model": state | {name: wrong}}, file)
            for words in ([], ["--config", config_file]):
                line = refusal(file, tmp_path / "run", *words)
                assert "unpack" not in line and "index" not in line, line
