"""Every field of a config, with its default, unit and meaning.

An experiment's file calls ``get_config`` and overrides a few fields. On the command
line ``--config.train.batch_size=2048`` overrides any of them. The defaults are DPDM's
training setup (arXiv 2210.09929).

A name, such as ``network.name``, chooses among kinds. What a kind reads is a group,
such as ``network.mlp``, and explained by the class beside the kind's code
(``mlp.Settings``); where no chosen kind reads it, it must keep its defaults. The
registries list the kinds with their classes:

    data.source, data.condition   dpdm_jax/data/registry.py
    codec.name                    dpdm_jax/networks/codecs/registry.py
    network.name                  dpdm_jax/networks/registry.py
    diffusion.parameterization    dpdm_jax/diffusion/from_config.py
    diffusion.noise_levels        likewise
    sampler.name, sampler.grid    likewise

They lead to those fields, too, that several kinds read and that are not found below:
the rest of ``data`` and ``network``, ``diffusion.sigma_data``, ``diffusion.views``,
``sampler.sigma_min``, ``sampler.sigma_max`` and ``sampler.clip_denoised``. An unknown
field's error lists those that are allowed in its place.
"""

from collections.abc import Collection

import ml_collections
from ml_collections import config_dict

from dpdm_jax import rooms


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config."""
    config = ml_collections.ConfigDict()

    # Names the default run directory, runs/<name>.
    config.name = "base"
    # Seeds what needs no secrecy: initial weights and samples. All that a private run
    # draws for its steps comes from the operating system's entropy.
    config.seed = 0

    config.data = data = ml_collections.ConfigDict()
    data.source = "tfds"
    # Names public data, such as "ImageNet 32x32", for ordinary training: no noise, no
    # clipping, no guarantee, and a statement that says so. "" for data to be protected.
    data.public = ""
    # What examples say of themselves: labels (data.num_classes), or captions, made
    # tokens as data.captions says. Captions are as private as their images.
    data.condition = "labels"

    # What network and diffusion see of an image: pixels, or an autoencoder's latents.
    config.codec = codec = ml_collections.ConfigDict()
    codec.name = "pixels"

    config.network = network = ml_collections.ConfigDict()
    network.name = "ncsnpp"  # which is DDPM++

    config.diffusion = diffusion = ml_collections.ConfigDict()
    diffusion.parameterization = "edm"
    diffusion.noise_levels = "log_normal"  # of training

    # Weights to begin with: a run directory, a release, or a file (.pt) of
    # guided-diffusion.
    config.initial = initial = ml_collections.ConfigDict()
    initial.weights = ""  # "" for random ones
    # The config of the run that this one begins with: refuses random weights.
    initial.parent = ""
    initial.public = ""  # of a file: names the public data that it was trained on
    # What becomes of a table of classes: reuse | random | zero, where the classes are
    # others | first: class i gets row i of a larger table, and the null label the last.
    initial.label_table = "reuse"
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
    # In its place: the fraction of epsilon that these queries alone spend; 0: not used.
    privacy.moments_share = 0.0
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
    # What of the network is trained: all; attention, cross_attention, resblocks or
    # condition (what embeds it); a range of these, as attention:9-16, counted from 1;
    # lora:RANK (adapters on the matrices of attention, merged into what is released,
    # and condition in full); a pattern of its parameters' paths; several with commas.
    train.trainable = "all"
    train.batch_size = 4096  # nominal B; examples are sampled at rate 1 / ceil(N / B)
    # With data.group: how many of a group's images enter a step that the group enters,
    # at most. Batches are of groups then.
    train.images_per_group = 1
    train.exact_batch_size = False  # sampled at rate B / N in place of that
    train.epochs = 300  # steps are epochs * ceil(N / B)
    train.num_steps = 0  # the number of steps itself; 0 follows epochs
    # Examples in one call of the gradient over all devices; logical batches are cut
    # into these. Speed and memory only.
    train.microbatch_size = 64
    train.engine = "auto"  # per-example gradients: auto | vmap | scan | book_keeping
    # Examples that the engine works on at once on one device; 0 for all of a call,
    # or for what "auto" chooses.
    train.engine_microbatch_size = 0
    # Each device keeps a part of the average and of what the optimizer keeps, and adds
    # the noise of that part. Memory only, where there are several devices.
    train.sharded_state = False
    train.optimizer = "adam"  # adam | sgd
    train.learning_rate = 3e-4  # of the optimizer, behind the warm-up
    # constant | cosine | linear (to 5 % at the last step; an extension stays there)
    train.schedule = "constant"
    train.warmup_steps = 0  # steps of linear warm-up
    train.b1 = 0.9  # of Adam, decay of the mean of gradients
    train.b2 = 0.999  # of Adam, decay of the mean of their squares
    train.adam_eps = 1e-8  # of Adam, added to the root of that mean
    # Of Adam, in shares of the learning rate, of the weights that are trained (AdamW).
    train.weight_decay = 0.0
    # What the optimizer's gradients are measured in: one | clip_norm (divided by C, so
    # that adam_eps means the same for every C).
    train.gradient_unit = "one"
    train.ema_decay = 0.999  # at step n at most (1 + n) / (10 + n)
    # Lengths of two averages more, in shares of the run, such as (0.05, 0.1): any other
    # can then be rebuilt after training (sample.average). They cost memory, no epsilon.
    train.power_averages = ()
    # Stop this process after so many steps of the plan; 0 runs all. Not a new plan.
    train.stop_after_steps = 0

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_steps = 100  # and one at the end
    # Newest checkpoints kept, at least 2 in any case: the last one must be there until
    # the next one is on the disk, and a run goes on without a damaged one.
    checkpoint.keep = 2
    # With train.power_averages: a copy of them is kept for good, for others to be
    # rebuilt from. 0 keeps 40 over the run.
    checkpoint.average_every_steps = 0

    config.log = log = ml_collections.ConfigDict()
    log.every_steps = 10  # a line in metrics.jsonl
    log.snapshot_every_steps = 250  # a picture of samples; 0 for none
    log.snapshot_per_class = 8  # images per class in the picture
    log.tensorboard = True  # events too, where TensorBoard is installed
    # Further places to follow the run in, separated by commas: wandb, mlflow (extras of
    # these names), or MODULE:NAME of a class of your own. They are told what is public:
    # the plan, and epsilon at each step.
    log.writers = ""
    # Those of log.writers whose place is private, as you say: they are told loss,
    # gradient norms and all else that no epsilon covers, too.
    log.private_writers = ""
    log.project = "dpdm_jax"  # what wandb calls a project, mlflow an experiment

    # The papers' training-time sampler: deterministic DDIM.
    config.sampler = sampler = ml_collections.ConfigDict()
    sampler.preset = ""  # a name in config.sampler_presets, which then overrides
    sampler.name = "ddim"
    sampler.num_steps = 50  # grid points; grid ddpm counts its own
    sampler.grid = "edm"
    sampler.guidance = 0.0  # classifier-free guidance w >= 0

    config.sampler_presets = ml_collections.ConfigDict(
        {
            name: {"name": "ddim", "ddim": {"stochastic": noisy}, "num_steps": 50}
            for name, noisy in (("ddim", False), ("ddim_stochastic", True))
        }
    )

    config.sample = sample = ml_collections.ConfigDict()
    sample.num_images = 1000  # in the archive
    sample.batch_size = 100  # images per call; does not change them
    # uniform (random classes), balanced (0, 1, 2, ... in turn), one class as "3" or by
    # its name (data.class_names), or the labels of a .npy file, one per image.
    sample.labels = "uniform"
    # Of a model that reads captions: a text file of prompts, one a line, for the images
    # in turn. Private captions are not protected as prompts.
    sample.prompts = ""
    sample.prompt = ""  # in place of the file: the prompts themselves, one a line
    sample.weights = "ema"  # ema | raw
    # In place of these an average of this length, rebuilt from what the run kept
    # (train.power_averages), 0.01 to 0.25 of the run; 0 for none. To choose it by
    # results on private images costs budget.
    sample.average = 0.0
    sample.step = -1  # which checkpoint; -1 the newest
    sample.rounding = "truncate"  # to uint8: truncate (as the papers) | nearest
    # Files of the images beside the archive, separated by commas: npz (the archive,
    # which is always there), png (a folder a class), parquet (as Hugging Face's data
    # sets; extra parquet), webdataset (tar files).
    sample.formats = "npz"
    sample.png = False  # the same as png among the formats
    sample.name = "samples"  # sub-folder of <workdir>/samples
    sample.seed = 0  # of the images; public

    # --mode=release: what of a run is published, in <workdir>/release.
    config.release = release = ml_collections.ConfigDict()
    release.step = -1  # which checkpoint; -1 the newest. Its averaged weights
    release.average = 0.0  # as sample.average, in place of these
    release.dtype = (
        "float32"  # of the stored weights: float32 | float16 (half the size)
    )
    release.samples = ""  # sub-folder of samples/ to publish too, made with the weights
    # Publish the sampler as a file too, which samples with JAX and NumPy alone.
    release.export = False
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
    # The model card (README.md): what the weights may be used under, by a hub's name of
    # a licence (apache-2.0, cc-by-4.0); "" is said to be unknown.
    release.license = ""
    # The model card: a Markdown file of your own words on the data, whom to ask, how to
    # cite. It is published as it is.
    release.about = ""
    # The file of a private key to sign with (python -m dpdm_jax.release make-key FILE).
    release.signing_key = ""
    # A release to sample from; configs/released.py sets it.
    release.bundle = ""

    config.evaluate = evaluate = ml_collections.ConfigDict()
    # fid, kid, sliced, precision, recall, density, coverage on Inception's features,
    # whose weights are downloaded once; the same with _lenet on a small network trained
    # on the spot, with _features on those given; logreg, mlp, cnn, wrn: accuracy of
    # classifiers; memorisation; alignment: do images show the class that they were
    # asked for by?
    evaluate.metrics = ("fid_lenet", "alignment", "mlp")
    evaluate.inception_weights = ""  # pytorch-fid's file, in place of the download
    # What fid_features, sliced_features and so on look at: a file of jax.export with a
    # function of images, or DINOv2's weights.
    evaluate.features = ""
    evaluate.lenet_steps = 1000  # training steps of that small network
    evaluate.neighbour_images = 10_000  # of each set, for all but fid and classifiers
    # The class of each prompt, in order; () for the label that the training data has
    # beside the same caption.
    evaluate.prompt_classes = ()
    evaluate.seeds = 3  # trainings of each classifier, each way
    # Of each training. 0 keeps to the classifier's own recipe: DPDM's protocol for all
    # but wrn.
    evaluate.epochs = 0
    evaluate.batch_size = 0  # likewise
    evaluate.learning_rate = 0.0  # likewise
    evaluate.seed = 0  # of all that evaluation draws
    # Classifiers trained on the private images by DP-SGD at the run's epsilon and
    # delta, to compare with; 0 epochs for none.
    evaluate.dp_sgd = dp_sgd = ml_collections.ConfigDict()
    dp_sgd.epochs = 10  # of expected batches
    dp_sgd.batch_size = 2048  # expected
    dp_sgd.learning_rate = 2e-3  # of Adam
    dp_sgd.l2_clip_norm = 1.0  # bound on one image's gradient

    # --mode=select: classifiers trained on some of the samples and ranked by their
    # accuracy on others, each trained evaluate.seeds times.
    config.select = select = ml_collections.ConfigDict()
    # Every combination of these. All but the names are fields of the recipe
    # (dpdm_jax/evaluation/recipes.py); () keeps to evaluate's, or the classifier's own.
    select.grid = grid = ml_collections.ConfigDict()
    grid.classifier = ("logreg", "mlp")  # names of classifiers
    grid.learning_rate = (3e-4, 1e-3, 3e-3)  # at first
    grid.epochs = ()  # of each training
    grid.batch_size = ()  # images of a step
    grid.optimizer = ()  # adam | sgd (with momentum)
    grid.schedule = ()  # constant | cosine
    grid.weight_decay = ()  # added to the gradient, times the weights
    grid.label_smoothing = ()  # probability that goes to all classes alike
    grid.augmentation = ()  # True: mirrored at random, and shifted
    # Rank them by real test images, too: for the owner, outside the guarantee.
    select.real_test = False

    # --mode=learning_curve: accuracy on real test images of classifiers, trained as
    # evaluate says on growing numbers of images: for the owner, outside the guarantee.
    config.learning_curve = learning_curve = ml_collections.ConfigDict()
    learning_curve.classifiers = ("mlp",)  # names, as of evaluate.metrics
    learning_curve.num_images = (1000, 5000, 20_000)  # to train on
    learning_curve.selection_images = 1000  # others, which select the epoch
    # Of one training: more images get fewer epochs, but one; 0 for any number.
    learning_curve.max_steps = 0

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
    audit.images = 1000  # of each split at most, for the attack by membership
    audit.noise_draws = 16  # of each of these images
    audit.seed = 0  # which canaries are in, and the draws for membership; public

    config.report = report = ml_collections.ConfigDict()
    # Write report.html, for the owner of the data, with metrics, curves and training
    # images. False writes report_public.html, which holds nothing of the kind.
    report.private_parts = True

    rooms.add_fields(config)
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
