"""The local functions (ONNX ``FunctionProto``, domain `mobconv`) that decode packed weights.

They consist of standard ops of opset 18, so any runtime reads them. ONNX Runtime inlines and folds them when a
session is created (optimization level BASIC and up), so that the graph that runs is the float one. A file has one
function for each form and width that it uses.

How a weight is stored: its node has the parameter's name, the attribute `d` is the weight's shape, C its number of
channels (1 per tensor); scales and tables are fp16, or fp32 where fp16 cannot represent them:

| node                       | scale or table              | codes in the stream   | weight                |
|----------------------------|-----------------------------|-----------------------|-----------------------|
| Linear<n>(stream, scale)   | (1, .., C, .., 1) or (1,)   | C zero points, codes  | scale * (code - zero) |
| Symmetric<n>(stream, scale)| (1, .., C, .., 1) or (1,)   | codes                 | scale * (code - 2^(n-1)) |
| Table<n>(stream, table)    | (entries,)                  | codes                 | table[code]           |
| Tables<n>(stream, table)   | (1, .., C, .., 1, entries)  | codes                 | table[channel, code]  |

`Linear16_<n>`, `Symmetric16_<n>` and `Tables16_<n>` (granularity oc16) are the same with a scale, zero point or
table for each 16 channels, G = ceil(C / 16) of them in place of C.

`stream` is a uint8 vector, a little-endian bit stream of n-bit codes in C order, padded with zero bits to a
multiple of the fewest bytes that contain a whole number of codes (n bytes where n is odd):

    n = 3     |   byte 0      |   byte 1      |   byte 2      |
    bit       |0 1 2 3 4 5 6 7|0 1 2 3 4 5 6 7|0 1 2 3 4 5 6 7|
    code      |  0  |  1  |  2  |  3  |  4  |  5  |  6  |  7  |

At n = 1 `Symmetric` is scale * (2 code - 1). A table has the entries that the tensor uses, at most 2^n.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mobconv.quantize.packing import pack

DOMAIN = "mobconv"
OPSET = 18


def stream(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes of any shape -> the byte vector that the functions read."""
    packed = pack(codes, bits)
    unit = bits // math.gcd(bits, 8)  # the fewest bytes that contain whole codes
    return np.pad(packed, (0, -len(packed) % unit))


def function(form: str, bits: int) -> str:
    """The text for onnx.parser of a form (`Linear`, `Symmetric`, `Table`, `Tables`; `...16_` for oc16) at a width."""
    name = f"{form}{bits}"
    grouped = form.endswith("16_")
    form = form.removesuffix("16_")
    parameter = "t" if form.startswith("Table") else "s"
    lines = [
        "o = Constant <value_ints: ints = [0]> ()",
        "h = Constant <value_ints: ints = @d> ()",
        "k = ReduceProd <keepdims: int = 1> (h)",
        *_unpacked(bits),
        *(_in_groups(form) if grouped else _FORMS[form]),
    ]
    if form == "Symmetric" and bits == 1:
        lines[-1:] = ["n = Add (g, g)", lines[-1].replace("(g,", "(n,")]  # code - 1/2, twice
    if form == "Tables" and bits == 1 and not grouped:
        lines[-len(_FORMS[form]) :] = _TWO_COLUMNS
    lines = [line.replace("MIDDLE", "0.5" if bits == 1 else f"{2 ** (bits - 1)}.0") for line in lines]
    body = "\n".join(f"  {line}" for line in lines)
    return f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n{name} <d> (p, {parameter}) => (w)\n{{\n{body}\n}}'


def _unpacked(bits: int) -> list[str]:
    """Lines that turn the byte vector `p` into `c`: a vector of codes as float32, the last ones padding."""
    if bits == 8:
        return ["c = Cast <to: int = 1> (p)"]
    if 8 % bits == 0:
        lanes = ",".join(str(lane) for lane in range(0, 8, bits))
        return [
            "i = Constant <value_ints: ints = [-1,1]> ()",
            "r = Reshape (p, i)",
            f"l = Constant <value = uint8[{8 // bits}] {{{lanes}}}> ()",
            'a = BitShift <direction: string = "RIGHT"> (r, l)',
            f"y = Constant <value = uint8 {{{2**bits - 1}}}> ()",
            "b = BitwiseAnd (a, y)",
            "m = Constant <value_ints: ints = [-1]> ()",
            "e = Reshape (b, m)",
            "c = Cast <to: int = 1> (e)",
        ]
    # One row for each bit of the stream; n of them, weighted by powers of two, give a code: exact in fp32.
    powers = ",".join(f"{2**bit}.0" for bit in range(bits))
    return [
        "i = Constant <value_ints: ints = [-1,1]> ()",
        "r = Reshape (p, i)",
        "l = Constant <value = uint8[8] {0,1,2,3,4,5,6,7}> ()",
        'a = BitShift <direction: string = "RIGHT"> (r, l)',
        "y = Constant <value = uint8 {1}> ()",
        "b = BitwiseAnd (a, y)",
        f"j = Constant <value_ints: ints = [-1,{bits}]> ()",
        "e = Reshape (b, j)",
        "u = Cast <to: int = 1> (e)",
        f"v = Constant <value = float[{bits}] {{{powers}}}> ()",
        "c = MatMul (u, v)",
    ]


