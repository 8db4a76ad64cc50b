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
    """Our NF4 of random weights beside bitsandbytes': codes, scales and what comes back, plain and doubly quantized."""
    import torch
    from bitsandbytes import functional

    from lab_utils import quant

    weight = torch.randn(256 if dry else 4096, 1024, generator=torch.Generator().manual_seed(0))
    ours = quant.quantize_nf4(weight)
    codes, state = functional.quantize_nf4(weight.to(device()))
    theirs = functional.dequantize_nf4(codes, state).cpu()
    again = functional.dequantize_nf4(
        *functional.quantize_nf4(weight.to(device()), compress_statistics=True)
    ).cpu()
    found = {
        "weights": weight.numel(),
        "codes_differing": int((codes.cpu().flatten() != ours.codes.flatten()).sum()),
        "scales_equal": torch.equal(state.absmax.cpu().flatten(), ours.absmax.flatten()),
        "restored_largest_gap": (theirs - quant.dequantize_nf4(ours)).abs().max().item(),
        "double_relative_error": quant.relative_error(weight, again),
        "relative_error": quant.relative_error(weight, theirs),
    }
    if found["codes_differing"] or not found["scales_equal"]:
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
    from bitsandbytes.nn import Linear4bit

    found = {}
    for name in ("float32", "float16", "bfloat16"):
        layer = Linear4bit(256, 256, bias=False, compute_dtype=getattr(torch, name), quant_type="nf4").to(
            device()
        )
        exact = torch.nn.functional.linear
        inputs = torch.randn(8, 256, device=device())
        out = layer(inputs)
        from bitsandbytes import functional

        plain = functional.dequantize_nf4(layer.weight.data, layer.weight.quant_state).float()
        gap = (out.float() - exact(inputs, plain.reshape(256, 256))).norm() / out.float().norm()
        found[name] = {
            "weight": str(layer.weight.dtype),
            "output": str(out.dtype),
            "relative_gap": gap.item(),
        }
    return found
