"""Training data: how it is read and written, what is wrong with it, what of it a model learns, and where it came from.

`jsonl`       read and write JSON Lines; `DataError` and its `DataProblem`s
`formats`     what a row of each format looks like
`validate`    check a file of conversations, by line and field
`preference`  preference pairs: read, check, convert, order in batches
`loss_mask`   token ids and labels of a conversation: what is learned
`batches`     rows as the tensors that a model is trained and measured on
`card`        a data set's README with its figures; `schema`: what its rows must hold
`builders`    the recipes that re-make `datasets/`
"""

__all__ = ["batches", "builders", "card", "formats", "jsonl", "loss_mask", "preference", "schema", "validate"]
