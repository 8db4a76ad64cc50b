"""What a reader can move in a lab: explorers with sliders, and a page to chat on.

    explorer    a control, a reading, an explorer: what all of these are made of
    parameters  where a dense decoder keeps its parameters
    ranks       a matrix and its best approximation of rank k
    four_bits   weights against the levels of NF4 and of int4
    memory      the memory calculator: GPU memory of training and inference
    chat        the chat page
    front_end   where a widget can be shown

An explorer is the last expression of a cell. Where widgets are shown (JupyterLab, Notebook, VS Code) it
is sliders, a picture and a table; everywhere else (GitHub, nbconvert, a notebook run by a program,
plain Python, no ipywidgets) it is the table of its present setting, and `set(...)` changes the setting.
The arithmetic is that of `params`, `lowrank`, `quant` and `vram`; here it is only shown.
"""

from lab_utils.widgets.chat import ChatPage, chat_page
from lab_utils.widgets.explorer import Control, Explorer, Reading
from lab_utils.widgets.four_bits import nf4_explorer
from lab_utils.widgets.memory import memory_calculator
from lab_utils.widgets.parameters import parameter_explorer
from lab_utils.widgets.ranks import rank_explorer

__all__ = [
    "ChatPage",
    "Control",
    "Explorer",
    "Reading",
    "chat_page",
    "memory_calculator",
    "nf4_explorer",
    "parameter_explorer",
    "rank_explorer",
]
