"""UM-MAE and its repository's SimMIM equal the official outputs (tests/golden) and the published way."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.published import um_mae as published
from fastmim.config.config_file import load
from fastmim.convert import um_mae
from fastmim.engine import optim
from fastmim.export import export
from fastmim.model.decoders import TransformerDecoder
from fastmim.model.encoders import UMPVT, ImageInput, UMSwin, ViT
from fastmim.model.losses import MaskedL2
from fastmim.model.masking import RandomMasking, UniformMasking
from fastmim.model.objective import Objective
from fastmim.model.targets import NormalizedPatches, Pixels
from fastmim.parts import ImageSpec
from fastmim.tasks.pretrain import build
from fastmim.tokens import Mask

CONFIGS = Path(__file__).parents[2] / "configs/um_mae/pretrain"
IDENTITY = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SWIN = UMSwin(embed_dim=16, depths=(2, 2, 2, 1), num_heads=(1, 2, 4, 8), window=8, posmlp_dim=8)
PVT = UMPVT(dims=(16, 32, 32, 64), depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4))
(FORMAT,) = (fmt for fmt in um_mae.FORMATS if fmt.name.startswith("UM-MAE Swin"))
DECODER = TransformerDecoder(dim=32, depth=1, num_heads=4, official_pos_order=True)


def uniform_mask(hidden, replaced=None):
    """Returns the Mask of an official (B, L) mask with one visible patch in each 2x2 block."""
    side = int(hidden.shape[1] ** 0.5)
    blocks = torch.arange((side // 2) ** 2)
    visible = ~hidden.bool().view(-1, side // 2, 2, side // 2, 2).transpose(2, 3).reshape(len(hidden), -1, 4)
    corner = visible.int().argmax(dim=2)
    keep = (2 * (blocks // (side // 2)) + corner // 2) * side + 2 * (blocks % (side // 2)) + corner % 2
    rest = hidden.bool().nonzero()[:, 1].view(len(hidden), -1)
    secondary = None if replaced is None else replaced.gather(1, keep)
    return Mask(torch.cat([keep, rest], dim=1), len(blocks), (side, side), secondary)


def randomize(module):
    """Gives every trained parameter, biases and norms too, its own value."""
    for p in module.parameters():
        if p.requires_grad:
            p.data += 0.1 * torch.randn_like(p)


class TestMasks:
    @pytest.mark.parametrize("side", [16, 14])
    def test_golden_masks_are_in_the_law(self, golden, side):
        """No corner is drawn more often than its pool allows, and the counts spread as the official ones."""
        data = golden("um_mask")
        blocks = (side // 2) ** 2
        pool = len(data[f"mask_candidate_{side}"]) // 4
        masks = {
            "ours": UniformMasking()(0, torch.arange(4000), (side, side), 16),
            "official": uniform_mask(data[f"mask_regular_{side}"]),
        }
        spread = {}
        for name, mask in masks.items():
            assert mask.num_keep == blocks
            assert torch.equal(mask.ids.sort(dim=1).values, torch.arange(side**2).expand(len(mask.ids), -1))
            row, column = mask.ids_keep // side, mask.ids_keep % side
            assert torch.equal(row // 2 * (side // 2) + column // 2, torch.arange(blocks).expand(len(row), -1))
            counts = torch.nn.functional.one_hot(row % 2 * 2 + column % 2, 4).sum(dim=1)
            assert counts.max() <= pool
            spread[name] = counts.double().std(dim=0)
            assert (counts.double().mean(dim=0) - blocks / 4).abs().max() < 5 * 3 / len(counts) ** 0.5
        torch.testing.assert_close(
            spread["official"],
            data[f"stat_mask_regular_{side}_corner_counts_per_image_std"].double(),
            rtol=0.01,
            atol=0,
        )
        torch.testing.assert_close(spread["ours"], spread["official"], rtol=0.2, atol=0)

    def test_independent_draws_spread_more(self):
        mask = UniformMasking(draw="iid")(0, torch.arange(4000), (16, 16), 16)
        counts = (mask.ids_keep // 16 % 2 * 2 + mask.ids_keep % 2 == 0).sum(dim=1).double()
        assert counts.var().item() == pytest.approx(64 * 0.25 * 0.75, rel=0.1)

    def test_replaced_patches_are_of_any_corner(self):
        """Secondary masks use their own stream; the corners' stream would always replace the last corner."""
        mask = UniformMasking(draw="iid")(0, torch.arange(1000), (8, 8), 16)
        corners = mask.ids_keep // 8 % 2 * 2 + mask.ids_keep % 2
        shares = torch.nn.functional.one_hot(corners[mask.secondary], 4).double().mean(dim=0)
        torch.testing.assert_close(shares, torch.full_like(shares, 0.25), rtol=0, atol=0.03)

    @pytest.mark.parametrize(("grid", "kept"), [((16, 16), 48), ((14, 14), 36), ((4, 8), 6)])
    def test_secondary_counts(self, grid, kept):
        mask = UniformMasking(secondary=0.25)(0, torch.arange(500), grid, 16)
        assert ((~mask.secondary).sum(dim=1) == kept).all()
        assert UniformMasking(secondary=0.0)(0, torch.arange(2), grid, 16).secondary is None

    def test_official_secondary_masks(self, golden):
        data = golden("um_mask")
        hidden = data["comp_mask"].bool()
        mask = uniform_mask(hidden, published.draw_secondary(hidden, 0.25, data["comp_noise"]))
        assert torch.equal(mask.secondary.view(2, 4, 4), data["secondary_compacted"].bool())
        assert torch.equal(published.inputs(mask)[1] | hidden, data["secondary_full_masked"].bool())

    def test_order(self, golden):
        data = golden("um_mask")
        mask = uniform_mask(data["comp_mask"])
        assert torch.equal(mask.ids_keep, data["compact_order"])
        assert torch.equal(mask.ids_keep.sort(dim=1).values, data["decoder_pos_order"])


