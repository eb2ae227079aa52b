import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax.networks.codecs import KEPT, vq

SETTINGS = vq.Settings(
    base_channels=32, num_res_blocks=1, attention_factors=(), num_codes=50
)
CODEC = vq.VQCodec(SETTINGS, (4, 4, 3))


def test_latents_become_their_nearest_rows_in_front_of_the_decoder_alone():
    params = CODEC.init(jax.random.key(0))
    table = jax.random.normal(jax.random.key(1), (50, 3))
    params[KEPT]["codes"]["embedding"] = table
    z = jax.random.normal(jax.random.key(2), (3, 2, 2, 3))
    distances = np.linalg.norm(z[..., None, :] - table, axis=-1)
    nearest = np.argmin(distances, axis=-1)
    module = CODEC.bind(params)
    np.testing.assert_array_equal(module.indices(z), nearest)
    rows = table[nearest]
    np.testing.assert_array_equal(module.quantized(z), rows)
    decode = jax.jit(CODEC.decode)
    np.testing.assert_allclose(decode(params, z), decode(params, rows), atol=1e-6)
    # What the diffusion is trained on is no row.
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    latent = CODEC.encode(params, image, jax.random.key(3))
    assert np.abs(latent - module.quantized(latent[None])[0]).min() > 1e-4


def test_a_table_starts_within_one_over_its_rows():
    table = CODEC.init(jax.random.key(0))[KEPT]["codes"]["embedding"]
    assert 0.9 / 50 < np.abs(table).max() <= 1 / 50


def test_codebook_loss_moves_latents_four_times_as_much_as_rows():
    latents, rows = jnp.full((1, 1, 1, 2), 3.0), jnp.full((1, 1, 1, 2), 1.0)
    value, (of_latents, of_rows) = jax.value_and_grad(vq.codebook_loss, (0, 1))(
        latents, rows
    )
    assert value == 1.25 * 4
    np.testing.assert_allclose(of_latents, 2.0)
    np.testing.assert_allclose(of_rows, -0.5)


def test_gradients_pass_by_the_rows_and_the_table_has_the_codebooks_alone():
    params = CODEC.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    noise = np.zeros((2, 2, 2, 3), np.float32)

    def of(part):
        return jax.grad(lambda p: jnp.sum(part(CODEC.reconstruct(p, images, noise))))

    by_images, by_penalty = (
        jax.jit(of(part))(params)[KEPT]
        for part in (lambda r: r.images, lambda r: r.penalty)
    )
    assert np.any(by_images["to_latent"]["kernel"])
    assert not np.any(by_images["codes"]["embedding"])
    assert np.any(by_penalty["codes"]["embedding"])
    assert not np.any(by_penalty["decoder"]["stem"]["kernel"])


def test_latents_are_rescaled_by_the_weights():
    params = CODEC.init(jax.random.key(0))
    larger = CODEC.rescaled(params, 4.0)
    images = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    small, large = (CODEC.bind(p).encode(images) for p in (params, larger))
    np.testing.assert_allclose(large, 4.0 * small, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        CODEC.decode(larger, 4.0 * small),
        CODEC.decode(params, small),
        rtol=1e-4,
        atol=1e-6,
    )
