"""What an export says of the rewards that a model gives."""

import json
from types import SimpleNamespace

from callbacks.export import ExportModel


def test_an_export_knows_mean_and_spread_of_every_reward_across_a_resume(build, tmp_path):
    model = build(reward_names=("motion", "look"))
    metrics = {"val/reward_mean/motion": 1.0, "val/reward_std/motion": 2.0}
    metrics |= {"val/reward_mean/look": 3.0, "val/reward_std/look": 4.0}
    strategy = SimpleNamespace(barrier=lambda _: None)
    trainer = SimpleNamespace(callback_metrics=metrics, is_global_zero=True, log_dir=None, strategy=strategy)
    trainer.sanity_checking = False
    module = SimpleNamespace(full_model=lambda: model, model=model)
    before = ExportModel()
    before.on_validation_end(trainer, module)
    after = ExportModel(folder=str(tmp_path))
    after.load_state_dict(before.state_dict())
    after.on_train_end(trainer, module)
    assert json.loads((tmp_path / "last/descore.json").read_text())["calibration"] == {"mean": [1, 3], "std": [2, 4]}
