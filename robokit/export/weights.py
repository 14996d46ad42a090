"""The weights of an exported policy, beside its file: what another training can start from.

    hopper.onnx    hopper.safetensors

A safetensors file holds numbers alone: reading it runs no code. Its metadata has the policy's layout; its
sha256 stands in the contract, `hashes.weights`, so that file and weights are one export.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as read_tensors, save as tensor_bytes
from torch import Tensor

from robokit.controller import ContractError
from robokit.disk.checkpoint import packed
from robokit.disk.read import parse_json, read_bytes
from robokit.errors import DataError, OptionError, reason
from robokit.export.file import Exported
from robokit.networks.layout import Layout
from robokit.state import State

KEY, SCHEMA = "robokit.policy", 1  # of the metadata


def weights_path(file: Path) -> Path:
    """Where the weights of an exported file are: hopper.safetensors beside hopper.onnx."""
    return file.with_suffix(".safetensors")


def weights_bytes(state: Mapping[str, Tensor], layout: Layout) -> bytes:
    """A policy's state_dict as a safetensors file; equal ones give equal bytes."""
    about = json.dumps({"schema": SCHEMA, **layout.facts()}, allow_nan=False)
    return tensor_bytes(packed(state), metadata={KEY: about})


def read_weights(file: Exported) -> tuple[State, Layout]:
    """The policy's state_dict and layout.

    Raises OptionError for a file without weights, ContractError for damaged ones and those of another file.
    """
    path, digest = weights_path(file.path), file.contract["hashes"].get("weights")
    if digest is None or not path.is_file():
        lack = f"{file.path} was exported without its weights" if digest is None else f"there is no {path}"
        raise OptionError(f"{lack}: export its run again (robokit export RUN), or give the run itself")
    try:
        content = read_bytes(path)
    except (OSError, DataError) as error:
        raise ContractError(f"cannot read the weights {path}: {reason(error, path)}") from error
    if (found := hashlib.sha256(content).hexdigest()) != digest:
        rule = f"has sha256 {found[:12]}.., the contract of {file.path.name} says {digest[:12]}.."
        raise ContractError(f"{path} {rule}: damaged, or of another export; export the run again")
    try:
        length = int.from_bytes(content[:8], "little")  # of the header, which is JSON
        header = parse_json(content[8 : 8 + length], "its header")
        about = parse_json(header["__metadata__"][KEY], f"its {KEY}")
        if (schema := about.pop("schema")) != SCHEMA:
            raise ValueError(f"schema {schema!r}, known here: {SCHEMA}")
        return read_tensors(content), Layout.of(about)
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ContractError(f"{path} holds no policy that is known here: {error!r}") from error
