"""A learned model's file: equal to the model, refused by a Controller, and by its own gate if it differs."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import reach
import torch
from agents import Limited
from cart import Cart
from torch import Tensor

from robokit.algos import sac
from robokit.controller import METADATA_KEY, ContractError, Controller, open_session
from robokit.dynamics.imagine import Model
from robokit.env.env import Env
from robokit.errors import ExportError
from robokit.export.dynamics import Graph, gate, write_dynamics
from robokit.networks.policy import Policy
from robokit.task.task import Task

pytestmark = pytest.mark.medium


class Slides(Cart):
    """Ends where the slide is beyond .9, and tells so."""

    def ended(self, terms: dict[str, Tensor]) -> Tensor:
        return terms["slide"][:, 0].abs() > 0.9


class Made(NamedTuple):
    model: Model
    policy: Policy
    env: Env
    path: Path
    sha256: str
    error: float
    contract: dict[str, Any]


def model_of(task: type[Task], costs: int = 0, **options: Any) -> tuple[Model, Policy, Env]:
    env = Env(task(), 8, threads=1, nominal=True)
    torch.manual_seed(0)
    policy = sac.make_actor(env, sac.Config(hidden=(8,), **options)).eval()
    model = Model(env, policy.belief_size, costs, 3, (16, 16))
    for parameter in model.net.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    for scale in (model.net.inp, model.net.out, model.net.seen):
        scale.fit(2 * torch.randn(100, len(scale.mean)) + 1)
    return model, policy, env


@pytest.fixture(scope="module", params=[Slides, Limited, reach.Reach])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """With commands and an end that the task tells; with costs; with a Delta's unobserved targets."""
    parts = model_of(request.param, costs=2 if request.param is Limited else 0)
    path = tmp_path_factory.mktemp("made") / "toy.dynamics.onnx"
    written = write_dynamics(*parts, path, commit="abc", steps=7)
    contract = json.loads({p.key: p.value for p in onnx.load(path).metadata_props}[METADATA_KEY])
    return Made(*parts, path, *written, contract)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 64])
def test_the_file_says_what_the_model_says_by_the_names_of_its_terms(made: Made, batch: int):
    frames, rng = made.model.frames, torch.Generator().manual_seed(1)
    frame = 2 * torch.randn(batch, frames.size, generator=rng) + 1
    action = 2 * torch.rand(batch, frames.act_dim, generator=rng) - 1
    said = made.model.predict(frame, frame[:, :0], action)
    session = open_session(made.path.read_bytes(), "it")
    given = {f"now.{name}": x.numpy() for name, x in frames.split(frame).items()} | {"action": action.numpy()}
    assert {i.name: i.shape[1:] for i in session.get_inputs()} == {k: [x.shape[1]] for k, x in given.items()}
    rows = {o["name"]: o["size"] for o in made.contract["outputs"]}
    found = dict(zip(rows, session.run([*rows], given), strict=True))
    truth = {f"next.{name}": x for name, x in frames.split(said.frame).items()}
    truth |= {"noise": said.noise, "disagreement": said.disagreement}
    truth |= {"reward": said.reward[:, None], "end": said.end[:, None]}
    truth |= {"cost": said.cost} if len(made.model.largest) else {}
    assert found.keys() == truth.keys()
    for name, x in truth.items():
        assert np.asarray(found[name]).shape == (batch, rows[name])
        np.testing.assert_allclose(np.asarray(found[name]), x.numpy(), atol=2e-5, rtol=1e-5)
    assert made.error <= 1e-5


def test_the_contract_is_of_this_kind_and_a_controller_refuses_it(made: Made):
    contract, path = made.contract, made.path
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert Path(f"{path}.sha256").read_text() == f"{digest}  {path.name}\n" and made.sha256 == digest
    assert (contract["kind"], contract["members"], contract["steps"]) == ("dynamics", 3, 7)
    assert contract["ends"] == ("learned" if type(made.env.task) is Limited else "task")
    kinds = {row["name"].removeprefix("now."): row["kind"] for row in contract["inputs"]}
    assert kinds == made.model.frames.kinds | {"action": "action"}
    assert {row["batch"] for row in contract["parity"]} == {1, 64}
    assert contract["hashes"]["commit"] == "abc"
    assert "carried" not in contract
    with pytest.raises(
        ContractError, match=r"toy.dynamics.onnx holds a 'dynamics', and a Controller runs a 'pol"
    ):
        Controller(path)


def test_a_graph_of_other_weights_is_refused_with_its_output_and_figure(made: Made):
    model = onnx.load(made.path)
    names, outputs = [i.name for i in model.graph.input], [o.name for o in model.graph.output]
    graph = Graph(made.model)
    assert [row["batch"] for row in gate(model, graph, names, outputs)] == [1, 64]
    weight = made.model.net.net.weights[-1]
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[1, :, made.model.frames.predicted] += 1e-3  # of the reward's mean
        with pytest.raises(
            ExportError, match=r"differs from the model at batch 1 by .*, at most 1e-05, in 'reward'"
        ):
            gate(model, graph, names, outputs)
    finally:
        with torch.no_grad():
            weight.copy_(before)


def test_a_model_of_beliefs_or_with_a_number_that_is_not_finite_is_refused(
    tmp_path: Path,
):
    model, policy, env = model_of(Cart, belief="stack")
    path = tmp_path / "m.dynamics.onnx"
    with pytest.raises(
        ExportError, match=r"exported only for a policy without memory: Cart's takes a belief of"
    ):
        write_dynamics(model, policy, env, path)
    model, policy, env = model_of(Cart)
    with torch.no_grad():
        model.net.net.biases[0][0, 0, 1] = torch.nan
    with pytest.raises(ExportError, match=r"the model's net.biases.0 is not finite"):
        write_dynamics(model, policy, env, path)
    assert not [*tmp_path.iterdir()]
