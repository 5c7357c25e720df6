"""The executable."""

from functools import partial

from alam_common.start import start

policy_node = partial(start, "alam_policy.policy_node")
