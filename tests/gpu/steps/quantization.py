"""e. NF4 by bitsandbytes on the device against ours; 8-bit and paged optimizers; the dtype that 4-bit layers compute in."""

import traceback

from steps.report import Report, device


def run(report: Report, dry: bool) -> None:
    """Each part by itself: one that fails is written down, the others go on."""
    failed = []
    for part in (equality, optimizers, compute):
        try:
            report.put(**{part.__name__: part(dry)})
        except Exception:
            failed.append(part.__name__)
            report.put(**{part.__name__: {"failed": traceback.format_exc()[-2000:]}})
    if failed:
        raise RuntimeError(f"failed: {', '.join(failed)}")


def equality(dry: bool) -> dict:
    """Our NF4 of random weights beside bitsandbytes': codes, scales and what comes back, plain and doubly quantized.

    A kernel may multiply by the reciprocal of the scale where we divide. So a code may differ, but only where the
    weight lies within float32's rounding of the middle between two levels.
    """
    import torch
    from bitsandbytes import functional

    from lab_utils import quant

    weight = torch.randn(256 if dry else 4096, 1024, generator=torch.Generator().manual_seed(0))
    ours = quant.quantize_nf4(weight)
    packed, state = functional.quantize_nf4(weight.to(device()))
    theirs = functional.dequantize_nf4(packed, state).cpu()
    again = functional.dequantize_nf4(
        *functional.quantize_nf4(weight.to(device()), compress_statistics=True)
    ).cpu()
    count = weight.numel()
    differs = quant.unpack(packed.cpu().flatten(), count) != quant.unpack(ours.codes.flatten(), count)
    levels = quant.nf4_levels()
    scaled = (weight.view(-1, quant.BLOCK_SIZE) / ours.absmax.view(-1, 1)).flatten()[differs]
    middles = (levels[:-1] + levels[1:]) / 2
    distance = (scaled[:, None] - middles).abs().amin(1)
    gap = (theirs - quant.dequantize_nf4(ours)).abs().flatten()
    found = {
        "weights": count,
        "codes_differing": int(differs.sum()),
        "differing_farthest_from_a_middle": distance.max().item() if len(distance) else 0.0,
        "scales_equal": torch.equal(state.absmax.cpu().flatten(), ours.absmax.flatten()),
        "largest_gap_where_codes_agree": gap[~differs].max().item(),
        "relative_error": quant.relative_error(weight, theirs),
        "double_relative_error": quant.relative_error(weight, again),
    }
    ties = found["differing_farthest_from_a_middle"] < 1e-6 and found["codes_differing"] < 1e-5 * count
    if not ties or not found["scales_equal"] or found["largest_gap_where_codes_agree"] > 1e-6:
        raise AssertionError(f"NF4 on {device()} differs from ours: {found}")
    return found


def optimizers(dry: bool) -> dict:
    """A few steps of each optimizer on one layer: does the loss fall, and what does the state take."""
    import bitsandbytes
    import torch

    names = ["AdamW8bit", "PagedAdamW8bit", "PagedAdamW32bit"]
    found = {}
    for name in ["AdamW", *names]:
        torch.manual_seed(0)
        kind = torch.optim.AdamW if name == "AdamW" else getattr(bitsandbytes.optim, name)
        layer = torch.nn.Linear(512, 512).to(device())
        optimizer = kind(layer.parameters(), lr=1e-2)
        inputs, target = (torch.randn(64, 512, device=device()) for _ in range(2))
        losses = []
        for _ in range(3 if dry else 20):
            loss = torch.nn.functional.mse_loss(layer(inputs), target)
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        held = sum(v.nbytes for v in optimizer.state[layer.weight].values() if torch.is_tensor(v))
        found[name] = {
            "loss_first": losses[0],
            "loss_last": losses[-1],
            "state_bytes": held / layer.weight.numel(),
        }
        if not losses[-1] < losses[0]:
            raise AssertionError(f"{name} doesn't lower the loss: {losses}")
    return found


def compute(dry: bool) -> dict:
    """What goes into and comes out of a 4-bit layer that computes in each dtype."""
    import torch
    from bitsandbytes import functional
    from bitsandbytes.nn import Linear4bit

    found = {}
    for name in ("float32", "float16", "bfloat16"):
        layer = Linear4bit(256, 256, bias=False, compute_dtype=getattr(torch, name), quant_type="nf4").to(
            device()
        )
        inputs = torch.randn(8, 256, device=device())
        out = layer(inputs)
        plain = functional.dequantize_nf4(layer.weight.data, layer.weight.quant_state).float()
        gap = (
            out.float() - torch.nn.functional.linear(inputs, plain.reshape(256, 256))
        ).norm() / out.float().norm()
        found[name] = {
            "weight": str(layer.weight.dtype),
            "output": str(out.dtype),
            "relative_gap": gap.item(),
        }
    return found