# From `c` to the weight `w`. h: the shape; k: its product, (1,); o: [0]. Differences are taken
# in fp32: whole numbers up to 255 are exact there, and uint8 Sub has no kernel up to ONNX Runtime 1.20.
_FORMS = {
    "Linear": [
        "a1 = Shape (s)",
        "g = ReduceProd <keepdims: int = 1> (a1)",  # not Size: ONNX Runtime does not fold it
        "z1 = Slice (c, o, g)",
        "z = Reshape (z1, a1)",
        "end = Add (g, k)",
        "q1 = Slice (c, g, end)",
        "q = Reshape (q1, h)",
        "q2 = Sub (q, z)",
        "s1 = Cast <to: int = 1> (s)",
        "w = Mul (q2, s1)",
    ],
    "Symmetric": [
        "f = Slice (c, o, k)",
        "q = Reshape (f, h)",
        "z = Constant <value = float {MIDDLE}> ()",
        "g = Sub (q, z)",
        "x = Cast <to: int = 1> (s)",
        "w = Mul (g, x)",
    ],
    "Table": [
        "q1 = Slice (c, o, k)",
        "q2 = Reshape (q1, h)",
        "q = Cast <to: int = 6> (q2)",
        "t1 = Cast <to: int = 1> (t)",
        "w = Gather <axis: int = 0> (t1, q)",
    ],
    # one row of table per channel: code + channel * entries is the index into all of them
    "Tables": [
        "q1 = Slice (c, o, k)",
        "q2 = Reshape (q1, h)",
        "q = Cast <to: int = 7> (q2)",
        "sh = Shape <end: int = -1> (t)",
        "g = ReduceProd <keepdims: int = 0> (sh)",
        "n = Shape <start: int = -1> (t)",
        "nn = ReduceProd <keepdims: int = 0> (n)",
        "zz = Constant <value_int: int = 0> ()",
        "one = Constant <value_int: int = 1> ()",
        "ch = Range (zz, g, one)",
        "ch1 = Mul (ch, nn)",
        "ch2 = Reshape (ch1, sh)",
        "ix = Add (q, ch2)",
        "t1 = Cast <to: int = 1> (t)",
        "flat = Constant <value_ints: ints = [-1]> ()",
        "t2 = Reshape (t1, flat)",
        "w = Gather <axis: int = 0> (t2, ix)",
    ],
}

_GROUP = 16  # channels


def _in_groups(form: str) -> list[str]:
    """The lines of a form, with each group's scale, zero point or table index repeated for its channels."""
    lines = list(_FORMS[form])
    given = "t" if form == "Tables" else "s"
    head = [
        f"va = Shape{' <end: int = -1>' if form == 'Tables' else ''} ({given})",
        "vb = Constant <value_ints: ints = [1]> ()",
        "vd = Greater (va, vb)",
        "vv = Where (vd, h, vb)",  # 1, except on the channels' axis of a parameter with more than one group
        "vc = ReduceProd <keepdims: int = 1> (vv)",
        "x1 = Constant <value_ints: ints = [-1,1]> ()",
        f"x2 = Constant <value_ints: ints = [1,{_GROUP}]> ()",
        "x3 = Constant <value_ints: ints = [-1]> ()",
    ]

    def repeated(source: str, result: str) -> list[str]:
        return [
            f"{result}x1 = Reshape ({source}, x1)",
            f"{result}x2 = Expand ({result}x1, x2)",
            f"{result}x3 = Reshape ({result}x2, x3)",
            f"{result}x4 = Slice ({result}x3, o, vc)",
            f"{result} = Reshape ({result}x4, vv)",
        ]

    # form -> (value that is per group, value that reads it): it then reads the same per channel
    changed = {"Linear": [("z", "q2"), ("s1", "w")], "Symmetric": [("x", "w")], "Tables": [("ch2", "ix")]}
    for value, user in changed[form]:
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{user} ="))
        lines[at] = lines[at].replace(f" {value})", f" {value}c)")
        lines[at:at] = repeated(value, f"{value}c")
    return head + lines


# `Tables` at 1 bit: the first or the last column. Half as long as the general lines, in files of whose size the
# function is 1 %.
_TWO_COLUMNS = [
    "q1 = Slice (c, o, k)",
    "q2 = Reshape (q1, h)",
    "q = Cast <to: int = 9> (q2)",
    "t1 = Cast <to: int = 1> (t)",
    "first = Constant <value_int: int = 0> ()",
    "last = Constant <value_int: int = -1> ()",
    "t2 = Gather <axis: int = -1> (t1, first)",
    "t3 = Gather <axis: int = -1> (t1, last)",
    "w = Where (q, t3, t2)",
]
