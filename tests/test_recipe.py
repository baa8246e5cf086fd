"""A recipe that is wrong is exit code 2 and says which line to change."""

import pytest
from support import CHECKPOINT, DATA

from mobconv import backends, recipe
from mobconv.data.preprocessing import raw
from mobconv.errors import UsageError
from mobconv.recipe import Format
from mobconv.schemes import Compute, Scheme

GOOD = f"checkpoint: {CHECKPOINT}\ndata: {DATA}\nimages: 64\nbackends: onnx\nschemes: w4-kmeans\n"


def sweep(cli, text, *more):
    (cli.folder / "job.yaml").write_text(text)
    return ["sweep", "job.yaml", "-o", "out", *more]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "margn: 3\n", ["margn: no such key", "did you mean 'margin'?"]),
        (GOOD + "colour: red\n", ["colour: no such key", "checkpoint, model"]),
        (GOOD.replace("w4-kmeans", "w9-linear"), ["w9-linear", "1 to 8 bits"]),
        (GOOD.replace("w4-kmeans", "w0-linear"), ["w0-linear", "1 to 8 bits"]),
        (GOOD.replace("w4-kmeans", "w4-kmean"), ["unknown mode 'kmean'", "did you mean 'kmeans'?"]),
        (GOOD.replace("w4-kmeans", "int8"), ["Unknown scheme 'int8'"]),
        (
            GOOD.replace("w4-kmeans", "w4-linear-row"),
            ["part 'row'", "granularity (tensor,", "algorithm (mse,"],
        ),
        (
            GOOD.replace("w4-kmeans", "w4-kmeans-minmax"),
            ["supports linear and symmetric; for kmeans choose mse"],
        ),
        (GOOD.replace("w4-kmeans", "w4-kmeans@fast"), ["@native, @fp32, @fp16"]),
        (GOOD.replace("onnx", "onxx"), ["Unknown backend 'onxx'", "did you mean 'onnx'?"]),
        (GOOD.replace("onnx", "[]"), ["backends: "]),
        (GOOD.replace(f"checkpoint: {CHECKPOINT}\n", ""), ["checkpoint: missing", "trained weights"]),
        (GOOD.replace("64", "0"), ["images: ", "greater than or equal to 1"]),
        (GOOD + "margin: -1\n", ["margin: "]),
        (GOOD + "input_shape: [1, 3, 0, 32]\n", ["input_shape.2: "]),
        (GOOD + "preprocessing: {mean: [0.5, 0.5, 0.5]}\n", ["preprocessing.std: missing"]),
        (GOOD + "preprocessing: {mean: [0.5], sdt: [0.5]}\n", ["preprocessing.sdt: no such key", "'std'"]),
        (GOOD + "preprocessing: {mean: [0.5], std: [0.0]}\n", ["std above 0"]),
        (GOOD + "preprocessing: rwa\n", ["preprocessing: 'rwa': keys mean and std, or `raw`"]),
        (GOOD + "layers: [{match: '*', bits: 9}]\n", ["layers.0: bits 9: widths are 1 to 8"]),
        (GOOD + "layers: [{match: '*', bits: 4, keep: fp32}]\n", ["layers.0: a rule has either `bits` or `keep`"]),
        (GOOD + "layers: [{match: '*'}]\n", ["a rule has either `bits` or `keep`"]),
        (GOOD + "layers: [{match: '*', keep: fp8}]\n", ["keep 'fp8'", "fp32 or fp16"]),
        (GOOD + "layers: [{bits: 4}]\n", ["layers.0.match: missing", "glob over parameter names"]),
        (GOOD + "layers: [{match: '*', bit: 4}]\n", ["layers.0.bit: no such key", "did you mean 'bits'?"]),
        ("", ["a recipe is a list of `key: value` lines"]),
        ("- onnx\n- tflite\n", ["a recipe is a list of `key: value` lines"]),
        ("1: 2\n", ["a recipe is a list of `key: value` lines"]),
        ("backends: [onnx\n", ["is not YAML", "line 2"]),
        (GOOD.replace("w4-kmeans", "[fp32, w{8,4}-linear]"), ["is not YAML", 'are quoted: "w{8,4}-linear"']),
        (GOOD.replace("w4-kmeans", "[w{8..1}-{linear,kmeans}]"), ['are quoted: "w{8..1}-{linear,kmeans}"']),
        (GOOD.replace("w4-kmeans", "[{fp32,fp16}]"), ["schemes.0: ", 'are quoted: "{fp32,fp16}"']),
        ("a: !!python/object/apply:os.system ['touch ran']\n", ["is not YAML"]),
    ],
)
def test_wrong_recipe(cli, text, words):
    cli.refuses(2, "job.yaml", *words, arguments=sweep(cli, text))
    assert not (cli.folder / "ran").exists()


def test_missing_recipe(cli):
    cli.refuses(3, "gone.yaml: no such recipe", arguments=["sweep", "gone.yaml"])


