"""Write tests/interop/foreign/*.onnx with their makers' own exporters, in an environment of their own.

    python -m venv peer && peer/bin/pip install mjlab onnx onnxscript  # 1.6.0, with rsl-rl-lib 5.4.2
    peer/bin/python benchmarks/foreign_policies.py                     # two minutes

The robot is robokit's Go2. rsl_rl's PPO learns for a few iterations in mjlab, on the CPU: weights and
normalizers are no longer the first ones, but the policies do not walk. mjlab writes mlp.onnx with metadata
of 3 decimals; rsl_rl writes lstm.onnx and gru.onnx, each with its weights in a file beside. What they note of
each node, folders of the machine among it, is left out. mlp.npz has what mjlab itself read and sent in 220
control periods with mlp.onnx's policy.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path

import mujoco
import numpy as np
import onnx
import torch
from mjlab.actuator.xml_actuator import XmlActuatorCfg
from mjlab.entity import EntityArticulationInfoCfg, EntityCfg
from mjlab.envs import ManagerBasedRlEnv, ManagerBasedRlEnvCfg, mdp
from mjlab.envs.mdp.actions import JointPositionActionCfg
from mjlab.managers.observation_manager import ObservationGroupCfg, ObservationTermCfg
from mjlab.managers.reward_manager import RewardTermCfg
from mjlab.managers.termination_manager import TerminationTermCfg
from mjlab.rl import RslRlModelCfg, RslRlOnPolicyRunnerCfg, RslRlVecEnvWrapper
from mjlab.rl.exporter_utils import attach_metadata_to_onnx, get_base_metadata
from mjlab.rl.runner import MjlabOnPolicyRunner
from mjlab.scene import SceneCfg
from mjlab.sim import MujocoCfg, SimulationCfg
from mjlab.tasks.velocity.mdp import UniformVelocityCommandCfg
from mjlab.terrains import TerrainEntityCfg
from rsl_rl.runners import OnPolicyRunner

ROOT = Path(__file__).parents[1]
GO2, FOLDER = ROOT / "tasks/robots/go2/go2.xml", ROOT / "tests/interop/foreign"
SCALES = {"hip": 0.12345, "thigh": 0.25, "calf": 0.31416}  # rad; the metadata rounds them


def robot():
    spec = mujoco.MjSpec.from_file(str(GO2))
    for key in list(spec.keys):
        spec.delete(key)
    return spec


def env_cfg():
    sensor = {"func": mdp.builtin_sensor, "params": {"sensor_name": "robot/gyro"}}
    terms = {
        "base_ang_vel": ObservationTermCfg(**sensor, scale=0.25, clip=(-10.0, 10.0)),
        "projected_gravity": ObservationTermCfg(func=mdp.projected_gravity, history_length=2),
        "command": ObservationTermCfg(
            func=mdp.generated_commands, params={"command_name": "twist"}, scale=(2.0, 2.0, 0.25)
        ),
        "joint_pos": ObservationTermCfg(func=mdp.joint_pos_rel, history_length=3),
        "joint_vel": ObservationTermCfg(func=mdp.joint_vel_rel, scale=0.05, clip=(-4.0, 4.0)),
        "actions": ObservationTermCfg(func=mdp.last_action),
    }
    pose = {".*_thigh": 0.9, ".*_calf": -1.8, "[FR]R_hip": -0.12345, "[FR]L_hip": 0.12345}
    entity = EntityCfg(
        spec_fn=robot,
        articulation=EntityArticulationInfoCfg(actuators=(XmlActuatorCfg(target_names_expr=(".*",)),)),
        init_state=EntityCfg.InitialStateCfg(pos=(0.0, 0.0, 0.3), joint_pos=pose, joint_vel={".*": 0.0}),
    )
    ranges = UniformVelocityCommandCfg.Ranges(lin_vel_x=(-1, 1), lin_vel_y=(-0.5, 0.5), ang_vel_z=(-1, 1))
    return ManagerBasedRlEnvCfg(
        scene=SceneCfg(
            terrain=TerrainEntityCfg(terrain_type="plane"), entities={"robot": entity}, num_envs=16
        ),
        observations={
            "actor": ObservationGroupCfg(terms=terms, enable_corruption=False),
            "critic": ObservationGroupCfg(terms=terms, enable_corruption=False),
        },
        actions={
            "joint_pos": JointPositionActionCfg(
                entity_name="robot",
                actuator_names=(".*",),
                scale={f".*_{part}": scale for part, scale in SCALES.items()},
            )
        },
        commands={
            "twist": UniformVelocityCommandCfg(
                entity_name="robot", resampling_time_range=(3.0, 8.0), ranges=ranges, debug_vis=False
            )
        },
        rewards={"still": RewardTermCfg(func=mdp.action_rate_l2, weight=-0.1)},
        terminations={"time_out": TerminationTermCfg(func=mdp.time_out, time_out=True)},
        sim=SimulationCfg(mujoco=MujocoCfg(timestep=0.005)),
        decimation=4,
        seed=0,
        episode_length_s=2.0,
    )


def learned(env, folder, **actor):
    gauss = {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "scalar"}
    small = {"hidden_dims": (32, 16), "activation": "elu", "obs_normalization": True}
    cfg = RslRlOnPolicyRunnerCfg(
        actor=RslRlModelCfg(**small, distribution_cfg=gauss, **actor),
        critic=RslRlModelCfg(**small),
        logger="tensorboard",
        upload_model=False,
    )
    torch.manual_seed(0)
    made = MjlabOnPolicyRunner(env, asdict(cfg), folder, "cpu")
    made.learn(3)
    return made


def plain(path):
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    onnx.save(model, path)


def record(env, made, steps=220):
    """What mjlab itself reads and sends in its first simulation, and where episodes begin: mlp.npz."""
    policy, inner, rows = made.get_inference_policy("cpu"), env.unwrapped, []
    robot, action = inner.scene["robot"], inner.action_manager.get_term("joint_pos")
    (obs, _), first = env.reset(), True
    for _ in range(steps):
        seen = {
            "gyro": inner.scene["robot/gyro"].data,
            "up": -robot.data.projected_gravity_b,
            "velocity": inner.command_manager.get_command("twist"),
            "joint_pos": robot.data.joint_pos,
            "joint_vel": robot.data.joint_vel,
        }
        row = {name: x[0].clone().numpy() for name, x in seen.items()}
        with torch.inference_mode():
            raw = policy(obs)
        targets = (raw * action._scale + action._offset)[0].numpy()
        rows.append({**row, "targets": targets, "first": np.array(first)})
        obs, _, done, _ = env.step(raw)
        first = bool(done[0])
    np.savez_compressed(FOLDER / "mlp.npz", **{n: np.stack([row[n] for row in rows]) for n in rows[0]})


def main():
    torch.set_num_threads(1)
    env = RslRlVecEnvWrapper(ManagerBasedRlEnv(env_cfg(), device="cpu"))
    with tempfile.TemporaryDirectory() as folder:
        made = learned(env, folder)
        made.export_policy_to_onnx(str(FOLDER), "mlp.onnx")
        attach_metadata_to_onnx(str(FOLDER / "mlp.onnx"), get_base_metadata(env.unwrapped, "local"))
        record(env, made)
        assert abs(env.unwrapped.step_dt - 0.02) < 1e-9
        for kind in ("lstm", "gru"):
            rnn = {"class_name": "RNNModel", "rnn_type": kind, "rnn_hidden_dim": 16}
            OnPolicyRunner.export_policy_to_onnx(learned(env, folder, **rnn), str(FOLDER), f"{kind}.onnx")
    for path in FOLDER.glob("*.onnx"):
        plain(path)


if __name__ == "__main__":
    main()
