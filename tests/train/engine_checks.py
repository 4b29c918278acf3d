"""Checks of the engine, called on each rank: `run(folder, NAME, ...)` calls check_NAME."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastmim import tokens
from fastmim.config import base as config
from fastmim.data.crops import RandomResizedCrop
from fastmim.engine import optim
from fastmim.engine.engine import Engine
from fastmim.engine.process import init_distributed
from fastmim.model.decoders import TransformerDecoder
from fastmim.model.encoders.batchnorm import BatchNorm
from fastmim.model.encoders.vit import ViT
from fastmim.model.losses import MaskedL2
from fastmim.model.masking import RandomMasking
from fastmim.model.targets import NormalizedPatches

LR = 0.005


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        x = x + self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


class Tiny(nn.Module):
    """A transformer that predicts its input, with a token, a frozen parameter, a buffer and dropout.

    The loss is multiplied by 1 + ids[0], and ids[1] is added. Ordinary batches have ids of 0. Other ids make the loss
    infinite or NaN.
    """

    def __init__(self, dropout=0.1):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Linear(12, 24), nn.Linear(24, 12)
        self.token = nn.Parameter(torch.randn(1, 1, 24))
        self.position = nn.Parameter(torch.randn(1, 9, 24), requires_grad=False)
        self.register_buffer("scale", torch.tensor(0.5))
        self.blocks = nn.ModuleList(Block(24) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, images, ids):
        patches = tokens.patchify(images, 2).to(self.embed.weight.dtype) / 255
        x = self.dropout(self.embed(patches))
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        loss = (self.head(x[:, 1:]).float() * self.scale - patches.float()).pow(2).mean()
        return loss * (1 + ids[0]) + ids[1]


class TinyConv(nn.Module):
    """A convolution and a batch norm that predict the mean of their input.

    Its parameters have the names that `make_config` uses. The first two ids change the input of the batch norm, as they
    change the loss of `Tiny`.
    """

    def __init__(self, dropout=0.1):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Conv2d(3, 6, 3), BatchNorm(nn.BatchNorm2d(6), 64)])
        self.dropout, self.head, self.token = nn.Dropout(dropout), nn.Linear(6, 1), nn.Parameter(torch.zeros(1))

    def forward(self, images, ids):
        pixels = images.permute(0, 3, 1, 2).to(self.token.dtype) / 255 * (1 + ids[0]) + ids[1]
        x = self.blocks[1](self.blocks[0](pixels))
        x = self.head(self.dropout(x).relu().mean(dim=(2, 3))) + self.token
        return (x.float() - 4 * pixels.float().mean(dim=(1, 2, 3))[:, None]).pow(2).mean() / 64


def make_config(world, stage=0, precision="fp32", **train):
    """Returns a config with a global batch of 8 in 2 micro-batches.

    At ZeRO stage 3 only the smallest parameters stay whole, and there are several groups.
    """
    train = {"micro_batch": 4 // world, "deepspeed": str(FRAGMENT), **train}
    return config.Config(
        masking=RandomMasking(),
        encoder=ViT(),
        decoder=TransformerDecoder(),
        target=NormalizedPatches(),
        loss=MaskedL2(),
        data=config.Data(RandomResizedCrop()),
        optim=config.Optim(weight_decay=0.1, clip=0.5, lr_scale=(("token", 0.1), ("blocks.0", 3.0))),
        train=config.Train(global_batch=8, seed=3, zero_stage=stage, precision=precision, **train),
    )


def make_engine(process, stage=0, precision="fp32", dropout=0.1, other=False, kind=Tiny, **train):
    """Returns an engine. With `other` it starts from other values, all of which loading must replace."""
    module = kind(dropout)
    for tensor in module.state_dict().values() if other else ():
        tensor.add_(1)
    return Engine(module, make_config(process.world, stage, precision, **train), process)


def batches(step, world, rank):
    """Returns this rank's part of 2 micro-batches: the same 8 images for any number of ranks."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (2, 4, 4, 8, 3), generator=generator, dtype=torch.uint8)
    share = 4 // world
    return [(x[rank * share : (rank + 1) * share], torch.zeros(2)) for x in images]


def train(engine, steps):
    """Does the updates of these numbers; returns the losses, averaged over ranks."""
    process = engine.process
    losses = []
    for step in steps:
        result = engine.train_step(step, LR, batches(step, process.world, process.rank))
        assert not result.skipped
        losses.append(engine.process.reduce_mean(result.loss).item())
    return losses


def differences(a, b):
    """Returns the names of the tensors that are not equal bit for bit."""
    flat_a, flat_b = ({f"{kind}/{name}": t for kind, part in s.items() for name, t in part.items()} for s in (a, b))
    assert flat_a.keys() == flat_b.keys()
    return [k for k, t in flat_a.items() if t.numpy().tobytes() != flat_b[k].numpy().tobytes()]


def copy(state):
    return {kind: {name: t.clone() for name, t in part.items()} for kind, part in state.items()}