@pytest.mark.parametrize("kind", ["folder", "binary"])
def test_unreadable_recipe(cli, kind):
    if kind == "folder":
        (cli.folder / "job.yaml").mkdir()
    else:
        (cli.folder / "job.yaml").write_bytes(b"\xff\xfe\x00\x01")
    cli.refuses(3, "job.yaml: cannot be read", arguments=["sweep", "job.yaml"])


def test_missing_checkpoint_and_data(cli):
    gone = GOOD.replace(str(CHECKPOINT), "gone.safetensors")
    cli.refuses(3, "gone.safetensors: no such file", arguments=sweep(cli, gone))
    cli.refuses(3, "gone.parquet: no such file", arguments=sweep(cli, GOOD.replace(str(DATA), "gone.parquet")))


def test_only_that_matches_nothing(cli):
    words = ("--only onnx/w4-kmean matches none of the recipe's 1 cells", "did you mean 'onnx/w4-kmeans'?")
    cli.refuses(2, *words, arguments=sweep(cli, GOOD, "--only", "onnx/w4-kmean"))


def test_a_scheme_that_rules_leave_to_no_weight(cli):
    text = GOOD + "layers: [{match: '*', keep: fp32}]\n"
    words = ("the rules replace w4-kmeans in all of the network's", "take the scheme out of `schemes`")
    cli.refuses(2, *words, arguments=sweep(cli, text))


def test_a_key_given_twice(cli):
    cli.refuses(2, "images: given twice, in lines", arguments=sweep(cli, GOOD + "images: 8\nimages: 9\n"))
    text = GOOD + "layers:\n- match: classifier.1.weight\n  bits: 8\n  bits: 4\n"
    cli.refuses(2, "bits: given twice, in lines", arguments=sweep(cli, text))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("layers: {fc.*: 8}", 'a list of rules, as - {match: "classifier.*", bits: 8}'),
        ("layers: [{match: *.weight, bits: 8}]", "a glob goes in quotes"),
        ("input_shape: 1,3,32,32", "input_shape: a list of whole numbers, as [1, 3, 224, 224]"),
    ],
)
def test_what_is_written_the_wrong_way_is_shown_the_right_way(cli, line, words):
    cli.refuses(2, "job.yaml", words, arguments=sweep(cli, GOOD + line + "\n"))


def test_rule_that_matches_no_layer(cli):
    text = GOOD + "layers: [{match: clasifier.weight, keep: fp32}]\n"
    cli.refuses(
        2,
        "'clasifier.weight' fits none",
        "did you mean 'classifier.weight'?",
        "\n  features.0.weight\n",
        arguments=sweep(cli, text),
    )


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("fp32", ["fp32"]),
        ("w{3..1}-linear", ["w3-linear", "w2-linear", "w1-linear"]),
        ("w{7..8}-linear", ["w7-linear", "w8-linear"]),
        ("w4-{linear,kmeans}", ["w4-linear", "w4-kmeans"]),
        ("w{2..1}-{a,b}", ["w2-a", "w2-b", "w1-a", "w1-b"]),
        ("fp{16,32}{,@fp16}", ["fp16", "fp16@fp16", "fp32", "fp32@fp16"]),
        ("{5}", ["5"]),
    ],
)
def test_braces(text, names):
    assert recipe.expand(text) == names


def plan(**changes):
    fields = {"checkpoint": "a", "data": "b", "backends": "onnx", "schemes": "fp32", **changes}
    return recipe.Recipe.model_validate(fields)


def test_cells_are_named_once_backend_by_backend():
    found = plan(backends=["onnx", "coreml"], schemes=["w{2..1}-kmeans", "w2-kmeans-tensor"]).cells()
    assert [c.name for c in found] == ["onnx/w2-kmeans", "onnx/w1-kmeans", "coreml/w2-kmeans", "coreml/w1-kmeans"]


def test_only_is_a_glob_over_names():
    found = plan(backends=["onnx", "coreml"], schemes="w{2..1}-{kmeans,linear}")
    assert [c.name for c in found.cells(["coreml/*kmeans", "onnx/w1-linear"])] == [
        "onnx/w1-linear",
        "coreml/w2-kmeans",
        "coreml/w1-kmeans",
    ]
    with pytest.raises(UsageError):
        found.cells(["coreml/*", "tflite/*"])


def test_the_last_rule_that_matches_holds():
    rules = [{"match": "*", "bits": 2}, {"match": "head.*", "keep": "fp16"}, {"match": "head.last", "bits": 8}]
    found = plan(layers=rules)
    asked = Scheme.parse("w4-linear-tensor-minmax")
    assert found.scheme_for("body", asked).name == "w2-linear-tensor-minmax"
    assert found.scheme_for("head.first", asked).name == "fp16"
    assert found.scheme_for("head.last", asked).name == "w8-linear-tensor-minmax"
    assert found.scheme_for("head.last", Scheme.parse("fp32")).name == "fp32"


def test_raw_pixels():
    assert recipe.preprocessing_of(plan(preprocessing="raw")) == raw()