class TestCompaction:
    @pytest.mark.parametrize("backbone", ["swin", "pvt"])
    def test_of_the_official_tokens(self, golden, backbone):
        """Pixels that are gathered first land at the official places; each token counts as a pixel here."""
        data = golden("um_mask")
        tokens = data[f"{backbone}_vmr000_tokens"].view(2, 32, 32, 8)
        pixels = ImageInput(ImageSpec((32, 32), (0.0,) * 8, (1.0,) * 8))
        compact = pixels.compact(tokens, uniform_mask(data["comp_mask"]), 4, torch.float32).permute(0, 2, 3, 1)
        expected = data[f"{backbone}_vmr000_compacted"].view(compact.shape)
        if backbone == "pvt":
            pos_embed = data["pvt_vmr000_pos_embed"].view(1, 32, 32, 8).expand(2, -1, -1, -1).contiguous()
            expected = expected - pixels.compact(pos_embed, uniform_mask(data["comp_mask"]), 4, torch.float32).permute(
                0, 2, 3, 1
            )
        torch.testing.assert_close(compact, expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("ratio", ["000", "025"])
    @pytest.mark.parametrize("backbone", ["swin", "pvt"])
    def test_what_the_first_block_gets(self, golden, backbone, ratio, monkeypatch):
        """Covers replaced tokens, and rows and columns (Swin) or position embeddings (PVT)."""
        data = golden("um_mask")
        name = f"{backbone}_vmr{ratio}"
        hidden = data["comp_mask"].bool()
        mask = uniform_mask(hidden)
        spec = {
            "swin": UMSwin(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
            "pvt": UMPVT(dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
        }[backbone]
        encoder = spec.build(ImageSpec((128, 128), *IDENTITY), UniformMasking(secondary=int(ratio) / 100))
        if ratio == "025":
            mask = uniform_mask(hidden, published.draw_secondary(hidden, 0.25, data["comp_noise"]))
            token = data["swin_vmr025_vis_token_after_norm" if backbone == "swin" else "pvt_vmr025_vis_token"]
            encoder.vis_mask_token.data[:] = token
        if backbone == "pvt":
            encoder.pos_embed.data[:] = data[f"{name}_pos_embed"]
        tokens = data[f"{name}_tokens"].view(2, 32, 32, 8)
        monkeypatch.setattr(encoder.patch_embed, "norm", torch.nn.Identity())  # the recorded token has been through it
        pixels = ImageInput(ImageSpec((32, 32), (0.0,) * 8, (1.0,) * 8))
        monkeypatch.setattr(encoder, "embed", lambda i, ids, n: pixels.tokens(tokens, ids, n, 4, 1, torch.float32))
        monkeypatch.setattr(encoder, "transform", lambda x, places: (encoder.position(x, places), places))
        x, places = encoder(data["comp_img"].permute(0, 2, 3, 1), mask)
        torch.testing.assert_close(x.flatten(1, 2), data[f"{name}_compacted"], rtol=0, atol=1e-6)
        if backbone == "swin":
            assert torch.equal(places.float(), data[f"{name}_pos_hw"])

    def test_pixels_first_is_the_same_network(self, golden):
        """Embedding all tokens and compacting afterwards, as published, gives the same numbers in float32."""
        torch.manual_seed(0)
        encoder = SWIN.build(ImageSpec((128, 128), *IDENTITY), UniformMasking(0.0))
        images = golden("um_mask")["comp_img"].permute(0, 2, 3, 1).contiguous()
        mask = uniform_mask(golden("um_mask")["comp_mask"])
        pixels, proj = encoder.embed(images, mask.ids_keep, mask.grid[1] // 2), encoder.patch_embed.proj
        whole = torch.nn.functional.conv2d(images.permute(0, 3, 1, 2), proj.weight, proj.bias, stride=4)
        whole = encoder.patch_embed.norm(whole.permute(0, 2, 3, 1))
        first = ImageInput(ImageSpec((32, 32), (0.0,) * 16, (1.0,) * 16)).compact(
            whole.detach(), mask, 4, torch.float32
        )
        torch.testing.assert_close(pixels.permute(0, 3, 1, 2), first, rtol=0, atol=1e-6)


class TestGoldenForward:
    @pytest.fixture
    def official_weights(self, golden):
        """Returns a function that builds encoder and decoder with the official weights, the encoder in float64."""
        data = golden("forward_ummae_swin_tiny")

        def load_into(official_pos_order):
            encoder = SWIN.build(ImageSpec((128, 128), *IDENTITY), UniformMasking())
            decoder = replace(DECODER, official_pos_order=official_pos_order).build(encoder)
            state, unmatched = FORMAT.to_ours({k[3:]: v for k, v in data.items() if k.startswith("sd/")})
            assert not unmatched
            for part, module in (("encoder.", encoder), ("decoder.", decoder)):
                module.load_state_dict({k.removeprefix(part): v for k, v in state.items() if k.startswith(part)})
            encoder.double()
            tokens = encoder.input.tokens  # the kernel has no float64, and need not: these pixels are exact
            encoder.input.tokens = lambda *args: tokens(*args[:-1], torch.float32).double()
            hidden = data["mask"].bool()
            mask = uniform_mask(hidden, published.draw_secondary(hidden, 0.25, data["noise"]))
            return data, encoder, decoder, mask, data["img"].permute(0, 2, 3, 1).contiguous()

        return load_into

    @pytest.mark.parametrize(("target", "suffix"), [(Pixels(), "raw"), (NormalizedPatches(), "normpix")])
    def test_with_the_official_order(self, official_weights, check_gradients, target, suffix):
        """Compares in float64, because a wrong eps of a layer norm changes a prediction by only 1.5e-5."""
        data, encoder, decoder, mask, images = official_weights(True)
        latent = encoder(images, mask)
        torch.testing.assert_close(latent.float(), data["latent"], rtol=0, atol=5e-6)
        pred = decoder(latent.float(), mask, 48)
        torch.testing.assert_close(pred, data["pred"][:, 16:], rtol=0, atol=5e-6)
        loss = Objective(target, MaskedL2(), 16, ImageSpec((128, 128), *IDENTITY))(pred, images, mask)
        torch.testing.assert_close(loss, data[f"loss_{suffix}"][0], rtol=1e-5, atol=0)
        if suffix == "normpix":
            loss.backward()
            parts = (("encoder", encoder), ("decoder", decoder))
            grads = {f"{part}.{k}": p.grad for part, m in parts for k, p in m.named_parameters() if p.requires_grad}
            check_gradients({k: g.float() for k, g in FORMAT.to_official(grads)[0].items()}, data)

    def test_the_loss_does_not_tell_the_orders_apart(self, official_weights):
        """With each token's own position, the same weights predict other values, and the loss barely changes."""
        data, encoder, decoder, mask, images = official_weights(False)
        pred = decoder(encoder(images, mask).float(), mask, 64)
        assert (pred - data["pred"]).abs().max().item() == pytest.approx(0.63, abs=0.01)
        loss = Objective(NormalizedPatches(), MaskedL2(), 16, ImageSpec((128, 128), *IDENTITY))(
            pred[:, 16:], images, mask
        )
        torch.testing.assert_close(loss, data["loss_normpix"][0], rtol=1e-4, atol=0)


TINY = {
    "swin_tiny_256_200ep": {"encoder": SWIN, "decoder": DECODER},
    "pvt_small_256_200ep": {"encoder": PVT, "decoder": DECODER},
    "swin_tiny_256_simmim_200ep": {"encoder": replace(SWIN, reads="all")},
    "pvt_small_256_simmim_200ep": {"encoder": replace(PVT, reads="all")},
    "vit_base_patch16_224_200ep": {
        "encoder": ViT("vit_base_patch16_224", embed_dim=32, depth=2, num_heads=2),
        "decoder": TransformerDecoder(dim=32, depth=2, num_heads=4),
    },
}


def tiny(name, **parts):
    """Returns a config of the table with small parts, at 128 pixels."""
    config = load(CONFIGS / f"{name}.py")
    return replace(config, **{"data": replace(config.data, size=(128, 128))} | TINY[name] | parts)


def batch(config, mim, count=3):
    images = torch.randint(0, 256, (count, *config.data.size, 3), dtype=torch.uint8)
    return images, mim.mask(torch.arange(count))


def loss_of(mim, images, mask):
    return mim.objective(mim.predict(images, mask), images, mask)


class TestOursEqualsThePublishedWay:
    def test_other_configs_are_refused(self):
        config = tiny("swin_tiny_256_200ep")
        published.from_config(config)
        for part in ({"decoder": replace(DECODER, official_pos_order=False)}, {"masking": RandomMasking()}):
            with pytest.raises(ValueError, match="expected a config of UM-MAE"):
                published.from_config(replace(config, **part))


class TestBuilds:
    @pytest.mark.parametrize(
        ("name", "encoder", "decoder", "frozen"),
        [
            ("vit_base_patch16_224_mae_200ep", 85.647, 7.094, 0.252),
            ("vit_base_patch16_224_200ep", 85.648, 7.094, 0.252),
            ("swin_tiny_256_200ep", 27.499, 8.275, 0.131),
            ("swin_large_256_800ep", 194.936, 28.762, 0.131),
            ("pvt_small_256_200ep", 20.772, 7.751, 0.393),
            ("swin_tiny_256_simmim_200ep", 27.499, 2.362, 0.0),
            ("pvt_small_256_simmim_200ep", 20.772, 1.576, 0.262),
        ],
    )
    def test_parameters(self, name, encoder, decoder, frozen):
        """Parameter counts are the published ones, in millions."""
        with torch.device("meta"):
            mim = build(load(CONFIGS / f"{name}.py"))

        def count(module, trained):
            return round(sum(p.numel() for p in module.parameters() if p.requires_grad is trained) / 1e6, 3)

        assert (count(mim.encoder, True), count(mim.decoder, True), count(mim, False)) == pytest.approx(
            (encoder, decoder, frozen), abs=1.1e-3
        )

    @pytest.mark.parametrize(("name", "hidden"), [("swin_tiny_256_200ep", 192), ("pvt_small_256_simmim_200ep", 192)])
    def test_recipe(self, name, hidden):
        """The configs have the published settings."""
        config = load(CONFIGS / f"{name}.py")
        mask = config.masking(0, torch.arange(1), (16, 16), 16)
        assert mask.ids_hidden.shape[1] == hidden
        assert (config.optim.blr, config.optim.betas, config.optim.weight_decay) == (1.5e-4, (0.9, 0.95), 0.05)
        assert (config.optim.warmup_epochs, config.train.epochs, config.train.global_batch) == (10, 200, 4096)
        assert config.data.crop.scale == (0.2, 1.0)

    def test_initialisation(self):
        """Initialisation follows the official code."""
        encoder = build(load(CONFIGS / "swin_tiny_256_200ep.py")).encoder
        assert encoder.patch_embed.proj.bias.abs().max() == 0
        bound = (6 / (96 + 48)) ** 0.5  # Xavier-uniform
        assert 0.95 * bound < encoder.patch_embed.proj.weight.abs().max() < bound
        merge = encoder.blocks[4].downsample.proj
        assert merge.weight.std().item() == pytest.approx((2 / (4 * 384)) ** 0.5, rel=0.02) and not merge.bias.any()
        posmlp = encoder.blocks[9].attn.posmlp
        assert posmlp[2].weight.std().item() == pytest.approx((2 / 12) ** 0.5, rel=0.2) and not posmlp[2].bias.any()
        assert encoder.vis_mask_token.std().item() == pytest.approx(0.02, rel=0.3)
        assert encoder.norm.eps == encoder.patch_embed.norm.eps == encoder.blocks[4].downsample.norm.eps == 1e-6
        for block in (encoder.blocks[0], PVT.build(ImageSpec((128, 128), *IDENTITY), UniformMasking()).blocks[0]):
            assert block.norm1.eps == block.norm2.eps == getattr(block.attn, "norm", block.norm1).eps == 1e-5

    @pytest.mark.parametrize("name", ["swin_tiny_256_200ep", "pvt_small_256_simmim_200ep"])
    def test_weight_decay(self, name):
        """1-D parameters and biases do not decay; position MLPs and tokens do."""
        config = tiny(name)
        mim = build(config)
        decayed, plain = optim.parameter_groups(mim, config.optim)
        names = dict(mim.named_parameters())
        assert all(names[n].ndim == 1 for n in plain["names"]) and plain["weight_decay"] == 0
        assert all(names[n].ndim > 1 for n in decayed["names"])
        token = "encoder.vis_mask_token" if "simmim" not in name else "encoder.mask_token"
        assert token in decayed["names"]

    def test_tokens_exist_only_where_they_are_used(self):
        for spec in (SWIN, PVT):
            encoder = spec.build(ImageSpec((64, 64), *IDENTITY), UniformMasking(secondary=0.0))
            assert not {"mask_token", "vis_mask_token"} & encoder.state_dict().keys()
        vit = ViT("vit_base_patch16_224", embed_dim=32, depth=1, num_heads=2)
        assert "vis_mask_token" not in vit.build(ImageSpec((64, 64), *IDENTITY), RandomMasking()).state_dict()

    @pytest.mark.parametrize(
        ("spec", "size", "masking", "message"),
        [
            (SWIN, (128, 128), RandomMasking(), "use UniformMasking, or reads=all with RandomMasking"),
            (replace(SWIN, reads="all"), (128, 128), UniformMasking(), "masking.secondary must be 0"),
            (SWIN, (128, 100), UniformMasking(), r"multiple of 64 for UMSwin.*nearest is \(128, 128\)"),
            (replace(PVT, reads="all"), (100, 64), RandomMasking(), r"multiple of 32 .*nearest is \(96, 64\)"),
            (UMSwin(), (256, 704), UniformMasking(), "the nearest side that they do is 640"),
            (replace(SWIN, window=7), (128, 128), UniformMasking(), "expected an even number of tokens"),
            (replace(SWIN, depths=(2, 2, 2)), (128, 128), UniformMasking(), "a number for each of 3 stages"),
            (replace(SWIN, depths=(2, 2), num_heads=(2, 4)), (128, 128), UniformMasking(), "each of 3 stages"),
            (replace(SWIN, num_heads=(3, 3, 3, 3)), (128, 128), UniformMasking(), "16 wide cannot have 3 heads"),
            (replace(PVT, mlp_ratios=(4,)), (128, 128), UniformMasking(), "a number for each of 4 stages"),
            (replace(PVT, reductions=(8, 4, 2, 3)), (128, 128), UniformMasking(), "cannot average squares of 3"),
        ],
    )
    def test_what_cannot_be_is_refused(self, spec, size, masking, message):
        with pytest.raises(ValueError, match=message):
            spec.build(ImageSpec(size, *IDENTITY), masking)

    @pytest.mark.parametrize("spec", [SWIN, PVT, replace(SWIN, reads="all"), replace(PVT, reads="all")])
    def test_other_shapes_of_images(self, spec):
        """A rectangle whose stages need smaller windows works, and its features cover the whole grid."""
        masking = UniformMasking() if spec.reads == "visible" else RandomMasking()
        spec = replace(spec, window=16) if isinstance(spec, UMSwin) else spec
        encoder = spec.build(ImageSpec((192, 320), *IDENTITY), masking)
        images = torch.rand(2, 192, 320, 3)
        latent = encoder(images, masking(0, torch.arange(2), encoder.grid, 16))
        assert latent.shape == (2, 15 if spec.reads == "visible" else 60, encoder.embed_dim)
        assert encoder.features(images.permute(0, 3, 1, 2)).shape == (2, 60, encoder.embed_dim)

    def test_the_bias_is_that_of_every_pair(self):
        """The bias from the table equals the MLP on each pair, except pairs that the roll brought together."""
        torch.manual_seed(0)
        encoder = SWIN.build(ImageSpec((128, 192), *IDENTITY), UniformMasking(0.0))
        mask = UniformMasking(0.0)(0, torch.arange(2), encoder.grid, 16)
        seen = []
        encoder.transform = lambda x, places: seen.append(places)
        encoder(torch.rand(2, 128, 192, 3), mask)
        places, attention = seen[0], encoder.blocks[0].attn
        even, odd = encoder.contexts(0, places, compact=True)
        assert even.side == odd.side == (4, 4) and odd.shift == (2, 2)
        # the window at the top right
        code, place = (x.roll((-2, -2), (1, 2))[:, :4, -4:].flatten(1, 2) for x in (odd.codes, places.float()))
        bias = attention.table(odd.offsets)[:, code[:, None] - code[:, :, None] + odd.origin].transpose(0, 1)
        distance = place[:, None] - place[:, :, None]
        expected = attention.posmlp((distance.sign() * distance.abs().log1p()).permute(0, 3, 1, 2))
        column = torch.arange(16) % 4 >= 2
        together = column[:, None] == column
        torch.testing.assert_close(bias[..., together], expected[..., together], rtol=0, atol=1e-6)

    @pytest.mark.parametrize("name", ["swin_tiny_256_200ep", "pvt_small_256_simmim_200ep"])
    def test_checkpointing_changes_nothing(self, name):
        config = tiny(name)
        mim = build(config)
        images, mask = batch(config, mim, 2)
        gradients = []
        for mim.encoder.grad_checkpointing in (False, True):
            mim.zero_grad()
            loss_of(mim, images, mask).backward()
            gradients.append(mim.encoder.patch_embed.proj.weight.grad)
        assert torch.equal(*gradients) and gradients[0].any()


class TestExport:
    @pytest.mark.parametrize("name", TINY)
    def test_an_export_gives_the_same_features(self, name, tmp_path):
        config = tiny(name)
        mim = build(config)
        randomize(mim)
        folder = export.export_encoder(config, mim.state_dict(), tmp_path / "encoder")
        assert sorted(path.name for path in folder.iterdir()) == [
            *("README.md", "config.json", "model.safetensors", "usage.py")
        ]
