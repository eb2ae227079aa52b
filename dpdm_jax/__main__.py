"""``python -m dpdm_jax`` is ``python -m dpdm_jax.main``."""

import runpy

if __name__ == "__main__":
    # As that module, so that --help knows whose flags they are.
    runpy.run_module("dpdm_jax.main", run_name="__main__", alter_sys=True)
