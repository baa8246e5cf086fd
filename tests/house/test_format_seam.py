"""A format is added by one new folder and one line."""

import shutil

from copied import ROOT


def test_a_format_is_one_folder_and_one_line(copy):
    folder = copy.package / "backends" / "toyformat"
    shutil.copytree(ROOT / "tests" / "plugins" / "toyformat" / "toyformat", folder)
    for path in folder.rglob("*.py"):
        text = path.read_text().replace("from toyformat", "from mobconv.backends.toyformat")
        path.write_text(text.replace('("toyformat",)', '("mobconv.backends.toyformat",)'))
    copy.register("backends/__init__.py", "BUILT_IN = {", '    "toyformat": "mobconv.backends.toyformat",')
    assert copy.touched() == (["backends/toyformat"], ["backends/__init__.py: 1"])
    assert "toyformat" in copy.run("backends")
    assert "w4-kmeans.toyformat" in copy.export("net.safetensors", "--to", "toyformat", "--scheme", "w4-kmeans")
    rows = copy.sweep("checkpoint: net.safetensors\nbackends: toyformat\nschemes: [fp32, w4-kmeans, w4-linear@native]")
    assert [row["status"] for row in rows] == ["ok", "ok", "unsupported"]
    assert rows[0]["conversion_loss"] == rows[1]["conversion_loss"] == 0 and rows[1]["agreement"] == 1
    assert "met" in copy.check("max_bytes: 2 MB")
