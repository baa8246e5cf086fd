"""docs/python.md: its code runs, top to bottom, in a folder with the checkout's fixtures and recipes."""

import re
import subprocess
import sys
from pathlib import Path

import mobconv

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text()


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_code_of_the_page_runs(tmp_path):
    for name in ("fixtures", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    script = "\n".join(blocks())
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "94.50 %" in run.stdout and (tmp_path / "out" / "demo" / "report.html").exists()
    assert re.search(r"^True \[\]$", run.stdout, re.MULTILINE)
    assert re.search(r"^2 ", run.stdout, re.MULTILINE)  # the exit code of a wrong scheme


def test_every_function_of_the_api_is_on_the_page_and_has_a_docstring():
    for name in mobconv.API:
        assert f"mobconv.{name}(" in PAGE
        function = mobconv._function(name)
        assert function.__doc__ and "Raises" in function.__doc__ and function.__annotations__["return"]


def test_a_package_with_a_functions_name_is_callable_and_still_a_package():
    script = (
        "import mobconv.sweep.job, mobconv, inspect\n"
        "from mobconv.sweep.job import Job\n"
        "print(callable(mobconv.sweep), mobconv.sweep.job.Job is Job)\n"
        "print('recipe' in inspect.signature(mobconv.sweep).parameters)\n"
        "print(callable(mobconv.evaluate), 'artifact' in inspect.signature(mobconv.evaluate).parameters)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.stdout == "True True\nTrue\nTrue True\n", run.stderr
