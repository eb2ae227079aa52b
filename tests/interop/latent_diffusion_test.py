"""Files as others write them, of random weights under the official names."""

import json
import pickle
import zipfile

import jax
import numpy as np
import pytest
import safetensors.numpy
from official_files import DIFFUSERS, diffusers, officially, write_diffusers
from random_params import random_like

from dpdm_jax.conditions import Labels, Tokens
from dpdm_jax.errors import InputError
from dpdm_jax.interop import (
    autoencoder_names,
    latent_diffusion,
    name_maps,
    torch_checkpoints,
)
from dpdm_jax.interop.convert import convert
from dpdm_jax.networks import latent_unet, text_transformer
from dpdm_jax.networks.codecs import KEPT, kl, vq

SHAPE = (8, 8, 3)
FIELDS = {
    "base_channels": 32,
    "channel_multipliers": (1, 2, 1),
    "num_res_blocks": 1,
    "attention_factors": (2,),
    "inner_channels": 2,
    "latent_channels": 4,
    "scale_factor": 0.25,
}
KL = kl.KLCodec(kl.Settings(**FIELDS), SHAPE)
VQ = vq.VQCodec(vq.Settings(**FIELDS, num_codes=6), SHAPE)
TEXT = text_transformer.Settings(depth=1, num_heads=2, head_channels=4, positions=3)


def params_of(codec):
    return random_like(jax.eval_shape(codec.init, jax.random.key(0)))


def compvis(params):
    return officially(params[KEPT], autoencoder_names.compvis_names(params[KEPT]))


def write_torch(path, tensors, **beside):
    torch = pytest.importorskip("torch")
    state = {name: torch.tensor(value) for name, value in tensors.items()}
    torch.save({"state_dict": state, **beside} if beside else state, path)


def folder_of(tmp_path, tensors, **changes):
    return write_diffusers(tmp_path / "vae", tensors, 0.25, **changes)


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


class Callback:
    """Of a training framework that is not installed."""

    def __init__(self, touched):
        self.touched = touched

    def __reduce__(self):
        return open, (self.touched, "w"), {"best": 0.5}, iter([1]), iter([("a", 2)])


@pytest.mark.parametrize("codec", [KL, VQ], ids=["kl", "vq"])
def test_an_autoencoder_of_a_checkpoint_is_read(codec, tmp_path):
    params = params_of(codec)
    path = tmp_path / "model.ckpt"
    beside = {"loss.logvar": np.zeros(()), "model_ema.decay": np.ones(())}
    write_torch(path, compvis(params) | beside, epoch=3)
    assert_equal(latent_diffusion.read_autoencoder(path, codec), params)


def test_a_whole_model_has_network_and_autoencoder(tmp_path):
    settings = latent_unet.Settings(
        base_channels=32,
        channel_multipliers=(1,),
        num_res_blocks=1,
        attention_factors=(),
        context_width=6,
    )
    condition = Tokens(length=3, vocabulary=5)
    network = latent_unet.build(settings, TEXT, (2, 2, 4), condition)
    params = random_like(network.shapes)
    of_network = officially(params, name_maps.official_names(params))
    of_codec = params_of(KL)
    condition = "cond_stage_model."
    tensors = {
        name if name.startswith(condition) else f"model.diffusion_model.{name}": value
        for name, value in of_network.items()
    }
    tensors |= {
        f"first_stage_model.{name}": value for name, value in compvis(of_codec).items()
    }
    tensors |= {
        "betas": np.ones(3),
        "scale_factor": np.float32(0.25),
        "cond_stage_model.transformer.to_logits.weight": np.ones((5, 6)),
        "model_ema.diffusion_modelout0weight": np.ones(2),
    }
    path = tmp_path / "model.ckpt"
    touched = tmp_path / "touched"
    write_torch(path, tensors, callbacks={"one": Callback(str(touched))})
    found = torch_checkpoints.read_state_dict(path)
    assert_equal(convert(latent_diffusion.network_tensors(found), network), params)
    assert_equal(latent_diffusion.read_autoencoder(path, KL), of_codec)
    assert not touched.exists()


