"""What the two formats of Core ML share: running a network on any machine, cutting it, and describing its images.

| file           | what it does                                                                   |
|----------------|--------------------------------------------------------------------------------|
| vendor.py      | imports coremltools late, and quietly                                          |
| description.py | image inputs, labels and the mobconv record in a model's description           |
| graph.py       | a network as operations with decoded constants, whichever format it comes from |
| call.py        | what the function of an operation sees of its call                             |
| ops*.py        | the operations of MIL, in torch                                                |
| executor.py    | runs a graph, several samples at a time where that changes nothing             |
| runner.py      | an opened file, run by the executor or by Core ML on a Mac                     |
| graph_view.py  | a graph cut at given tensors, for `mobconv compare`                            |
"""
