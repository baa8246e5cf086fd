"""Run ONNX and TFLite files in the stock runtimes, in a process that cannot import mobconv.

    python run_stock.py images.npy logits.npz FILE...

images: (N, 3, H, W) float32, run one by one. The npz has the outputs of each file under its position.
"""

import sys
from pathlib import Path


class Refuse:
    """An import hook: mobconv is not there."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Raise for mobconv and all below it; leave other names to those who come after."""
        if name.partition(".")[0] == "mobconv":
            raise ModuleNotFoundError("mobconv shall not be imported here")


def onnx_session(path):
    """A function from one image to its logits."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image})[0]


def tflite_interpreter(path):
    """A function from one image to its logits."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(image):
        interpreter.set_tensor(source, image)
        interpreter.invoke()
        return interpreter.get_tensor(target).copy()

    return run


def main(images, logits, *files):
    """Run every file on every image and save what comes out."""
    import numpy as np

    pixels, found = np.load(images), {}
    for position, file in enumerate(files):
        run = onnx_session(file) if Path(file).suffix == ".onnx" else tflite_interpreter(file)
        found[str(position)] = np.concatenate([run(pixels[i : i + 1]) for i in range(len(pixels))])
    np.savez(logits, **found)


if __name__ == "__main__":
    sys.meta_path.insert(0, Refuse)
    try:
        import mobconv
    except ModuleNotFoundError:
        main(*sys.argv[1:])
    else:
        sys.exit(f"{mobconv.__file__} was imported, so this run proves nothing")