def test_a_folder_of_diffusers_is_read(tmp_path):
    params = params_of(KL)
    tensors = diffusers(params)
    expected = {
        "encoder.down_blocks.1.resnets.0.conv_shortcut.weight": (64, 32, 1, 1),
        "encoder.down_blocks.1.downsamplers.0.conv.bias": (64,),
        "encoder.mid_block.attentions.0.to_out.0.weight": (32, 32),
        "decoder.up_blocks.1.attentions.0.group_norm.weight": (64,),
        # The coarsest level is the first one there.
        "decoder.up_blocks.1.resnets.0.conv1.weight": (64, 32, 3, 3),
        "decoder.up_blocks.0.upsamplers.0.conv.weight": (32, 32, 3, 3),
        "decoder.conv_norm_out.bias": (32,),
        "post_quant_conv.weight": (2, 4, 1, 1),
    }
    assert {name: tensors[name].shape for name in expected} == expected
    folder = folder_of(tmp_path, tensors)
    assert_equal(latent_diffusion.read_autoencoder(folder, KL), params)


def test_earlier_names_of_diffusers_are_read(tmp_path):
    params = params_of(KL)
    earlier = {
        name.replace("to_out.0", "proj_attn")
        .replace("to_q", "query")
        .replace("to_k", "key")
        .replace("to_v", "value"): value
        for name, value in diffusers(params).items()
    }
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in earlier
    folder = folder_of(tmp_path, earlier)
    assert_equal(latent_diffusion.read_autoencoder(folder, KL), params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "VQModel"}, "_class_name 'VQModel'; allowed: 'AutoencoderKL'"),
        ({"norm_num_groups": 16}, "norm_num_groups 16; allowed: 32"),
        ({"act_fn": "relu"}, "act_fn 'relu'; allowed: 'silu'"),
        (
            {"scaling_factor": 0.18215},
            "scaling_factor 0.18215; allowed with codec.kl.scale_factor=0.25: the same",
        ),
        ({"shift_factor": 0.1}, "shift_factor 0.1; allowed: none"),
    ],
)
def test_a_folder_of_another_autoencoder_is_refused(tmp_path, changes, message):
    folder = folder_of(tmp_path, {}, **changes)
    with pytest.raises(InputError, match=message):
        latent_diffusion.read_autoencoder(folder, KL)


def test_a_folder_without_what_is_needed_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"config.json cannot be read .* allowed: the"):
        latent_diffusion.read_autoencoder(tmp_path, KL)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="has _class_name None; allowed: 'Autoenc"):
        latent_diffusion.read_autoencoder(tmp_path, KL)
    (tmp_path / "config.json").write_text(
        json.dumps(DIFFUSERS | {"scaling_factor": 0.25})
    )
    with pytest.raises(InputError, match="has no weights; allowed: a folder with diff"):
        latent_diffusion.read_autoencoder(tmp_path, KL)


def test_misfits_are_listed_in_one_sentence(tmp_path):
    tensors = compvis(params_of(KL))
    del tensors["quant_conv.bias"]
    tensors["encoder.conv_in.weight"] = np.zeros((32, 1, 3, 3), np.float32)
    tensors["quantize.embedding.weight"] = np.zeros((6, 4), np.float32)
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(InputError) as error:
        latent_diffusion.read_autoencoder(path, KL)
    assert str(error.value) == (
        "The tensors are not those of the configured codec: 1 missing: "
        "quant_conv.bias; 1 unexpected: quantize.embedding.weight; 1 misshapen: "
        "encoder.conv_in.weight (32, 1, 3, 3) instead of (32, 3, 3, 3); "
        "allowed: each of its tensors, and no other."
    )


def test_another_scale_in_a_checkpoint_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"scale_factor": np.array(0.5, np.float32)}, path)
    with pytest.raises(InputError, match=r"scale_factor 0\.5; allowed with codec\.kl"):
        latent_diffusion.read_autoencoder(path, KL)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.safetensors", b"nothing", "safetensors can't read it"),
        ("a.ckpt", b"nothing", "PyTorch can't read it|more than tensors"),
        ("a.ckpt", pickle.dumps({"state_dict": {"a": 1}}), "no file of weights"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, message):
    pytest.importorskip("torch")
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        torch_checkpoints.read_state_dict(path)


def test_a_program_is_refused(tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/constants.pkl", b"")
    with pytest.raises(InputError, match="it holds a program"):
        torch_checkpoints.read_state_dict(path)


def test_classes_of_a_checkpoint_are_rows_of_the_table():
    settings = latent_unet.Settings(
        base_channels=32, channel_multipliers=(1,), attention_factors=(), num_heads=4
    )
    network = latent_unet.build(settings, TEXT, (2, 2, 3), Labels(4))
    shapes = network.shapes
    names = name_maps.official_names(shapes)
    assert names["cond_stage_model.embedding.weight"].official_shape == (4, 512)
    alone = name_maps.condition_names(shapes["context"])
    assert alone["embedding.weight"].path == ("label", "embedding")
