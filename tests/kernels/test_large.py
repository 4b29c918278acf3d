"""Tests on tensors of more than 2^31 elements: the last patch is read and written in its place."""

import importlib

import pytest
import torch

from bench.ops import DTYPES
from fastmim_kernels import OPS, patch_gather, patch_loss, require
from fastmim_kernels._element_loss import ELEMENT_LOSSES

PATCH = 32
IMAGES = 3  # of 27,392 x 27,392 bytes: the last image begins below 2^31 and ends above
SIDE = 27392
MEAN, STD = torch.zeros(1), torch.ones(1)
CASES = {op: importlib.import_module(f"fastmim_kernels.{op}.cases") for op in OPS}


@pytest.fixture(scope="module")
def images():
    """Returns zeros in which only the last patch is touched; untouched memory costs nothing."""
    images = torch.zeros(IMAGES, SIDE, SIDE, 1, dtype=torch.uint8)
    assert images.numel() > 2**31 + SIDE * SIDE // 16
    last = torch.arange(PATCH * PATCH, dtype=torch.int32).remainder(251).to(torch.uint8) + 1
    images[-1, -PATCH:, -PATCH:, 0] = last.view(PATCH, PATCH)
    return images, last.float() / 255


@pytest.mark.slow
def test_cpp_reads_the_last_patch(images):
    require("cpp")
    images, last = images
    patches = (SIDE // PATCH) ** 2
    ids = torch.tensor([[0], [patches // 2], [patches - 1]])
    gathered = patch_gather(images, ids, PATCH, MEAN, STD, torch.float32)
    assert torch.equal(gathered[2, 0], last) and not gathered[:2].any()
    pred = torch.zeros(1, PATCH * PATCH)
    rows = torch.tensor([IMAGES * patches - 1])
    loss = patch_loss(pred, images, rows, PATCH, MEAN, STD, norm_pix=False, loss="l1")
    torch.testing.assert_close(loss, last.mean())


# op -> indices of the arguments with one entry per image.
PER_IMAGE = {op: cases.PER_IMAGE for op, cases in CASES.items() if hasattr(cases, "PER_IMAGE")}
# op -> index of the gradient of a mean over images, which has to grow with their number to give each the same share.
OF_A_MEAN = {"composite_residual_backward": 0}


def first_case(cases: dict):
    """Returns the first case that treats each image on its own."""
    return next(case for case in cases.values() if getattr(case, "average", 1) == 1)


def check_last_image(op: str, case, device: str, batch: int | None = None) -> None:
    """Repeats an image to more than 2^31 elements and compares the last result with the first.

    Args:
        op: name of the op.
        case: shapes of one image.
        device: device of the tensors.
        batch: number of repetitions; None = just above 2^31 elements. For a mean over images, pass a power of two, so
            that the division is exact.
    """
    cases = CASES[op]
    launch = importlib.import_module(f"fastmim_kernels.{op}.cuda").launch
    dtype = DTYPES[cases.BENCH_DTYPES[-1]]
    args = list(cases.inputs(case, dtype))
    if op == "low_pass":
        args[1] = None  # rows: all
    one = [arg[:1].contiguous() if i in PER_IMAGE[op] else arg for i, arg in enumerate(args)]

    def repeated(i: int, arg, batch: int):
        if i in PER_IMAGE[op]:
            return arg.to(device).repeat(batch, *[1] * (arg.ndim - 1))
        if not isinstance(arg, torch.Tensor):
            return arg
        return arg.to(device) * (batch if i == OF_A_MEAN.get(op) else 1)

    def run(batch: int) -> list[torch.Tensor]:
        inputs = [repeated(i, arg, batch) for i, arg in enumerate(one)]
        returned = launch(*inputs)
        return [*inputs, *(returned if isinstance(returned, tuple) else (returned,))]

    first = [t.cpu() if isinstance(t, torch.Tensor) else None for t in run(1)]
    most = max(t.numel() for i, t in enumerate(first) if t is not None and (i >= len(one) or i in PER_IMAGE[op]))
    if batch is None:
        batch = 1 << (2**31 // most).bit_length() if op in OF_A_MEAN else 2**31 // most + 1
    compared = 0
    for ours, expected in zip(run(batch), first, strict=True):
        if expected is not None and ours.numel() == batch * expected.numel():
            assert torch.equal(ours.flatten()[-expected.numel() :].cpu(), expected.flatten())
            compared = max(compared, ours.numel())
    assert compared == batch * most


@pytest.mark.triton
@pytest.mark.costly("interpreter", "the last image of each op; patch_scatter's are of real size")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there the large tensors are real")
@pytest.mark.parametrize("op", [op for op in PER_IMAGE if op != "low_pass"])  # slow in the interpreter
def test_the_check_of_large_tensors(op):
    case = first_case(CASES[op].CASES)
    check_last_image(op, case, "cpu", batch=4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of some 80 GiB")
@pytest.mark.parametrize("op", PER_IMAGE)
def test_triton_writes_the_last_image(op):
    case = first_case(CASES[op].BENCH)
    check_last_image(op, case, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of some 20 GiB")
def test_triton_scales_the_last_value():
    from fastmim_kernels.scale_gradient.cuda import launch

    x = torch.ones(2**31 + 5, dtype=torch.bfloat16, device="cuda")
    launch(x, torch.tensor(2.0, device="cuda"))
    assert x[0] == x[2**31 - 1] == x[-1] == 2


def loss_of_the_last_patch(images: torch.Tensor, device: str) -> torch.Tensor:
    """Returns the loss of a prediction of zeros for the last patch, by the kernel of patch_loss."""
    from fastmim_kernels.patch_loss.cuda import launch

    rows = torch.tensor([len(images) * (images.shape[1] // PATCH) * (images.shape[2] // PATCH) - 1])
    tensors = (torch.zeros(1, PATCH * PATCH), images, rows, PATCH, MEAN, STD)
    on_device = (x.to(device) if isinstance(x, torch.Tensor) else x for x in tensors)
    return launch(*on_device, False, ELEMENT_LOSSES.index("l1"), 1.0, 1.0, False, None)[0].cpu().squeeze()


@pytest.mark.triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="there the large tensors are real")
def test_the_check_of_the_last_patch():
    images = torch.zeros(2, 2 * PATCH, 3 * PATCH, 1, dtype=torch.uint8)
    images[-1, -PATCH:, -PATCH:] = 51
    torch.testing.assert_close(loss_of_the_last_patch(images, "cpu"), torch.tensor(0.2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of some 20 GiB")
def test_triton_reads_the_last_patch(images):
    images, last = images
    torch.testing.assert_close(loss_of_the_last_patch(images, "cuda"), last.mean())
