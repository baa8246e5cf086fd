"""Where a file's loss comes from: step by step (`waterfall`), and layer by layer (`layers`).

| file         | what it does                                                            |
|--------------|-------------------------------------------------------------------------|
| subject.py   | checkpoint and file side by side: what corresponds to what               |
| waterfall.py | five runs from the float baseline to the file as it is                   |
| layers.py    | each layer and each stretch between layers, fed what the reference has   |
"""

from mobconv.compare.layers import Injected, Injections, layers
from mobconv.compare.subject import Layer, Subject, prepare
from mobconv.compare.waterfall import Step, Waterfall, refed, waterfall

__all__ = ["Injected", "Injections", "Layer", "Step", "Subject", "Waterfall", "layers", "prepare", "refed", "waterfall"]
