"""The course's rewards for `swift rlhf --rlhf_type grpo`, given to it as `--external_plugins <this file>`.

ms-swift runs this file once, in the training process. Afterwards `--reward_funcs` takes the names of
the functions of `lab_utils.rewards`: ms-swift makes one object per name and calls it with the
completions (strings) and the data set's columns. The classes bear the functions' names, since
ms-swift logs a reward as `rewards/<class name>/mean`.

Rows must be written with `messages`: in a row of `query` and `answer` ms-swift takes the column `answer`
for the response, and no reward sees it.
"""

from swift.rewards import ORM, orms

from lab_utils.rewards import ARITHMETIC, VERSE


def reward_class(function) -> type[ORM]:
    """An ORM class that gives what `function` gives, and has its name."""

    def call(self, completions, **columns) -> list[float]:
        return function(completions, **columns)

    return type(function.__name__, (ORM,), {"__call__": call, "__doc__": function.__doc__})


for function in (*ARITHMETIC, *VERSE):
    orms[function.__name__] = reward_class(function)
