"""Imported once, before processes are forked: what they all need, and what takes time.

Modules, and the accountant's figures, which are remembered. No device is used.
"""

from dpdm_jax import data, planning
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import accounting
from experiments.faults import job

_config = job.make_config()
_source = data.load_source(_config.data, "train")
_model = build_model(_config, _source.spec["image"].shape, _source.condition)
_plan = planning.privacy_plan(_config, len(_source), _model)
for _accountant in accounting.ACCOUNTANTS:
    for _steps in range(job.STEPS + 1):
        _plan.epsilon_spent(_steps, _accountant)
