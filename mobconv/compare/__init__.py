"""Where the loss of a file comes from: step by step, layer by layer, and from which mistake in preprocessing.

| file              | what it does                                                                       |
|-------------------|------------------------------------------------------------------------------------|
| comparison.py     | `compare`: all of the below, as one result                                          |
| waterfall.py      | five runs from the float baseline to the file as it is                              |
| layer_errors.py   | each layer, and the operations between layers, fed what the program computes there  |
| alignment.py      | a file aligned with its checkpoint; everything above works on it                    |
| program_view.py   | the traced program: values of any node                                              |
| weight_match.py   | which operation of the file has which weight of the checkpoint                      |
| tensor_match.py   | which tensor of the file corresponds to which node of the program                   |
| paired_layers.py  | inputs, outputs and weights of the layers in the file                               |
| folded_factors.py | factors of preprocessing that a converter multiplied into weights                   |
| cut.py            | where the file is cut, in front of its first layers                                 |
| diagnosis.py      | what is wrong with the file's input                                                 |
| probe.py          | which mistake in preprocessing explains the file's outputs                          |
| mistakes.py       | the mistakes that are tried                                                         |
| corrected_call.py | the code or command that does it right                                              |
"""
