"""DINOv2 against an independent network of PyTorch's own layers, by random weights."""

import numpy as np
import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import dinov2

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

WIDTH, DEPTH, SIDE = 128, 2, 5


class Block(nn.Module):
    """With the published names; attention is PyTorch's own."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(2))
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)}
        )
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(WIDTH, 4 * WIDTH), "fc2": nn.Linear(4 * WIDTH, WIDTH)}
        )
        for name in ("ls1", "ls2"):
            scale = nn.Module()
            scale.gamma = nn.Parameter(torch.randn(WIDTH))
            self.add_module(name, scale)

    def forward(self, x):
        y = self.norm1(x)
        qkv, proj = self.attn["qkv"], self.attn["proj"]
        y, _ = nn.functional.multi_head_attention_forward(
            *(y.transpose(0, 1),) * 3,
            WIDTH,
            WIDTH // 64,
            qkv.weight,
            qkv.bias,
            None,
            None,
            False,
            0.0,
            proj.weight,
            proj.bias,
        )
        x = x + self.ls1.gamma * y.transpose(0, 1)
        y = self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(x))))
        return x + self.ls2.gamma * y


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.mask_token = nn.Parameter(torch.randn(1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + SIDE**2, WIDTH))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, WIDTH, 14, 14)})
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, x):
        x = self.patch_embed["proj"](x)
        grid = x.shape[-1]
        positions = self.pos_embed[:, 1:].reshape(1, SIDE, SIDE, WIDTH)
        if grid != SIDE:
            positions = nn.functional.interpolate(
                positions.permute(0, 3, 1, 2),
                mode="bicubic",
                scale_factor=((grid + 0.1) / SIDE,) * 2,
            ).permute(0, 2, 3, 1)
        x = x.flatten(2).transpose(1, 2) + positions.reshape(1, grid**2, WIDTH)
        token = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), 1, WIDTH)
        x = torch.cat([token, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def state(network):
    return {name: value.numpy() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("grid", [3, 5])
def test_features_are_pytorchs(network, state, grid):
    """Also where positions are resized to another grid."""
    found = dinov2.from_state_dict(state)
    assert (found.num_features, found.num_heads) == (WIDTH, WIDTH // 64)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 14 * grid, 14 * grid, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    made = dinov2.encode(found.params, found.num_heads, x)
    np.testing.assert_allclose(made, expected, atol=2e-4)


def test_files_of_both_kinds_are_read(state, tmp_path):
    import safetensors.numpy

    torch.save({k: torch.from_numpy(v) for k, v in state.items()}, tmp_path / "w.pth")
    safetensors.numpy.save_file(state, tmp_path / "w.safetensors")
    expected = dinov2.from_state_dict(state).params
    for name in ("w.pth", "w.safetensors"):
        found = dinov2.load(tmp_path / name).params
        assert found.keys() == expected.keys()
        for key in expected:
            np.testing.assert_array_equal(found[key], expected[key])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.bias"), "norm.bias not at all"),
        (lambda s: s.update(register_tokens=s["cls_token"]), "no such name"),
        (lambda s: s.update({"norm.bias": s["cls_token"]}), "norm.bias .1, 1, 128."),
        (lambda s: s.pop("cls_token"), "holds no weights of DINOv2"),
        (lambda s: s.pop("blocks.1.ls1.gamma"), "blocks.1.ls1.gamma not at all"),
    ],
)
def test_other_weights_are_refused(state, change, message):
    changed = dict(state)
    change(changed)
    with pytest.raises(InputError, match=rf"{message}.*; allowed|{message}"):
        dinov2.from_state_dict(changed)
