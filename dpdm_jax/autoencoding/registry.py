"""Which codecs read how an autoencoder is trained."""

from dpdm_jax.autoencoding.settings import Settings
from dpdm_jax.networks.codecs.registry import ROOM as CODECS
from dpdm_jax.settings import Group, Kind, Room

TRAINING = Group(Settings.path, Settings)


def _settings(settings: Settings) -> Settings:
    return settings


#: Gives the settings of the training; None for codecs that are not trained.
ROOM = Room(
    CODECS.choice,
    {
        name: Kind(_settings, (TRAINING,)) if kind.groups else Kind(lambda: None)
        for name, kind in CODECS.kinds.items()
    },
)
