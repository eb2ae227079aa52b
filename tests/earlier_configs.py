"""Configs as earlier versions stored them."""

import json

from dpdm_jax import config_upgrades, rooms, settings, stored_config


def as_format_1(config) -> dict:
    """What an earlier version would have stored for a config."""
    values = stored_config.to_values(config)
    del values["format"]
    read = settings.names_read(rooms.ROOMS, config)
    found = {
        old: settings.lookup(values, next((n for n in news if n in read), news[0]))
        for old, news in config_upgrades.MOVED.items()
        if news
    }
    for preset in values["sampler_presets"].values():
        for group in [v for v in preset.values() if isinstance(v, dict)]:
            preset |= group
        for field in [n for n, v in preset.items() if isinstance(v, dict)]:
            del preset[field]
    for news in config_upgrades.MOVED.values():
        for room, group, _ in (name.split(".") for name in news):
            values[room].pop(group, None)
    for old, value in found.items():
        room, field = old.split(".")
        values[room][field] = value
    values["evaluate"]["classifiers"] = ["cnn"]
    return json.loads(json.dumps(values))
