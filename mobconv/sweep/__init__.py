"""Cells -> artifacts -> rows: one conversion a backend, one quantization a scheme, every file read back.

| file        | what it does                                                                  |
|-------------|-------------------------------------------------------------------------------|
| job.py      | what is asked for, and who is told of progress                                |
| weights.py  | a scheme applied to a whole network                                           |
| bench.py    | where a cell is made and measured                                             |
| tasks.py    | the parts of a sweep that can be done apart                                   |
| workers.py  | who does them: this process, processes beside it, a Dask cluster              |
| sources.py  | hashes over the code that is behind a cell                                    |
| keys.py     | what made a cell, as one hash                                                 |
| store.py    | the records that the next sweep goes on from                                  |
| run.py      | the sweep                                                                     |
"""

from mobconv.pipeline.network import describe, quantize_all, record
from mobconv.sweep.job import Job, Watcher
from mobconv.sweep.run import Sweep

__all__ = ["Job", "Sweep", "Watcher", "describe", "quantize_all", "record"]
