"""The Controller with graphs written by hand: ctrl = 2 angle + previous ctrl (10 after a reset)."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from robokit.controller import (
    METADATA_KEY,
    ConcurrentCall,
    ContractError,
    Controller,
    ObservationError,
    describe,
    load,
    main,
    ort,
)
from robokit.export.gate import IR, OPSET, ORT

ROOT = Path(__file__).parent.parent
CONTRACT: dict[str, Any] = {
    "schema": 2,
    "kind": "policy",
    "task": "spin",
    "robot": "top",
    "control_dt": 0.02,
    "inputs": [
        {"name": "angle", "size": 1, "unit": "rad"},
        {"name": "rate", "size": 2, "unit": "rad/s", "max_age": 0.5},
    ],
    "actuators": [{"name": "motor", "unit": "N m", "low": -1000.0, "high": 1000.0}],
    "carried": [
        {"name": "action", "size": 1, "start": [10.0]},
        {"name": "belief", "size": 2, "start": [0.0, 0.0]},
    ],
    "commands": {},
    "versions": {},
    "least": {"onnxruntime": "1.15", "ir": 8, "opset": 18},
    "hashes": {},
}
FOLLOW = [
    ("Unsqueeze", ["reset", "one"], ["column"]),
    ("Where", ["column", "ten", "carry"], ["kept"]),
    ("Slice", ["kept", "start", "one", "one"], ["previous"]),
    ("Mul", ["angle", "two"], ["doubled"]),
    ("Add", ["doubled", "previous"], ["ctrl"]),
    ("Concat", ["ctrl", "rate"], ["carry_next"]),
]
DIVIDE = [*FOLLOW[:-1], ("Div", ["rate", "angle"], ["ratio"]), ("Concat", ["ctrl", "ratio"], ["carry_next"])]
SWALLOW = [("Identity", ["angle"], ["ctrl"]), ("Max", ["carry", "zero"], ["carry_next"])]
GOOD = {"angle": [0.25], "rate": [3.0, 4.0]}


def write(path: Path, nodes: list[Any] = FOLLOW, contract: Any = CONTRACT) -> Path:
    """An ONNX file with its sha256 beside it; `contract` as JSON, as it is when a str, left out when None."""

    def real(name: str, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])

    def constant(name: str, value: Any) -> onnx.TensorProto:
        return numpy_helper.from_array(np.asarray(value), name)

    graph = helper.make_graph(
        [helper.make_node(op, ins, outs, axis=1 if op == "Concat" else None) for op, ins, outs in nodes],
        "spin",
        [
            *(real(name, width) for name, width in {"angle": 1, "rate": 2, "carry": 3}.items()),
            helper.make_tensor_value_info("reset", TensorProto.BOOL, ["batch"]),
        ],
        [real("ctrl", 1), real("carry_next", 3)],
        [
            constant("start", [0]),
            constant("one", [1]),
            constant("zero", np.float32(0)),
            constant("two", np.float32(2)),
            constant("ten", np.float32(10)),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if contract is not None:
        text = contract if isinstance(contract, str) else json.dumps(contract)
        helper.set_model_props(model, {METADATA_KEY: text})
    path.write_bytes(model.SerializeToString())
    return sign(path)


def sign(path: Path) -> Path:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    Path(f"{path}.sha256").write_text(f"{digest}  {path.name}\n")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "spin.onnx")


@pytest.fixture
def policy(file: Path) -> Controller:
    return Controller(file, robot="top", control_dt=0.02)


def test_the_carry_goes_on_and_reset_forgets_it(policy: Controller) -> None:
    # 10 + 2 * .25, then each step adds to the step before
    assert [policy.step(GOOD).tolist() for _ in range(3)] == [[10.5], [11.0], [11.5]]
    policy.reset()
    assert (policy.inputs, policy.actuators) == ({"angle": 1, "rate": 2}, ["motor"])
    first = policy.step(GOOD)
    assert first.tolist() == [10.5]
    assert (first.shape, first.dtype) == ((1,), np.float32)


def test_a_returned_ctrl_is_not_overwritten_by_the_next_step(policy: Controller) -> None:
    first = policy.step(GOOD)
    policy.step(GOOD)
    assert first.tolist() == [10.5]


def test_arrays_given_and_returned_are_not_those_that_the_policy_remembers_in(policy: Controller) -> None:
    angle = np.array([0.25])
    ctrl, action = policy.step(GOOD | {"angle": angle}), policy.action
    ctrl[:], action[:], angle[:] = 99.0, 99.0, 0.5
    assert policy.step(GOOD | {"angle": angle}).tolist() == [11.5]  # 10.5 + 2 * .5


def test_two_controllers_of_one_loaded_file_remember_apart(file: Path) -> None:
    loaded = load(file)
    left, right = Controller(loaded), Controller(loaded)
    assert [left.step(GOOD).tolist() for _ in range(2)] == [[10.5], [11.0]]
    assert right.step(GOOD).tolist() == [10.5]
    assert left.step(GOOD).tolist() == [11.5]


@pytest.mark.parametrize("value", [np.array([0.25]), np.array([0.25], np.float16), [0.25], (0.25,)])
def test_any_real_array_is_taken(policy: Controller, value: Any) -> None:
    assert policy.step({"angle": value, "rate": np.array([3, 4])}).tolist() == [10.5]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"rate": None}, "observation 'rate' is missing"),
        ({"height": [1.0]}, "no input 'height'"),
        ({"rate": None, "rates": [3.0, 4.0]}, "no input 'rates'; did you mean 'rate'"),
        ({"rate": [3.0]}, r"'rate' must have shape \(2,\), got \(1,\)"),
        ({"rate": [[3.0, 4.0]]}, r"'rate' must have shape \(2,\), got \(1, 2\)"),
        ({"angle": 0.25}, r"'angle' must have shape \(1,\), got \(\)"),
        ({"angle": ["left"]}, "'angle' must be real numbers"),
        ({"angle": [1j]}, "'angle' must be real numbers"),
        ({"rate": [[1.0], [1.0, 2.0]]}, "'rate' is no array"),
        (
            {"rate": np.ma.array([3.0, 4.0], mask=[False, True])},
            "'rate' must be real numbers, got some .* masked",
        ),
        ({"rate": [3.0, np.nan]}, "'rate' is not finite"),
        ({"angle": [-np.inf]}, "'angle' is not finite"),
        ({"angle": [1e300]}, "'angle' is not finite in float32"),
    ],
)
def test_a_wrong_observation_is_refused_by_name_and_changes_nothing(
    policy: Controller, changed: dict[str, Any], says: str
) -> None:
    policy.step(GOOD)
    wrong = {name: value for name, value in (GOOD | changed).items() if value is not None}
    with pytest.raises(ObservationError, match=says):
        policy.step(wrong)
    assert policy.step(GOOD).tolist() == [11.0]  # as if the wrong one had never been


@pytest.mark.parametrize("obs", [None, [1.0, 2.0]])
def test_what_is_no_mapping_is_refused_as_an_observation(policy: Controller, obs: Any) -> None:
    with pytest.raises(ObservationError, match="mapping of name to numbers"):
        policy.step(obs)


def test_an_observation_refused_right_after_reset_leaves_the_reset_pending(policy: Controller) -> None:
    policy.step(GOOD)
    policy.reset()
    with pytest.raises(ObservationError):
        policy.step(GOOD | {"angle": [np.nan]})
    assert policy.step(GOOD).tolist() == [10.5]


@pytest.mark.parametrize(
    ("stamps", "says"),
    [
        ({"angle": 9.979}, "'angle' is stale"),  # without max_age: one control period, .02 s
        ({"rate": 9.4}, "'rate' is stale"),  # .6 s old, at most .5 s
        ({"angle": 10.1}, "'angle' is .* ahead"),
        ({"angle": float("nan")}, "'angle' is stale"),
        ({"angel": 10.0}, "no input 'angel'; did you mean 'angle'"),
        ({"angle": None}, "the time stamp of 'angle' must be a number of seconds, got None"),
        ({"rate": [10.0, 10.0]}, "the time stamp of 'rate' must be a number of seconds, got"),
        ([10.0], "stamps are a mapping of name to seconds, got list"),
    ],
)
def test_a_stamp_that_is_stale_unknown_or_none_is_refused(policy: Controller, stamps: Any, says: str) -> None:
    with pytest.raises(ObservationError, match=says):
        policy.step(GOOD, stamps, now=10.0)
    assert policy.step(GOOD, {"angle": 9.985, "rate": 9.6}, now=10.0).tolist() == [10.5]


def test_output_that_is_not_finite_is_refused_and_the_carry_kept(tmp_path: Path) -> None:
    policy = Controller(write(tmp_path / "divide.onnx", DIVIDE))
    policy.step(GOOD)
    with pytest.raises(ObservationError, match="not finite"):
        policy.step({"angle": [0.0], "rate": [1.0, 1.0]})  # rate / angle
    assert policy.step(GOOD).tolist() == [11.0]


def test_a_carry_that_is_not_finite_is_refused_where_the_graph_would_swallow_it(tmp_path: Path) -> None:
    policy = Controller(write(tmp_path / "swallow.onnx", SWALLOW))
    policy._carry[:] = np.nan
    with pytest.raises(ObservationError, match="carried state is not finite"):
        policy.step(GOOD)
    policy.reset()
    assert policy.step(GOOD).tolist() == [0.25]


def test_a_command_outside_its_range_is_clipped_and_counted(tmp_path: Path) -> None:
    contract = CONTRACT | {"commands": {"angle": {"low": [-0.5], "high": [0.1]}}}
    policy = Controller(write(tmp_path / "command.onnx", contract=contract))
    for angle, expected in ((0.1, 0.1), (7.0, 0.1), (-7.0, -0.5)):
        policy.reset()
        assert policy.step({"angle": [angle], "rate": [0.0, 0.0]}).tolist() == [10 + np.float32(2 * expected)]
    assert policy.clipped == {"angle": 2}


def test_timing_counts_every_step_and_every_missed_deadline(policy: Controller) -> None:
    assert policy.timing().count == 0
    policy.deadline = 3600.0
    policy.step(GOOD)
    policy.deadline = 0.0
    policy.step(GOOD)
    timing = policy.timing()
    assert (timing.count, timing.missed) == (2, 1)
    assert 0.0 < timing.p50 <= timing.p99 <= timing.max


@pytest.mark.parametrize("position", [0, 0.1, 0.3, 0.5, 0.7, 0.9, 1])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_single_flipped_bit_is_refused(file: Path, position: float, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[int(position * (len(data) - 1))] ^= 1 << bit
    file.write_bytes(data)
    with pytest.raises(ContractError, match="damaged or changed"):
        Controller(file)


def test_a_file_without_its_sha256_is_refused(file: Path) -> None:
    Path(f"{file}.sha256").unlink()
    with pytest.raises(ContractError, match=r"spin\.onnx\.sha256"):
        Controller(file)


@pytest.mark.parametrize("listing", ["", "0" * 64, "\xff"])
def test_a_damaged_sha256_is_refused(file: Path, listing: str) -> None:
    Path(f"{file}.sha256").write_text(listing, "latin-1")
    with pytest.raises(ContractError, match="sha256"):
        Controller(file)


def test_a_missing_file_and_one_that_is_no_onnx_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"none\.onnx"):
        Controller(tmp_path / "none.onnx")
    text = tmp_path / "text.onnx"
    text.write_text("no ONNX")
    with pytest.raises(ContractError, match=r"text\.onnx is no ONNX file"):
        Controller(sign(text))


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in CONTRACT.items() if k != key}


@pytest.mark.parametrize(
    ("contract", "says"),
    [
        (None, "no 'robokit.contract'"),
        ("{", "malformed"),
        ("[]", "malformed"),
        *((without(key), f"malformed contract: {key} must be .*, got nothing") for key in CONTRACT),
        (CONTRACT | {"schema": 3}, "schema must be one that is known here, 1 to 2, got 3"),
        (CONTRACT | {"control_dt": "fast"}, "malformed"),
        (CONTRACT | {"control_dt": 0.0}, "control_dt must be a number from 1e-05 to 60, got 0.0"),
        (
            CONTRACT | {"inputs": [{"name": "angle"}]},
            r"inputs\[0\].size must be a whole number .*, got nothing",
        ),
        (
            CONTRACT | {"commands": {"angle": {"low": [0, 0], "high": [1]}}},
            "commands.angle.low must be 1 long",
        ),
        (
            CONTRACT | {"commands": {"speed": {"low": [0], "high": [1]}}},
            "commands.speed must be the name of an input",
        ),
        (CONTRACT | {"carried": CONTRACT["carried"][:1]}, "its contract says"),
        (CONTRACT | {"actuators": CONTRACT["actuators"] + [{"name": "other"}]}, "its contract says"),
    ],
)
def test_a_file_without_a_sound_contract_is_refused(tmp_path: Path, contract: Any, says: str) -> None:
    with pytest.raises(ContractError, match=says):
        Controller(write(tmp_path / "wrong.onnx", contract=contract))


def test_another_robot_or_rate_is_refused_by_name(file: Path) -> None:
    with pytest.raises(ContractError, match="trained for robot 'top', not 'bottom'"):
        Controller(file, robot="bottom")
    with pytest.raises(ContractError, match=r"control_dt of 0\.02 s, not 0\.01 s"):
        Controller(file, control_dt=0.01)
    Controller(file, control_dt=1 / 50)


def test_the_description_names_everything_to_supply_and_to_expect(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == describe(CONTRACT)
    for fact in (
        "spin",
        "top",
        "0.02 s",
        "angle",
        "(1,)",
        "unit rad/s",
        "max_age 0.5",
        "motor",
        "-1000.0 .. 1000.0 N m",
    ):
        assert fact in printed
    assert main([str(file) + "x"]) == 1
    assert "spin.onnxx" in capsys.readouterr().err
    assert main([]) == 2


def test_the_description_tells_a_goal_and_a_delay_of_commands():
    more = {"goal": {"command": "place", "achieved": "tip", "within": 0.01}, "action_delay": [0.0, 0.02]}
    text = describe(CONTRACT | more).splitlines()
    late = "commands came late in training: by 0.0 .. 0.02 s"
    assert text[-2:] == [late, "goal: command place, achieved tip, within 0.01"]
    assert describe(CONTRACT | {"goal": None, "action_delay": [0.0, 0.0]}) == describe(CONTRACT)


def test_the_controller_is_one_file_that_needs_only_numpy_and_onnxruntime(file: Path) -> None:
    copied = file.parent / "controller.py"
    copied.write_bytes((Path(__file__).parents[1] / "robokit/controller.py").read_bytes())
    code = (
        "import sys; from controller import Controller\n"
        f"print(Controller({file.name!r}).step({GOOD}).tolist())\n"
        "print({'robokit', 'torch', 'mujoco', 'onnx', 'gymnasium'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=file.parent, capture_output=True, text=True)
    assert run.stdout.split("\n")[:2] == ["[10.5]", "set()"], run.stderr


@pytest.mark.parametrize(
    ("before", "variable", "warned"),
    [("", None, 0), ("import onnxruntime; ", None, 1), ("import onnxruntime; ", "1", 0), ("", "0", 0)],
)
def test_telemetry_is_off_before_onnxruntime_is_imported_or_the_user_is_warned(
    before: str, variable: str | None, warned: int
):
    code = f"""
