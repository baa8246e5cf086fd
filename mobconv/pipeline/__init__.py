"""The one path of a cell: build (quantize, encode) and measure (open, feed, run, score, time).

| file          | what it does                                                                     |
|---------------|----------------------------------------------------------------------------------|
| context.py    | checkpoint, data, program, templates of cells, each loaded when first needed     |
| templates.py  | one float conversion for each format and precision of compute                    |
| quantized.py  | a scheme applied to a whole network                                              |
| reference.py  | the program with dequantized weights, in PyTorch                                 |
| build.py      | a cell becomes a file, and its measurement a row                                 |
| artifact.py   | a file of any tool, opened                                                       |
| measure.py    | run on data, scored, timed                                                       |
| export.py, evaluation.py, inspection.py  | functions of the Python API and the command line      |
"""
