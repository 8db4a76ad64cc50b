"""What autograd keeps of a model's forward pass, module by module."""

import torch


def saved_tensors(model: torch.nn.Module, input_ids: torch.Tensor) -> dict[str, int]:
    """Module -> bytes that autograd keeps for it after a forward pass with a loss, weights not counted.

    input_ids: (batch, seq) int64. A tensor that several operations keep counts once, for the module that
    kept it first; the loss is the model's own: "", or "base_model" with peft around it.
    """
    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    found, alive, inside = {}, [], [""]

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found.setdefault(storage.data_ptr(), (inside[-1], storage.nbytes()))
            alive.append(tensor)
        return tensor

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: inside.append(name)))
        hooks.append(module.register_forward_hook(lambda *_: inside.pop() and None))
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(input_ids=input_ids, labels=input_ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    sizes = {}
    for name, size in found.values():
        sizes[name] = sizes.get(name, 0) + size
    return sizes
