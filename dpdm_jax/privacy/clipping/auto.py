#: Per-example gradients that engine "auto" holds at once on a device, in bytes.
HELD_BYTES = 2**30


def choose_engine(
    platform: str,
    batch_size: int,
    num_parameters: int,
    microbatch_size: int | None = None,
) -> tuple[str, int | None]:
    """What engine "auto" stands for.

    "vmap" while the batch's gradients fit into ``HELD_BYTES``. Beyond that, CPUs, which
    gain nothing from wide batches, take micro-batches of equal size that fit, or single
    examples; accelerators, which do gain, keep the batch and take "book_keeping". A
    given ``microbatch_size`` is kept, and the rule is applied to a micro-batch.

    Args:
        platform: as ``jax.default_backend()`` names it.
        batch_size: examples in a call, on one device, >= 0.
        num_parameters: scalars that are differentiated by.
        microbatch_size: see ``clipped_grad``.

    Returns:
        The engine and its ``microbatch_size``.
    """
    examples = batch_size if microbatch_size is None else microbatch_size
    fitting = max(1, HELD_BYTES // max(1, 4 * num_parameters))
    if examples > fitting and platform != "cpu":
        return "book_keeping", microbatch_size
    if microbatch_size is None and examples > fitting:
        chunks = -(-examples // fitting)
        return "scan", -(-examples // chunks)
    return ("vmap", None) if microbatch_size is None else ("scan", microbatch_size)
