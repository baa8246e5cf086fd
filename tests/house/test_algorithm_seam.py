"""An algorithm is added by one new file and one line."""

ALGORITHM = '''
"""Coarse: scales of minmax, a tenth wider."""

from mobconv.quantize import symmetric


def fit(weights, mode, bits, fp16):
    """Codes and scales of symmetric weights."""
    from mobconv.quantize.scales import round_to

    if bits == 1:
        return symmetric.encode_signs(weights, fp16)
    return symmetric.encode(weights, round_to(symmetric.span(weights, bits, fp16) * 1.1, fp16), bits)
'''


def test_an_algorithm_is_one_file_and_one_line(copy):
    copy.add("quantize/algorithms/coarse.py", ALGORITHM)
    line = '    "coarse": Algorithm(f"{_HERE}.coarse", Needs.WEIGHTS, (Mode.SYMMETRIC,), "wider than minmax"),'
    copy.register("schemes/algorithms.py", "ALGORITHMS = {", line)
    assert copy.touched() == (["quantize/algorithms/coarse.py"], ["schemes/algorithms.py: 1"])
    assert "coarse" in copy.run("schema", "recipe")
    copy.export("net.safetensors", "--to", "onnx", "--scheme", "w8-symmetric-coarse")
    schemes = "schemes: [w8-symmetric-coarse, w8-symmetric]"
    rows = copy.sweep(f"checkpoint: net.safetensors\nbackends: onnx\n{schemes}")
    assert [row["algorithm"] for row in rows] == ["coarse", "mse"] and {row["status"] for row in rows} == {"ok"}
    assert rows[0]["sha256"] != rows[1]["sha256"]
    assert "met" in copy.check("max_conversion_loss: 0")