def check_plain_loop(process):
    """Compares with plain torch on one process and one batch, so gradients are averaged exactly once."""
    engine = make_engine(process, dropout=0.0)
    module = Tiny(dropout=0.0)
    groups = optim.parameter_groups(module, make_config(process.world).optim)
    plain = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), foreach=False)
    for group in plain.param_groups:
        group["lr"] = LR * (0.1 if "token" in group["names"] else 3.0 if "blocks.0" in group["names"][0] else 1.0)
    for step in range(6):
        result = engine.train_step(step, LR, batches(step, process.world, process.rank))
        images = torch.cat([x for x, _ in batches(step, 1, 0)])
        loss = module(images, torch.zeros(2))
        plain.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_([p for p in module.parameters() if p.requires_grad], 0.5)
        plain.step()
        torch.testing.assert_close(engine.process.reduce_mean(result.loss), loss.detach(), rtol=1e-6, atol=0)
        torch.testing.assert_close(result.grad_norm, norm, rtol=1e-5, atol=0)
    moments = engine.state_dict().get("exp_avg", {})  # the moments are linear in the gradients, unlike the weights
    names = {p: name for name, p in module.named_parameters()}
    assert process.rank or moments.keys() == {names[p] for p in plain.state}
    for p, state in plain.state.items():
        if process.rank == 0:
            torch.testing.assert_close(moments[names[p]], state["exp_avg"], rtol=1e-4, atol=1e-7)


def check_stages_agree(process, precision, stages, tolerance):
    losses = {stage: train(make_engine(process, stage, precision), range(6)) for stage in stages}
    first = torch.tensor(losses[stages[0]])
    assert first[-1] < first[0]
    for stage in stages[1:]:
        torch.testing.assert_close(torch.tensor(losses[stage]), first, rtol=tolerance, atol=0)


def check_resume(process, stage, precision, **train_fields):
    """Checks that saving changes nothing, and that a new engine with that state continues bit for bit."""
    engine = make_engine(process, stage, precision, **train_fields)
    train(engine, range(3))
    saved = copy(engine.state_dict())
    with engine.inference():
        engine.module(*batches(0, process.world, process.rank)[0])
    losses = train(engine, range(3, 6))
    again = make_engine(process, stage, precision, other=True, **train_fields)
    again.load_state_dict(saved)
    loaded = again.state_dict()
    assert train(again, range(3, 6)) == losses
    end, end_again = engine.state_dict(), again.state_dict()
    if process.rank == 0:
        assert saved["scalars"]["optimizer_step"] == 3
        assert differences(saved, loaded) == []
        assert differences(end, end_again) == []
        assert differences(saved, end) != []
    local, local_again = dict(engine.local_weights()), dict(again.local_weights())
    assert local.keys() == local_again.keys()
    assert all(torch.equal(t, local_again[name]) for name, t in local.items())


def check_batch_norm(process, stage, precision):
    """Checks that statistics of a batch norm are kept in fp32, saved and loaded."""
    check_resume(process, stage, precision, kind=TinyConv)
    engine = make_engine(process, stage, precision, kind=TinyConv)
    train(engine, range(3))
    if state := engine.state_dict():
        assert state["model"]["blocks.1.num_batches_tracked"] == 6
        for name, start in (("running_mean", 0.0), ("running_var", 1.0)):
            statistic = state["model"][f"blocks.1.{name}"]
            assert statistic.dtype == torch.float32 and (statistic != start).all()
            assert not torch.equal(statistic, statistic.bfloat16().float())


def check_batch_norm_not_finite(process, stage, precision):
    """Checks that statistics of a batch norm forget a bad micro-batch too."""
    check_not_finite(process, stage, precision, kind=TinyConv)


def check_offload(process, stage, precision):
    check_resume(process, stage, precision, offload=True)


def check_change_stage(process, precision, tolerance):
    """Checks that every stage loads every other stage's state exactly, and continues like that stage."""
    states, losses = {}, {}
    for stage in range(4):
        engine = make_engine(process, stage, precision)
        train(engine, range(2))
        states[stage] = copy(engine.state_dict())
        losses[stage] = torch.tensor(train(engine, range(2, 5)))
    for stage in range(4):
        engine = make_engine(process, stage, precision, other=True)
        for source, state in states.items():
            engine.load_state_dict(state)
            loaded = engine.state_dict()
            assert process.rank or differences(loaded, state) == []
            continued = torch.tensor(train(engine, range(2, 5)))
            torch.testing.assert_close(continued, losses[source], rtol=tolerance, atol=0)


def check_write_state(process, stage):
    engine = make_engine(process, stage, dropout=0.0)
    train(engine, range(2))
    state = engine.state_dict()
    losses = train(engine, range(2, 5))
    if process.rank == 0:
        flat = {f"{kind}/{name}": t for kind, part in state.items() for name, t in part.items()}
        save_file({**flat, "losses": torch.tensor(losses)}, FOLDER / f"stage{stage}.safetensors")


