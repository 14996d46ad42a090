"""--init-from on the command line: of a run and of a file, what is written of it, and what is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from slide import OWN, write

from robokit.cli.command import main
from robokit.export.file import Exported
from robokit.training.run import Run
from robokit.training.setup.init_from import open_parent

SMALL = ["--num-envs", "2", "--horizon", "16", "--minibatch", "16", "--epochs", "1", "--hidden", "4"]
SMALL += ["--threads", "1"]
RUN = "runs/slide/latest"
MORE = OWN.replace('{"slide": sim.qpos}', '{"speed": sim.qvel, "slide": sim.qpos}')


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test in an empty folder with a task."""
    monkeypatch.chdir(tmp_path)
    write(Path("tasks"))
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and exported run."""
    root = tmp_path_factory.mktemp("parent")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write(Path("tasks"))
        assert main(["train", "slide", *SMALL]) == 0
    return (root / RUN).resolve()


def wrong(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    capsys.readouterr()
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


@pytest.mark.medium
def test_run_file_config_contract_and_card_name_the_same_parent(
    trained: Path, capsys: pytest.CaptureFixture[str]
):
    weights = trained / "policy.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert Exported.open(trained / "policy.onnx").contract["hashes"]["weights"] == digest
    Path("tasks/slide.py").write_text(MORE)
    assert main(["train", "slide", *SMALL, "--init-from", str(trained)]) == 0
    said = capsys.readouterr().err
    assert f"from slide/{trained.name}, step 32: the first policy is the parent's\n" in said
    assert "  new observation 'speed' (1): weight zero at first\n" in said
    parent = {"name": f"slide/{trained.name}", "sha256": digest, "steps": 32}
    assert Run.open(RUN).config["parent"] == parent
    contract = Exported.open(f"{RUN}/policy.onnx").contract
    assert contract["parent"] == parent
    assert json.loads(Path(RUN, "policy.json").read_bytes())["parent"] == parent
    assert contract["hashes"]["weights"] != digest
    file = open_parent(f"{RUN}/policy.onnx")
    name = f"{Path(RUN).resolve().name}/policy.onnx"
    assert file.facts == {"name": name, "sha256": contract["hashes"]["weights"], "steps": 32}
    assert file.facts["sha256"] == open_parent(RUN).facts["sha256"]


@pytest.mark.medium
def test_check_lists_what_would_carry_over_and_trains_nothing(
    trained: Path, capsys: pytest.CaptureFixture[str]
):
    Path("tasks/slide.py").write_text(MORE.replace('"ppo": {', '"ppo": {"hidden": (4,), '))
    assert main(["check", "slide", "--init-from", str(trained)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"from slide/{trained.name}, step 32: the first policy is the parent's",
        "  new observation 'speed' (1): weight zero at first",
        "  critics go on; inputs new, with weight zero: speed",
        "  anew: optimiser, random numbers, multipliers of other limits",
    ]
    assert main(["check", "slide", "--init-from", str(trained / "policy.onnx"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["same"], found["critics"], found["parent"]["steps"]) == (True, False, 32)
    assert not Path("runs").exists()
    Path("policies").mkdir()
    for suffix in (".onnx", ".onnx.sha256", ".safetensors"):
        shutil.copy(trained / f"policy{suffix}", f"policies/glide{suffix}")
    assert main(["check", "slide", "--init-from", "glide", "--algo", "sac"]) == 0  # a name, and other sizes
    needs = "  train needs the parent's network: --hidden 4 --activation tanh --normalize-obs"
    assert capsys.readouterr().out.splitlines()[-2] == needs


@pytest.mark.medium
def test_what_cannot_be_started_from_is_refused_before_a_folder_is_made(
    trained: Path, capsys: pytest.CaptureFixture[str]
):
    begin = ["train", "slide", *SMALL, "--init-from"]
    shutil.copytree(trained, "old")
    Path("old/policy.safetensors").unlink()
    assert "there is no old/policy.safetensors: export its run again" in wrong(
        [*begin, "old/policy.onnx"], capsys
    )
    Path("old/policy.safetensors").write_bytes(b"x")
    assert "old/policy.safetensors has sha256" in wrong([*begin, "old/policy.onnx"], capsys)
    assert "is no run" in wrong([*begin, "nowhere"], capsys)
    assert not Path("runs").exists()


def test_init_from_and_resume_exclude_each_other(capsys: pytest.CaptureFixture[str]):
    for arguments in (["--resume", "a", "--init-from", "b"], ["slide", "--init-from", "b", "--resume", "a"]):
        assert "give one of the two" in wrong(["train", *arguments], capsys)
