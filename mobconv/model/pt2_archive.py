"""`.pt2` archives of torch.export.save: read as data, or refused.

torch.export.load trusts the file. It unpickles `opaque_obj_*` and everything that a config marks with `use_pickle`,
loads libraries under `data/aotinductor`, evaluates the text of symbolic sizes and guards, and resolves the target of a
node by attributes from `torch` on, which reaches `torch.serialization.os.system`. So a file is first read here, by
PyTorch's own zip reader, and refused for any part that a plain network with fixed shapes does not need: accepted are
tensors as raw bytes, ATen operators, and names of letters, digits, `_`, `.`, `+` and `-`.

Open dimensions are expressions, and PyTorch evaluates their text. It is never given to it: each has the length that the
program was traced with beside it, which takes its place. The code of guards on such lengths is dropped.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mobconv.errors import InputError, setting

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|\.format_version|\.storage_alignment|\.data/(version|serialization_id)"
    r"|models/model\.json|data/sample_inputs/model\.pt|extra/.*"
    # `.pt`: PyTorch 2.8 kept all weights in one pickle of tensors, which weights-only loading reads
    r"|data/weights/(weight_\d+|model_weights_config\.json|model\.pt)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json|model\.pt)"
)
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_PAYLOADS = re.compile(r"weight_\d+|tensor_\d+")
_TARGETS = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed|torchvision)\.\w+\.[A-Za-z]\w*"
    # of lengths, where the program has open dimensions
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|eq|ne|ge|gt|le|lt)"
)
_NAMES = re.compile(r"[\w.+-]*")
# texts that are never evaluated: stack traces, string arguments
_FREE_TEXT = ("metadata", "as_string", "as_strings")
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")


def load(reference: str, content: bytes, trusted: bool) -> tuple[ExportedProgram, GraphModule, bool]:
    """Load the program in an archive, the module of it, and whether it has open dimensions.

    trusted: skip the check for code that loading would run. Of a program with open dimensions the module runs on other
    lengths than those of the program, which are the ones that it was traced with. Raises InputError for an archive that
    is damaged, of another release of PyTorch, or asks for more than data.
    """
    # not torch.export.load: it logs a traceback, then tries an older format that nothing here has checked
    from torch.export.pt2_archive._package import load_pt2

    try:
        content, is_open = _specialised(content)
        if not trusted:
            _check(reference, content)
        with _weights_only(not trusted):
            program = load_pt2(io.BytesIO(content)).exported_programs["model"]
            return program, program.module(), is_open
    except InputError:
        raise
    except Exception as error:  # the deserializer raises dozens of types
        raise InputError(
            f"{reference}: PyTorch cannot read this program (saved by another release of PyTorch, or damaged): "
            f"{str(error).strip().partition(chr(10))[0] or type(error).__name__}"
        ) from error


def _specialised(content: bytes) -> tuple[bytes, bool]:
    """The archive with each open length replaced by the traced one, and whether there was any."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next((each for each in archive.namelist() if each.endswith("models/model.json")), None)
        if name is None:
            return content, False
        program = json.loads(archive.read(name))
        if not _close(program):
            return content, False
        program["range_constraints"] = {}
        program["guards_code"] = []  # code that compares open lengths, as of two inputs that share their batch
        written = io.BytesIO()
        with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as copy:
            for entry in archive.infolist():
                copy.writestr(entry, json.dumps(program) if entry.filename == name else archive.read(entry))
    return written.getvalue(), True


def _close(value: Any) -> bool:
    """Replace expressions by their hints, in place. Returns whether there was one."""
    closed = False
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        hint = inner.get("as_expr", {}).get("hint") if isinstance(inner, dict) else None
        if isinstance(hint, dict) and isinstance(hint.get("as_int"), int):
            value[key] = {"as_int": hint["as_int"]}
            closed = True
        elif isinstance(inner, dict | list):
            closed |= _close(inner)
    return closed


def _check(reference: str, content: bytes) -> None:
    """Raise InputError where loading would run code that the file brings along."""
    import torch

    reader = torch._C.PyTorchFileReader(io.BytesIO(content))  # torch.export's own, so that both read the same zip
    members = reader.get_all_records()
    for member in members:
        if not _MEMBERS.fullmatch(member):
            raise _refused(reference, member)
    for member in set(_CONFIGS).intersection(members):
        for entry in json.loads(reader.get_record(member))["config"].values():
            if entry.get("use_pickle") is not False or not _PAYLOADS.fullmatch(entry["path_name"]):
                raise _refused(reference, f"{member}, entry {entry.get('path_name')!r},")
    program = json.loads(reader.get_record("models/model.json"))
    if program.get("guards_code"):
        raise _refused(reference, "guards_code in models/model.json")
    _check_values(reference, program)


def _check_values(reference: str, value: Any, key: str = "") -> None:
    """Walk the program's JSON. Raise InputError for a text in it that is not a name, an operator or free text."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in ("as_expr", "expr_str"):
                raise InputError(f"{reference}: the program has open dimensions; export it with a fixed shape")
            if not _NAMES.fullmatch(name):
                raise _refused(reference, f"the name {name!r}")
            if name not in _FREE_TEXT:
                _check_values(reference, inner, name)
    elif isinstance(value, list):
        for inner in value:
            _check_values(reference, inner, key)
    elif isinstance(value, str):
        if key in ("in_spec", "out_spec"):
            _check_tree(reference, json.loads(value)[1] if value else None)
        elif key in ("target", "as_operator") and "." in value and not _TARGETS.fullmatch(value):
            raise _refused(reference, f"a call of {value!r}")
        elif not _NAMES.fullmatch(value):
            raise _refused(reference, f"the name {value!r}")


def _check_tree(reference: str, spec: Any) -> None:
    """Check how inputs and outputs nest: containers other than Python's own are imported by name."""
    if spec is None:
        return
    context = json.loads(spec["context"]) if isinstance(spec["context"], str) else spec["context"]
    plain = context is None or (isinstance(context, list) and all(isinstance(key, str | int) for key in context))
    if spec["type"] not in _CONTAINERS or not plain:
        raise _refused(reference, f"an input or output of type {spec['type']!r}")
    for child in spec["children_spec"]:
        _check_tree(reference, child)


def _refused(reference: str, part: str) -> InputError:
    return InputError(
        f"{reference}: {part} asks for more than data when it is loaded, which can run code, so it was not loaded. If "
        f"you trust its author, {setting('trust_pickle', True)} loads it, and runs that code with your rights."
    )


@contextmanager
def _weights_only(enforced: bool) -> Iterator[None]:
    """While enforced, keep every torch.load in this process to tensors, even where it is called for full unpickling.

    torch.export.load falls back to full unpickling of sample inputs when loading of tensors alone fails.
    """
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    try:
        if enforced:
            os.environ[name] = "1"
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