def check_read_state(process, stage):
    """Checks that the state of another number of processes loads exactly and continues like those."""
    flat = load_file(FOLDER / f"stage{stage}.safetensors")
    losses = flat.pop("losses")
    state = {}
    for key, tensor in flat.items():
        kind, name = key.split("/")
        state.setdefault(kind, {})[name] = tensor
    engine = make_engine(process, stage, dropout=0.0, other=True)
    engine.load_state_dict(state)
    assert differences(engine.state_dict(), state) == []
    torch.testing.assert_close(torch.tensor(train(engine, range(2, 5))), losses, rtol=1e-5, atol=0)


def check_not_finite(process, stage, precision, kind=Tiny):
    """Checks that a bad micro-batch on the last rank makes every rank skip, and changes nothing."""
    engine, clean = (make_engine(process, stage, precision, kind=kind) for _ in range(2))
    train(engine, range(2))
    train(clean, range(2))
    before = copy(engine.state_dict())
    last = process.rank == process.world - 1
    for poison in ([torch.nan, 0], [torch.inf, 0], [0, torch.inf]):
        for micro in range(2):
            bad = batches(2, process.world, process.rank)
            if last:
                bad[micro] = (bad[micro][0], torch.tensor(poison))
            result = engine.train_step(2, LR, bad)
            assert result.skipped
            assert not last or not torch.isfinite(result.loss)
            after = engine.state_dict()
            if precision == "autocast-fp16" and process.rank == 0:
                assert after["scalars"].pop("loss_scale") == before["scalars"]["loss_scale"] / 2
                before["scalars"]["loss_scale"] /= 2
                after["scalars"]["loss_scale"] = before["scalars"]["loss_scale"]
                before["scalars"]["loss_scale_growth"].zero_()
            assert process.rank or differences(before, after) == []
    if precision == "autocast-fp16":
        engine.optimizer.loss_scale.copy_(clean.optimizer.loss_scale)
    assert train(engine, range(3, 5)) == train(clean, range(3, 5))
    end, clean_end = engine.state_dict(), clean.state_dict()
    if process.rank == 0:
        end["scalars"].pop("loss_scale_growth", None), clean_end["scalars"].pop("loss_scale_growth", None)
        assert differences(end, clean_end) == []


class CountReads(TorchDispatchMode):
    """Counts reads of values, for which the host would wait for a GPU."""

    reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.reads += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def check_no_reads(process, precision):
    """Checks that an update at stage 0 reads nothing: clipping, skipping and scaling stay on the device."""
    engine = make_engine(process, 0, precision)
    train(engine, range(1))
    with CountReads() as count:
        result = engine.train_step(1, LR, batches(1, process.world, process.rank))
        assert count.reads == 0
        result.loss.item()
    assert count.reads == 1


def check_refuses_state(process):
    engine = make_engine(process)
    state = engine.state_dict()
    if process.rank == 0:
        state["exp_avg"]["token"] = torch.zeros(2)
        del state["model"]["head.bias"]
    try:
        engine.load_state_dict(state)
    except ValueError as error:
        message = str(error)
    assert "rank 0 refused" in message if process.rank else "head.bias" in message and "(2,)" in message


def check_micro_batches(process):
    engine = make_engine(process)
    for count in (1, 3):
        try:
            engine.train_step(0, LR, (batches(0, process.world, process.rank) * 2)[:count])
        except ValueError as error:
            assert "2 micro-batches" in str(error)
        else:
            raise AssertionError(f"{count} micro-batches were taken")


def check_process(process):
    """Checks that ranks share the cores, and that sums and means are over the ranks."""
    assert process.device == torch.device("cpu")
    assert torch.get_num_threads() == max(1, len(os.sched_getaffinity(0)) // process.world)
    engine = make_engine(process)
    value = torch.tensor(float(process.rank))
    assert engine.process.reduce_sum(value) == 1 and engine.process.reduce_mean(value) == 0.5 and value == process.rank


def check_reseeds(process):
    """Checks that dropout depends on step and rank only, not on earlier draws."""
    result = [make_engine(process).train_step(step, LR, batches(0, process.world, process.rank)) for step in (5, 5, 6)]
    assert result[0].loss == result[1].loss != result[2].loss


def run(folder: Path, check: str, *arguments) -> None:
    """Runs one check on this rank. All ranks share the folder that checks write to."""
    global FOLDER, FRAGMENT
    FOLDER, FRAGMENT = folder, folder / "deepspeed.json"
    if check == "process":  # then `init_distributed` chooses the number of threads
        del os.environ["OMP_NUM_THREADS"]
        torch.set_num_threads(5)
    process = init_distributed("cpu")
    if process.rank == 0:
        zero = {"stage3_param_persistence_threshold": 30, "sub_group_size": 1000}
        FRAGMENT.write_text(json.dumps({"zero_optimization": zero}))
    torch.distributed.barrier()
    globals()[f"check_{check}"](process, *arguments)
