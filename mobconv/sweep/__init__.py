"""A sweep: every cell of a recipe, built, measured and recorded, so that the next run builds only what has changed.

| file           | what it does                                                     |
|----------------|------------------------------------------------------------------|
| job.py         | a recipe with its checkpoint's options; progress                 |
| context.py     | the lazily loaded inputs of cells, shared between processes      |
| cells.py       | a cell, built, measured and recorded                             |
| parts.py       | the parts of a sweep that can be done apart                      |
| workers.py     | this process, processes beside it, or a Dask cluster             |
| source_hash.py | hashes of source code                                            |
| keys.py        | one hash over everything that a cell is made of                  |
| store.py       | records on disk                                                  |
| run.py         | the sweep                                                        |
"""

from mobconv.sweep.job import Job, Watcher
from mobconv.sweep.run import Sweep

__all__ = ["Job", "Sweep", "Watcher"]
