"""TensorFlow's checkpoint files, read without TensorFlow.

`open_checkpoint` takes any of a checkpoint's files, its prefix or its folder; `locate` only says which files belong together.
"""

from bnexport.checkpoint.files import impostor
from bnexport.checkpoint.paths import Location, graphs_beside, is_checkpoint, locate
from bnexport.checkpoint.reader import Checkpoint, open_checkpoint
from bnexport.checkpoint.tensors import Stored, TensorInfo

__all__ = ["Checkpoint", "Location", "Stored", "TensorInfo", "graphs_beside", "impostor", "is_checkpoint", "locate", "open_checkpoint"]
