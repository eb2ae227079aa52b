"""Every field of a config, with its default, unit and meaning.

An experiment's file calls ``get_config`` and overrides a few fields. On the command
line ``--config.train.batch_size=2048`` overrides any of them. The defaults are DPDM's
training setup (arXiv 2210.09929).
"""

from collections.abc import Collection

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config."""
    config = ml_collections.ConfigDict()

    # Names the default run directory, runs/<name>.
    config.name = "base"
    # Seeds what needs no secrecy: initial weights and samples. All that a private run
    # draws for its steps comes from the operating system's entropy.
    config.seed = 0

    config.data = data = ml_collections.ConfigDict()
    # digits | tfds (extra tfds) | idx | image_folder | npz | glyphs
    data.source = "tfds"
    data.path = ""  # folder or file; for tfds its data_dir, "" for the usual one
    data.name = ""  # TFDS builder
    # Names public data, such as "ImageNet 32x32", for ordinary training: no noise, no
    # clipping, no guarantee, and a statement that says so. "" for data to be protected.
    data.public = ""
    data.train_split = "train"  # TFDS split, or the first part of file names
    data.test_split = "test"
    # Size of the training split; public. 0 takes it from the data.
    data.num_examples = 0
    data.image_size = 0  # side in pixels; 0 as stored
    data.channels = 0  # 1 or 3; 0 as stored
    data.num_classes = -1  # -1 from the data, 0 unlabelled
    data.crop = "none"  # none | center_square | celeba
    data.resize = "lanczos"  # lanczos | bicubic | bilinear | box

    # glyphs: public images, rendered from the fonts in data.path ("" for matplotlib's)
    # with data.image_size pixels to a side (0 for 28). Lengths are in twentieths of the
    # character's longer side: pixels of MNIST.
    data.glyphs = glyphs = ml_collections.ConfigDict()
    glyphs.characters = "0123456789"  # labels are places in this text
    glyphs.images_per_character = 6000  # in each split
    glyphs.seed = 0
    # mnist: 20 pixels in 28, centre of mass in the middle | full: as scikit-learn's
    # digits, to the edges. Both keep height in proportion to width.
    glyphs.frame = "mnist"
    glyphs.rotation = 10.0  # degrees at most, either way
    glyphs.shear = 0.3  # tangent of the slant at most, either way
    # Smallest and largest factor of width and of height, drawn for each. What they have
    # in common, the frame undoes.
    glyphs.scale = (0.8, 1.2)
    # Thinnest and thickest mean width of strokes. What the font draws is made thinner,
    # by half at most, or thicker. (0, 0) leaves it.
    glyphs.stroke = (1.5, 4.0)
    glyphs.elastic_amplitude = 1.2  # standard deviation of what pixels move by; 0 none
    glyphs.elastic_smoothness = 4.0  # standard deviation of the Gaussian smoothing it

    config.network = network = ml_collections.ConfigDict()
    network.name = "ncsnpp"  # ncsnpp (DDPM++) | mlp | mixer | transformer | adm
    network.base_width = 32  # channels at full resolution
    network.channel_multipliers = (1, 2, 2)  # one entry per resolution
    network.num_res_blocks = 2  # per resolution on the way down, one more on the way up
    network.attention_resolutions = (7,)  # feature widths that get attention
    network.hidden_width = 128  # mlp: of a layer; mixer, transformer: of a pixel
    network.num_blocks = 2  # mlp, mixer, transformer: residual blocks
    # mlp, mixer, transformer: factor of the embeddings of noise level and label. All
    # weights get the same noise; above 1 these, of small gradients, gain against it.
    network.condition_gain = 1.0
    network.num_heads = 4  # transformer
    # Side of the squares of pixels that the network sees as one pixel with more
    # channels; divides the image's sides. Widths and resolutions are counted in those.
    network.patch_size = 1
    # Adds an MLP of one block on so many of the lowest frequencies along each side.
    network.low_frequencies = 0
    network.low_frequency_width = 128  # of that MLP's hidden layers
    network.dtype = "float32"  # of the computation; parameters are always float32
    # adm: the U-Net of guided-diffusion; of the fields above it reads only patch_size,
    # low_frequencies (with its width and base_width) and dtype. The defaults are those
    # of arXiv 2302.13861 for CIFAR-10, 80 million parameters.
    network.adm = adm = ml_collections.ConfigDict()
    adm.base_channels = 192  # channels at full resolution, a multiple of 32
    adm.channel_multipliers = (1, 2, 2, 2)  # one entry per resolution
    adm.num_res_blocks = 2  # per resolution on the way down, one more on the way up
    # How many times smaller than the image (1, 2, 4, ...) features with attention are.
    adm.attention_factors = (2,)
    adm.head_channels = 64  # of an attention head; 0 for num_heads heads everywhere
    adm.num_heads = 4  # where head_channels is 0
    adm.new_attention_order = False  # guided-diffusion's second order of projections
    adm.scale_shift = False  # step and label scale and shift features, not just add
    adm.resample_in_blocks = False  # residual blocks, not convolutions, resample
    adm.remat = False  # compute blocks anew in the backward pass: memory for time

    config.diffusion = diffusion = ml_collections.ConfigDict()
    # edm | v | ve | vp | edm_dct (of frequencies) | edm_moments (of those measured by
    # privacy.moments_noise_multiplier) | ddpm
    diffusion.parameterization = "edm"
    # log_normal | cosine | log_uniform | vp_time | time_mixture
    diffusion.noise_levels = "log_normal"
    # Assumed standard deviation of the data, that of U[-1, 1]; never measured.
    diffusion.sigma_data = 3**-0.5
    # edm_dct, edm_moments: assumed mean of pixels, never measured; half cycles across
    # the image, where the assumed spectrum falls.
    diffusion.mean_data = 0.0
    diffusion.corner = 5.0
    # edm_moments: images that are further from the assumed mean than so many assumed
    # standard deviations (root mean square of frequencies) count as if they were not.
    diffusion.moments_clip = 2.0
    # edm_moments: so many principal components of each class are measured, too, by a
    # third query.
    diffusion.moments_components = 0
    diffusion.p_mean = -1.2  # log_normal: mean of ln sigma
    diffusion.p_std = 1.2  # log_normal: standard deviation of ln sigma
    diffusion.min_log_snr = -9.0  # cosine: ln(1 / sigma^2) at the largest noise
    diffusion.max_log_snr = 13.0  # cosine: at the smallest noise
    diffusion.sigma_min = 0.02  # log_uniform
    diffusion.sigma_max = 100.0  # log_uniform
    diffusion.beta_min = 0.1  # vp
    diffusion.beta_d = 19.9  # vp
    diffusion.eps_t = 1e-5  # vp: smallest time drawn
    diffusion.num_timesteps = 1000.0  # vp: scale of the time that the network sees
    # DDPM's discrete steps: what the network of parameterization "ddpm" is told, what
    # noise levels "time_mixture" draw, and what sampler grids "ddpm" and "ldm" visit.
    diffusion.ddpm = ddpm = ml_collections.ConfigDict()
    # linear (in beta) | cosine | ldm (latent diffusion's, linear in the root of beta)
    ddpm.schedule = "linear"
    ddpm.num_steps = 1000  # T
    ddpm.beta_first = 1e-4  # linear, ldm (whose papers have 0.0015 or 0.00085)
    ddpm.beta_last = 0.02  # linear, ldm (whose papers have 0.0155, 0.0195 or 0.012)
    # time_mixture: steps where intervals end and the next begin, and the probability of
    # each interval; all steps alike by default. arXiv 2302.13861 has (30, 600) with
    # (0.015, 0.785, 0.2) for CIFAR-10, (200, 800) with (0.05, 0.9, 0.05) for MNIST.
    ddpm.intervals = ()
    ddpm.weights = (1.0,)
    diffusion.noise_multiplicity = 32  # K, draws per example and step
    # How an example is seen in its draws (augmentation multiplicity); averaged with
    # them before the one clip.
    diffusion.views = views = ml_collections.ConfigDict()
    views.crop = 0  # padded by so many reflected pixels and cropped; 0 for no crops
    views.flip = False  # left and right exchanged half the time; never for digits
    views.count = 0  # V views of K / V draws each; 0 for a view a draw
    # Draws that the network sees together, a divisor of K; 0 for all. Less takes less
    # memory, and a third forward pass.
    diffusion.draws_at_once = 0
    diffusion.stratified = False  # spread an example's K noise levels evenly
    diffusion.label_dropout = 0.1  # probability that an example trains without label

    # Weights to begin with: a run directory, a release, or a file (.pt) of
    # guided-diffusion.
    config.initial = initial = ml_collections.ConfigDict()
    initial.weights = ""  # "" for random ones
    initial.public = ""  # of a file: names the public data that it was trained on
    initial.label_table = "reuse"  # reuse | random | zero, where the classes are others
    # Weights that were trained privately were so on data of other people: no one is in
    # both data sets, whose guarantees then stand side by side.
    initial.other_data = False

    config.privacy = privacy = ml_collections.ConfigDict()
    privacy.epsilon = 10.0  # the budget; inf trains without privacy
    privacy.delta = 1e-5  # below 1 / data.num_examples
    privacy.l2_clip_norm = 1.0  # C, bound on one example's contribution to a step
    privacy.accountant = "pld"  # pld | rdp (looser; the papers')
    # Noise standard deviation over C; unset calibrates it to the budget.
    privacy.noise_multiplier = config_dict.placeholder(float)
    # edm_moments: of each of two queries of all images (three with components), noise
    # standard deviation over what one image contributes at most. The steps get what
    # they leave of the budget.
    privacy.moments_noise_multiplier = config_dict.placeholder(float)
    # Replaces the secret keys by this seed, for tests: the run is then NOT PRIVATE.
    privacy.fixed_keys_seed = config_dict.placeholder(int)

    # --mode=extend: further steps of a run, within a new budget for the whole of it. It
    # changes the plan in the run's ledger; --mode=train then goes on with the config
    # that the run was begun with.
    config.extend = extend = ml_collections.ConfigDict()
    extend.epsilon = 0.0  # of all steps composed, those before included
    extend.num_steps = 0  # to add
    # Of the steps added; unset calibrates it to the budget.
    extend.noise_multiplier = config_dict.placeholder(float)

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 4096  # nominal B; examples are sampled at rate 1 / ceil(N / B)
    train.epochs = 300  # steps are epochs * ceil(N / B)
    train.num_steps = 0  # the number of steps itself; 0 follows epochs
    # Examples in one call of the gradient over all devices; logical batches are cut
    # into these. Speed and memory only.
    train.microbatch_size = 64
    train.engine = "auto"  # per-example gradients: auto | vmap | scan | book_keeping
    # Examples that the engine works on at once on one device; 0 for all of a call,
    # or for what "auto" chooses.
    train.engine_microbatch_size = 0
    train.optimizer = "adam"
    train.learning_rate = 3e-4
    # constant | cosine | linear (to 5 % at the last step; an extension stays there)
    train.schedule = "constant"
    train.warmup_steps = 0  # steps of linear warm-up
    train.b1 = 0.9
    train.b2 = 0.999
    train.adam_eps = 1e-8
    train.ema_decay = 0.999  # at step n at most (1 + n) / (10 + n)
    # Stop this process after so many steps of the plan; 0 runs all. Not a new plan.
    train.stop_after_steps = 0

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_steps = 100
    # Newest checkpoints kept. With 2 or more a run goes on without a damaged one.
    checkpoint.keep = 2

    config.log = log = ml_collections.ConfigDict()
    log.every_steps = 10  # a line in metrics.jsonl
    log.snapshot_every_steps = 250  # a picture of samples; 0 for none
    log.snapshot_per_class = 8  # images per class in the picture
    log.tensorboard = True  # events too, where TensorBoard is installed

    # The papers' training-time sampler: deterministic DDIM.
    config.sampler = sampler = ml_collections.ConfigDict()
    sampler.preset = ""  # a name in config.sampler_presets, which then overrides
    sampler.name = "ddim"  # ddim | heun | ancestral (DDPM's) | ddim_eta
    sampler.stochastic = False  # ddim: reverse SDE rather than probability-flow ODE
    sampler.num_steps = 50  # grid points; grid ddpm counts its own
    # edm | log_uniform | cosine | ddpm (steps of diffusion.ddpm) | ldm (those of latent
    # diffusion's DDIM: every so many, from step 1 on)
    sampler.grid = "edm"
    sampler.sigma_min = 0.002
    sampler.sigma_max = 80.0
    sampler.rho = 7.0  # edm grid
    sampler.s_churn = 0.0  # heun
    sampler.s_min = 0.0  # heun: churn between these noise levels
    sampler.s_max = float("inf")
    sampler.s_noise = 1.0  # heun
    sampler.churn_limit = 1.0  # heun: cap of s_churn / num_steps
    # ancestral, ddim_eta: clip predicted clean images to [-1, 1]; not for latents.
    sampler.clip_denoised = True
    sampler.ancestral = ml_collections.ConfigDict()
    # Variance of a step's noise: fixed_large (beta) | fixed_small (the posterior's)
    sampler.ancestral.variance = "fixed_large"
    sampler.ddim_eta = ml_collections.ConfigDict()
    sampler.ddim_eta.eta = 0.0  # share of DDPM's noise: 0 deterministic, 1 all of it
    sampler.ddpm = ml_collections.ConfigDict()
    # grid ddpm: which steps. "" all | "N" with fractional strides from the first to the
    # last | "ddimN" with a whole stride from the first on.
    sampler.ddpm.respacing = ""
    sampler.guidance = 0.0  # classifier-free guidance w >= 0

    config.sampler_presets = ml_collections.ConfigDict(
        {
            "ddim": {"name": "ddim", "stochastic": False, "num_steps": 50},
            "ddim_stochastic": {"name": "ddim", "stochastic": True, "num_steps": 50},
        }
    )

    config.sample = sample = ml_collections.ConfigDict()
    sample.num_images = 1000
    sample.batch_size = 100  # images per call; does not change them
    # uniform (random classes), balanced (0, 1, 2, ... in turn), one class as "3", or
    # the labels of a .npy file, one per image.
    sample.labels = "uniform"
    sample.weights = "ema"  # ema | raw
    sample.step = -1  # which checkpoint; -1 the newest
    sample.rounding = "truncate"  # to uint8: truncate (as the papers) | nearest
    sample.png = False  # also one PNG file an image
    sample.name = "samples"  # sub-folder of <workdir>/samples
    sample.seed = 0

    # --mode=release: what of a run is published, in <workdir>/release.
    config.release = release = ml_collections.ConfigDict()
    release.step = -1  # which checkpoint; -1 the newest. Its averaged weights
    release.dtype = (
        "float32"  # of the stored weights: float32 | float16 (half the size)
    )
    release.samples = ""  # sub-folder of samples/ to publish too, made with the weights
    # Publish evaluation/*.json too: measured on private images, outside the guarantee.
    release.metrics = False
    release.allow_not_private = False  # release a run that gives no guarantee
    # Tuning: run directories, comma-separated, of all other runs that were looked at on
    # the same data; they are composed.
    release.tuning_runs = ""
    # Tuning: the run is the best of a random, secret number of runs, so many expected
    # (dpdm_jax/privacy/tuning.py says what that asks for); 0 if not.
    release.selection_mean = 0.0
    release.selection_shape = 1.0  # of that number: inf Poisson, 1 geometric, >= 0
    # The file of a private key to sign with (python -m dpdm_jax.release make-key FILE).
    release.signing_key = ""
    # A release to sample from; configs/released.py sets it.
    release.bundle = ""

    config.evaluate = evaluate = ml_collections.ConfigDict()
    # fid, kid, precision, recall, density, coverage on Inception's features, whose
    # weights are downloaded once; the same with _lenet on a small network trained on
    # the spot; logreg, mlp, cnn, wrn: accuracy of classifiers; memorisation.
    evaluate.metrics = ("fid_lenet", "mlp")
    evaluate.inception_weights = ""  # pytorch-fid's file, in place of the download
    evaluate.lenet_steps = 1000  # training steps of that small network
    evaluate.neighbour_images = 10_000  # of each set, for all but fid and classifiers
    evaluate.seeds = 3  # trainings of each classifier, each way
    # 0 keeps to the classifier's own recipe: DPDM's protocol for all but wrn.
    evaluate.epochs = 0
    evaluate.batch_size = 0
    evaluate.learning_rate = 0.0
    evaluate.seed = 0
    # Classifiers trained on the private images by DP-SGD at the run's epsilon and
    # delta, to compare with; 0 epochs for none.
    evaluate.dp_sgd = dp_sgd = ml_collections.ConfigDict()
    dp_sgd.epochs = 10
    dp_sgd.batch_size = 2048
    dp_sgd.learning_rate = 2e-3
    dp_sgd.l2_clip_norm = 1.0

    # --mode=audit: attacks on a finished run, for its owner. Needs jax_privacy.
    config.audit = audit = ml_collections.ConfigDict()
    audit.confidence = 0.95  # that a claim which holds is not contradicted
    audit.canaries = 2000  # of one run, each in it with probability 1/2
    audit.num_steps = 400  # of that run at most; epsilon is accounted for as many
    # Images of noise put among the training images, each with probability 1/2, for the
    # network itself to be trained audit.num_steps steps on; 0 for none.
    audit.image_canaries = 0
    audit.runs = 1000  # tiny runs, half of them with one canary more; 0 for none
    audit.run_steps = 100  # of each of those at most
    # Membership: images of each split at most, and noise draws of each.
    audit.images = 1000
    audit.noise_draws = 16
    audit.seed = 0  # which canaries are in, and the draws for membership; public

    config.report = report = ml_collections.ConfigDict()
    # Write report.html, for the owner of the data, with metrics, curves and training
    # images. False writes report_public.html, which holds nothing of the kind.
    report.private_parts = True
    return config


def parse_variant(variant: str, allowed: Collection[str]) -> dict[str, str]:
    """Reads what stands behind the colon of ``--config=file.py:eps=1``.

    Args:
        variant: "" or "eps=1".
        allowed: the published variants, such as "eps=1".

    Returns:
        {"eps": "1"}, or {} for "".

    Raises:
        ValueError: the variant is not published.
    """
    if not variant:
        return {}
    if variant not in allowed:
        raise ValueError(
            f"the config's variant is {variant!r}; allowed: "
            f"{', '.join(allowed) or 'none'}."
        )
    name, value = variant.split("=")
    return {name: value}