def test_what_is_wrong_with_a_checkpoint_is_told_in_keys(cli):
    import torch
    import user_nets

    torch.save(user_nets.tiny().state_dict(), "net.pt")
    text = GOOD.replace(str(CHECKPOINT), "net.pt")
    cli.refuses(2, "name the factory of the network, `model: package.module:factory`", arguments=sweep(cli, text))
    text += "model: user_nets:tiny\n"
    words = "as in `input_shape: [1, 3, 224, 224]` (batch, channels, height, width)"
    assert "--" not in cli.refuses(2, words, arguments=sweep(cli, text))
    text += "input_shape: [1, 3, 32, 32]\n"
    words = ("net.pt does not say how pixels are normalised; give `preprocessing` with mean and std", "or `raw`")
    cli.refuses(2, *words, arguments=sweep(cli, text))
    text = text.replace("nets:tiny", "nets:tiy")
    cli.refuses(2, "`model: user_nets:tiy`: user_nets has no tiy", arguments=sweep(cli, text))
    text = text.replace("nets:tiy", "nets:tiny") + "arguments: {clases: 3}\n"
    cli.refuses(2, "`model: user_nets:tiny`: called with clases=3 it fails", arguments=sweep(cli, text))


def test_paths_are_relative_to_the_recipe(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "set.parquet").touch()
    (tmp_path / "sub" / "net.pt").touch()
    text = "checkpoint: net.pt\ndata: {}\nbackends: onnx\nschemes: fp32\n"
    (tmp_path / "sub" / "job.yaml").write_text(text.format("set.parquet"))
    found = recipe.load(tmp_path / "sub" / "job.yaml", backends.formats())
    assert found.checkpoint == str(tmp_path / "sub" / "net.pt")
    assert found.data == str(tmp_path / "sub" / "set.parquet")
    (tmp_path / "sub" / "job.yaml").write_text(text.format("owner/set"))
    assert recipe.load(tmp_path / "sub" / "job.yaml", backends.formats()).data == "owner/set"
    (tmp_path / "sub" / "job.yaml").write_text(text.replace("net.pt", "hub:owner/net").format("owner/set"))
    assert recipe.load(tmp_path / "sub" / "job.yaml", backends.formats()).checkpoint == "hub:owner/net"


FORMATS = {
    "plain": Format(Compute.FP32, {}),
    "half": Format(Compute.FP16, {"properties": {"layout": {"type": "string"}}}),
}


def load(tmp_path, text):
    (tmp_path / "job.yaml").write_text("checkpoint: a\ndata: b\nschemes: [fp32, w4-kmeans@fp32]\n" + text)
    return recipe.load(tmp_path / "job.yaml", FORMATS, ["classification", "ranking"])


def test_formats_are_for_the_caller_to_say(tmp_path):
    """Default of compute, options and tasks of formats and tasks that mobconv itself does not have."""
    loaded = load(tmp_path, "backends: [plain, half]\noptions: {half: {layout: nhwc}}\ntask: ranking\n")
    assert [cell.name for cell in loaded.cells()] == [
        "plain/fp32",
        "plain/w4-kmeans",
        "half/fp32",
        "half/w4-kmeans@fp32",
    ]
    assert [cell.compute for cell in loaded.cells()] == [Compute.FP32, Compute.FP32, Compute.FP16, Compute.FP32]
    assert loaded.options == {"half": {"layout": "nhwc"}} and loaded.task == "ranking"
    schema = recipe.json_schema(FORMATS, ["classification", "ranking"])["properties"]
    assert schema["task"]["enum"] == ["classification", "ranking"]
    assert list(schema["options"]["properties"]) == ["half"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "backends: half\noptions: {half: {layuot: nhwc}}\n",
            r"options.half: unknown option 'layuot'.*layout.*did you mean 'layout'",
        ),
        ("backends: plain\noptions: {plain: {layout: nhwc}}\n", r"options.plain: unknown option 'layout'; it has none"),
        ("backends: plain\noptions: {half: {layout: nhwc}}\n", r"options: 'half' is not among the recipe's backends"),
        ("backends: plain\ntask: rankin\n", r"Unknown task 'rankin': .*did you mean 'ranking'"),
        ("backends: onnx\n", "Unknown backend 'onnx': plain, half"),
    ],
)
def test_names_that_the_caller_does_not_know(tmp_path, text, words):
    with pytest.raises(UsageError, match=f"job.yaml: {words}"):
        load(tmp_path, text)


def test_values_of_options_are_checked_before_the_sweep_begins(cli):
    text = GOOD.replace("onnx", "coreml") + "options: {coreml: {image_type: {scale: much, bias: [0, 0, 0]}}}\n"
    cli.refuses(2, "options of coreml", "image_type.scale", arguments=sweep(cli, text))
    text = GOOD + "options: {onnx: {image_type: {}}}\n"
    cli.refuses(2, "options.onnx: unknown option 'image_type'; it has none", arguments=sweep(cli, text))


def test_one_number_of_mean_and_std_holds_for_all_channels(tmp_path):
    (tmp_path / "job.yaml").write_text(GOOD + "preprocessing: {mean: 0.5, std: [0.25]}\n")
    found = recipe.preprocessing_of(recipe.load(tmp_path / "job.yaml", backends.formats()))
    assert found.for_channels(3).mean == (0.5,) * 3 and found.for_channels(3).std == (0.25,) * 3
