"""How good is a model, and is it the same one? Scores with their uncertainty, exams, losses, comparisons of two models.

`intervals`   rates with bootstrap intervals, differences item by item
`verse_exam`  one exam for every policy that writes verse: questions, answers, marks
`loss`        held-out loss and perplexity per token
`candidate`   one shape for whatever answers a prompt: a folder, an adapter, a server, a GGUF file
`parity`      the parity gate between two candidates
`drift`       how far two models lie apart over every token of the same answers
"""

__all__ = ["candidate", "drift", "intervals", "loss", "parity", "verse_exam"]