import os, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    {before}import robokit.controller
print(os.environ["ORT_DISABLE_TELEMETRY"], sum("telemetry" in str(w.message) for w in caught))
"""
    unset = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment = unset if variable is None else {**unset, "ORT_DISABLE_TELEMETRY": variable}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ran.stdout.split() == [variable or "1", str(warned)], ran.stderr


NARROW = CONTRACT | {"actuators": [{"name": "motor", "low": -1.0, "high": 10.6}]}


def test_a_ctrl_beyond_its_range_is_clipped_and_counted_and_the_memory_goes_on(tmp_path: Path) -> None:
    policy = Controller(write(tmp_path / "narrow.onnx", contract=NARROW))
    sent = [policy.step(GOOD).tolist() for _ in range(3)]  # 10.5, 11.0, 11.5 without a range
    assert sent == [[10.5], [np.float32(10.6)], [np.float32(10.6)]]
    assert (policy.ctrl_clipped, policy.action.tolist()) == ({"motor": 2}, [11.5])


def test_a_ctrl_beyond_its_range_is_refused_where_asked_and_the_memory_kept(tmp_path: Path) -> None:
    policy = Controller(write(tmp_path / "narrow.onnx", contract=NARROW), beyond="refuse")
    assert policy.step(GOOD).tolist() == [10.5]
    with pytest.raises(ObservationError, match=r"lead to a ctrl of 'motor' of 11\.0, outside -1\.0 to 10\.6"):
        policy.step(GOOD)
    assert policy.step(GOOD | {"angle": [0.0]}).tolist() == [10.5]  # 10.5 + 2 * 0
    assert policy.ctrl_clipped == {"motor": 0}
    with pytest.raises(ValueError, match="beyond must be 'clip' or 'refuse', got 'ignore'"):
        Controller(tmp_path / "narrow.onnx", beyond="ignore")


@pytest.mark.parametrize("edges", [{}, {"low": None, "high": None}])
def test_an_actuator_without_a_range_is_not_clipped(tmp_path: Path, edges: dict[str, Any]) -> None:
    contract = CONTRACT | {"actuators": [{"name": "motor", **edges}]}
    policy = Controller(write(tmp_path / "free.onnx", contract=contract))
    assert policy.step(GOOD | {"angle": [1e38]}).tolist() == [np.float32(2e38)]


class Nested(dict[str, Any]):
    """Observations that call the policy when they are read."""

    def __init__(self, policy: Controller) -> None:
        super().__init__(GOOD)
        self.policy, self.refused = policy, 0

    def __getitem__(self, name: str) -> Any:
        for call in (self.policy.reset, lambda: self.policy.step(GOOD)):
            with pytest.raises(ConcurrentCall, match="was called while another call is inside"):
                call()
            self.refused += 1
        return super().__getitem__(name)


def test_a_call_inside_another_is_refused_and_changes_nothing(policy: Controller) -> None:
    obs = Nested(policy)
    assert [policy.step(obs).tolist() for _ in range(2)] == [[10.5], [11.0]]
    assert obs.refused == 8
    policy.reset()
    assert policy.step(GOOD).tolist() == [10.5]


def test_an_error_in_the_middle_of_a_step_leaves_the_controller_free(policy: Controller) -> None:
    class Broken(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            raise OSError("the bus is gone")

    with pytest.raises(OSError, match="the bus is gone"):
        policy.step(Broken(GOOD))
    assert policy.step(GOOD).tolist() == [10.5]


def test_of_many_threads_each_step_is_done_whole_or_refused(policy: Controller) -> None:
    done: list[float] = []
    refused: list[str] = []

    def work() -> None:
        for _ in range(300):
            try:
                done.append(float(policy.step(GOOD)[0]))
            except ConcurrentCall as error:
                refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) + len(refused) == 1200
    assert sorted(done) == [10.5 + 0.5 * i for i in range(len(done))]  # each step went on from one before


def test_a_file_of_schema_1_loads_and_its_parts_are_named(tmp_path: Path) -> None:
    old = {k: v for k, v in CONTRACT.items() if k not in ("kind", "carried", "least")}
    old |= {"schema": 1, "carry": {"size": 3, "action": 1, "belief": 2}, "limits": None, "evaluation": None}
    policy = Controller(write(tmp_path / "old.onnx", contract=old))
    assert policy.step(GOOD).tolist() == policy.action.tolist() == [10.5]
    assert policy.contract["carried"] == [{"name": "action", "size": 1}, {"name": "belief", "size": 2}]
    for carry in (None, {"size": 3}, {"size": 3, "action": 1, "belief": 3}, {"size": "3"}):
        with pytest.raises(ContractError, match="malformed contract: carry"):
            Controller(write(tmp_path / "old.onnx", contract=old | {"carry": carry}))


@pytest.mark.parametrize(
    ("stamp", "now", "says"),
    [
        (10**400, 1.0, "'angle' is inf s ahead"),
        (1.0, 10**400, "'angle' is stale: inf s old"),
        (1.0, "noon", "now must be a number of seconds, got 'noon'"),
    ],
)
def test_times_beyond_any_float_are_refused(policy: Controller, stamp: Any, now: Any, says: str) -> None:
    with pytest.raises(ObservationError, match=says):
        policy.step(GOOD, {"angle": stamp}, now=now)
    assert policy.step(GOOD).tolist() == [10.5]


@pytest.mark.parametrize(
    ("output", "code", "says"),
    [
        ("| head -c 1", 0, ""),
        ("| true", 0, ""),
        ("> /dev/full", 1, "cannot print: [Errno 28] No space left on device"),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("x 2> /dev/full", 1, ""),
        ("x 2>&-", 1, ""),
    ],
)
def test_on_a_console_that_breaks_there_is_no_traceback(
    file: Path, output: str, code: int, says: str
) -> None:
    line = (
        f"{sys.executable} {ROOT / 'robokit/controller.py'} {file}{'' if output[0] == 'x' else ' '}{output}"
    )
    ran = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr.strip()) == (code, says)


def test_letters_that_a_console_lacks_are_escaped(tmp_path: Path) -> None:
    file = write(tmp_path / "spin.onnx", contract=CONTRACT | {"robot": "Käfer"})
    command = [sys.executable, ROOT / "robokit/controller.py", file]
    ran = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert ran.stdout.startswith(b"spin for robot K\\xe4fer"), ran.stderr


TARGET = CONTRACT | {
    "carried": [{"name": "target", "size": 1}, CONTRACT["carried"][1]]
}  # ctrl goes on from it


def test_a_target_goes_on_from_what_was_sent_and_nothing_else_does(
    tmp_path: Path, policy: Controller
) -> None:
    delta = Controller(write(tmp_path / "delta.onnx", contract=TARGET))
    for controller, then in ((delta, 3.5), (policy, 11.5)):
        assert [controller.step(GOOD).tolist() for _ in range(2)] == [[10.5], [11.0]]
        controller.sent([3.0])
        assert controller.step(GOOD).tolist() == [then]
    delta.reset()
    assert delta.step(GOOD).tolist() == [10.5]


def test_a_target_goes_on_from_what_the_range_left_of_it(tmp_path: Path) -> None:
    row = CONTRACT["actuators"][0] | {"high": 11.0}
    policy = Controller(write(tmp_path / "delta.onnx", contract=TARGET | {"actuators": [row]}))
    assert [policy.step(GOOD).tolist() for _ in range(4)] == [[10.5], [11.0], [11.0], [11.0]]
    assert policy.step(GOOD | {"angle": [-0.5]}).tolist() == [10.0]  # not 11.5
    assert policy.ctrl_clipped == {"motor": 2}


@pytest.mark.parametrize("wrong", [[1.0, 2.0], [float("nan")], ["a"], 1.0])
def test_what_cannot_have_been_sent_is_refused_and_changes_nothing(tmp_path: Path, wrong: Any) -> None:
    policy = Controller(write(tmp_path / "delta.onnx", contract=TARGET))
    policy.step(GOOD)
    with pytest.raises(ObservationError, match=r"ctrl|sent"):
        policy.sent(wrong)
    assert policy.step(GOOD).tolist() == [11.0]


def test_a_program_that_does_what_the_page_says_computes_the_same(file: Path) -> None:
    """Of docs/deploy.md, for other languages: zeros and true at first, then carry_next and false."""
    policy = Controller(file)
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    carry, reset = np.zeros((1, 3), np.float32), np.array([True])
    for step in range(5):
        if step == 3:
            policy.reset()
            reset = np.array([True])
        obs = {"angle": [0.1 * step], "rate": [1.0, step]}
        feed = {name: np.array([value], np.float32) for name, value in obs.items()}
        ctrl, carry = session.run(["ctrl", "carry_next"], {**feed, "carry": carry, "reset": reset})
        reset = np.array([False])
        assert np.array_equal(np.asarray(ctrl)[0], policy.step(obs))
    page = (ROOT / "docs/deploy.md").read_text()
    assert f"onnxruntime >= {ORT} (opset {OPSET}, IR version {IR}" in page


def test_a_target_at_its_bound_in_float32_is_inside_it(tmp_path: Path):
    """0.9472 is above its float32; a graph clamps in float32, so that is the largest ctrl it gives."""
    rows = [dict(row, low=-0.9472, high=0.9472, default=0.0) for row in CONTRACT["actuators"]]
    controller = Controller(
        write(tmp_path / "at.onnx", contract=CONTRACT | {"actuators": rows}), beyond="refuse"
    )
    assert controller._lowest.dtype == controller._highest.dtype == np.float32
    assert (np.float32(0.9472) <= controller._highest[: len(rows)]).all()


def test_an_exception_of_a_signal_handler_leaves_no_call_inside(tmp_path: Path):
    controller = Controller(write(tmp_path / "stop.onnx"))

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    before, stopped = signal.signal(signal.SIGALRM, stop), 0
    try:
        for n in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + n % 10))
                for _ in range(1000):
                    controller.reset()
            except Stop:
                stopped += 1
            controller.reset()  # raises ConcurrentCall if one is left inside
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert stopped > 100
